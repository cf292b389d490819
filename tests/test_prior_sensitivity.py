"""A grid of priors in one batch: against quadrature, closed forms, and one prior at a time."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import linear_gaussian
from torch.distributions import Gamma, HalfNormal, LogNormal, MultivariateNormal, Normal, Uniform

from amortized import BayesianRegressor, infer, load
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer.prior_sensitivity import prior_sensitivity
from amortized.plotting import plot_prior_sensitivity
from amortized.priors.regression.linear_model import LinearModelPrior

SAMPLE = 1 + 2 * torch.randn(12, generator=torch.Generator().manual_seed(0)).double()
TWO = GaussianMixture(
    torch.zeros(2), torch.tensor([[3.0, 0.0], [-3.0, 0.5]]), torch.eye(2).expand(2, 2, 2)
)
OWN = {"coefficients": Normal(0.0, 1.0), "noise": LogNormal(0.0, 1.0)}
GRID = {
    "other family": {"noise": Gamma(3.0, 2.0)},
    "in conflict": {"coefficients": Normal(-1.0, 0.3)},
    "both": {"coefficients": Normal(0.0, 5.0), "noise": HalfNormal(2.0)},
    "two peaks": TWO,
}


def posterior_by_quadrature(latent_prior):
    """Of mean and log noise of SAMPLE on a grid: log prior and posterior mass, and evidence."""
    mean, log_noise = torch.linspace(-8, 10, 601).double(), torch.linspace(-3, 4, 501).double()
    m, s = torch.meshgrid(mean, log_noise, indexing="ij")
    if isinstance(latent_prior, GaussianMixture):
        log_prior = latent_prior.to(torch.float64).log_prob(torch.stack([m, s], -1))
    else:
        laws = {**OWN, **latent_prior}
        log_prior = laws["coefficients"].log_prob(m) + laws["noise"].log_prob(s.exp()) + s
    log_joint = log_prior + Normal(m[..., None], s.exp()[..., None]).log_prob(SAMPLE).sum(-1)
    log_cell = ((mean[1] - mean[0]) * (log_noise[1] - log_noise[0])).log()
    evidence = log_joint.flatten().logsumexp(0) + log_cell
    return log_prior, (log_joint - evidence + log_cell).exp(), evidence, {"m": m, "noise": s.exp()}


@pytest.fixture(scope="module")
def exact():
    """Per prior, the base first: moments of mean and noise, log evidence, and the distance."""
    answers = [posterior_by_quadrature(prior) for prior in ({}, *GRID.values())]
    base_log_prior, base_mass, *_ = answers[0]
    rows = []
    for log_prior, mass, evidence, values in answers:
        row = {"evidence": evidence}
        for name, value in values.items():
            row[name] = (mass * value).sum()
            row[f"{name} sd"] = (mass * (value - row[name]).square()).sum().sqrt()
        ratio = log_prior - base_log_prior
        row["distance"] = ((mass - base_mass) * ratio).sum() / 2
        rows.append(row)
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize(("method", "tolerance"), [("auto", 0.08), ("dt", 0.2)])
def test_every_prior_has_its_exact_answer(exact, method, tolerance):
    found = prior_sensitivity(
        LinearModelPrior(0), SAMPLE, latent_priors=GRID, method=method, n_draws=4000
    )
    assert found.labels == ("base", *GRID)
    posterior = found.posterior
    for ours, theirs in (("coefficients", "m"), ("noise", "noise")):
        mean, std = posterior.mean[ours].reshape(-1), posterior.std[ours].reshape(-1)
        sd = exact[f"{theirs} sd"]
        assert ((mean - exact[theirs]) / sd).abs().max() < tolerance
        assert (std / sd).log().abs().max() < 2 * tolerance
    assert found.distance[0] == 0
    assert torch.allclose(found.distance, exact["distance"], rtol=tolerance, atol=0.03)
    if method == "auto":
        assert torch.allclose(posterior.log_evidence, exact["evidence"], atol=0.05)
    else:
        assert posterior.log_evidence is None
    assert len(posterior.diagnostics["inside_training_range"]) == len(GRID) + 1


def plane(x, y=None):
    slopes = pyro.sample("slopes", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ slopes, 0.7).to_event(1), obs=y)


def test_without_a_network_the_answers_are_those_of_a_sampler():
    """Slopes of a linear model of known noise, whose answers are closed forms."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(10, 2))
    y = x @ [1.0, -2.0] + 0.7 * rng.normal(size=10)
    moments = [(np.zeros(2), 4.0 * np.eye(2))]
    moments += [(np.array([1.0, 0.0]), np.diag([0.04, 4.0])), (np.ones(2), np.full((2, 2), 0.9))]
    moments[2][1][[0, 1], [0, 1]] = 1.0
    priors = [
        {"slopes": MultivariateNormal(*map(torch.as_tensor, moments[1]))},
        GaussianMixture.from_moments(*map(torch.as_tensor, moments[2])),
    ]
    found = prior_sensitivity(plane, x, y, latent_priors=priors, n_draws=3000)
    assert found.labels == ("base", "1", "2")
    laws = []
    for i, (mean, covariance) in enumerate(moments):
        mean, covariance, evidence = linear_gaussian(x, y, mean, covariance, 0.49 * np.eye(10))
        laws.append(MultivariateNormal(torch.as_tensor(mean), torch.as_tensor(covariance)))
        off = (found.posterior.mean["slopes"][i] - laws[i].mean) / laws[i].stddev
        assert off.abs().max() < 0.12
        assert torch.allclose(found.posterior.std["slopes"][i], laws[i].stddev, rtol=0.08)
        assert found.posterior.log_evidence[i].item() == pytest.approx(evidence, abs=0.15)
    for i in (1, 2):
        there, back = (
            torch.distributions.kl_divergence(*pair)
            for pair in ((laws[i], laws[0]), (laws[0], laws[i]))
        )
        assert found.distance[i].item() == pytest.approx((there + back).item() / 2, rel=0.1)


def test_the_batch_equals_one_prior_after_the_other():
    model = LinearModelPrior(0)
    options = {"method": "dt", "n_draws": 50}
    n_components = load("dt-normal").config.n_components  # what one prior alone is fitted by
    found = prior_sensitivity(
        model,
        SAMPLE,
        latent_priors=GRID,
        base=GRID["both"],
        n_components=n_components,
        **options,
    )
    for i, prior in enumerate((GRID["both"], *GRID.values())):
        alone = infer(model, SAMPLE, latent_prior=prior, **options).mixture
        together = found.posterior.mixture[i]
        assert torch.allclose(together.mean, alone.mean, atol=1e-4)
        assert torch.allclose(together.covariance_matrix, alone.covariance_matrix, atol=1e-3)
    assert found.distance[3] == 0  # the base once more


def test_an_estimator_asks_for_its_own_data_and_prior():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 1))
    y = 2 * X[:, 0] + 0.5 * rng.normal(size=20)
    estimator = BayesianRegressor(
        LinearModelPrior(1, intercept=False), method="smc", latent_prior=TWO, random_state=0
    ).fit(X[:10], y[:10])
    estimator.partial_fit(X[10:], y[10:])
    found = estimator.prior_sensitivity({"same": TWO, "own": None})
    mean, std = found.posterior.mean["noise"], estimator.posterior_.std["noise"]
    assert (mean[0] - estimator.posterior_.mean["noise"]).abs() < 0.2 * std
    assert found.distance[1] == 0 and found.distance[2] > 0
    assert estimator.latent_prior is TWO


@pytest.fixture(scope="module")
def found():
    return prior_sensitivity(LinearModelPrior(0), SAMPLE, latent_priors=GRID, n_draws=500)


def test_table_has_a_line_for_each_prior(found):
    head, *lines = found.table().splitlines()
    assert head.split() == ["prior", "distance", "log", "evidence", *found.names]
    for label, line in zip(found.labels, lines, strict=True):
        assert line.strip().startswith(label)


def test_figure_shows_the_quantiles_and_the_distances(found):
    figure = plot_prior_sensitivity(found, {"noise": "spread"}, units={"noise": "cm"}, level=0.5)
    panel, distances = figure.axes
    assert panel.get_xlabel() == "spread (cm)" and "nats" in distances.get_xlabel()
    assert panel.get_ylabel()
    assert [label.get_text() for label in panel.get_yticklabels()] == list(found.labels)
    low, median, high = found.quantiles([0.25, 0.5, 0.75])["noise"].T
    np.testing.assert_allclose(panel.lines[-1].get_xdata(), median)
    segments = np.array(panel.collections[0].get_segments())  # (n_priors, ends, (x, y))
    np.testing.assert_allclose(segments[:, :, 0], np.stack([low, high], 1))
    np.testing.assert_allclose(distances.lines[-1].get_xdata(), found.distance)
    assert panel.get_ylim()[0] > panel.get_ylim()[1]  # the base on top
    figure.canvas.draw()


MODEL = LinearModelPrior(0)
WRONG = {
    "one": (lambda: prior_sensitivity(MODEL, SAMPLE, latent_priors=OWN), "to be several"),
    "mixture": (lambda: prior_sensitivity(MODEL, SAMPLE, latent_priors=TWO), "to be several"),
    "none": (lambda: prior_sensitivity(MODEL, SAMPLE, latent_priors=[]), "to be several"),
    "batch": (
        lambda: prior_sensitivity(MODEL, SAMPLE.expand(2, -1), latent_priors=GRID),
        "one dataset",
    ),
    "support": (
        lambda: prior_sensitivity(MODEL, SAMPLE, latent_priors=[{"noise": Uniform(0.0, 9.0)}]),
        "with the support",
    ),
    "exact": (
        lambda: prior_sensitivity(MODEL, SAMPLE, latent_priors=GRID, method="exact"),
        "latent prior by distributions",
    ),
    "name": (
        lambda: plot_prior_sensitivity(
            prior_sensitivity(MODEL, SAMPLE, latent_priors=[None], n_draws=20), ["slope"]
        ),
        "latents among",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()


def scale(x, y=None):
    sd = pyro.sample("sd", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(0.0, sd), obs=y)


def test_priors_in_conflict_with_the_data_are_weighted_in_their_tails():
    """A mixture of normals over log sd has a heavier right tail than an exponential prior."""
    y = torch.tensor([1.0, 2.0, 3.0, 2.5], dtype=torch.float64)
    laws = {"base": dist.HalfNormal(1.0), "short": dist.Exponential(10.0)}
    laws |= {"long": dist.HalfCauchy(1.0), "in conflict": dist.InverseGamma(3.0, 2.0)}
    given = {name: {"sd": law} for name, law in laws.items() if name != "base"}
    found = prior_sensitivity(scale, y, latent_priors=given, method="smc", n_draws=4000)
    grid = torch.linspace(-6.0, 6.0, 20001, dtype=torch.float64)
    likelihood = Normal(0.0, grid.exp()[:, None]).log_prob(y).sum(-1)
    masses, priors = [], []
    for i, law in enumerate(laws.values()):
        priors.append(law.log_prob(grid.exp()) + grid)
        evidence = (priors[-1] + likelihood).logsumexp(0)
        masses.append((priors[-1] + likelihood - evidence).exp())
        log_evidence = evidence + (grid[1] - grid[0]).log()
        mean = (masses[-1] * grid.exp()).sum()
        sd = (masses[-1] * (grid.exp() - mean).square()).sum().sqrt()
        assert abs(found.posterior.mean["sd"][i] - mean) < 0.15 * sd
        assert abs((found.posterior.std["sd"][i] / sd).log()) < 0.15
        error = found.posterior.log_evidence_error[i]
        assert abs(found.posterior.log_evidence[i] - log_evidence) < 4 * error + 0.02
        ratio = priors[i] - priors[0]
        exact = ((masses[i] - masses[0]) * ratio).sum() / 2
        assert found.distance[i].item() == pytest.approx(exact.item(), rel=0.15, abs=0.03)
