"""One-pass answers and the cascade: with a good, a bad and no network, against exact posteriors."""

import dataclasses
import importlib
import math

import pytest
import torch
from torch.distributions import (
    AffineTransform,
    Categorical,
    Gamma,
    HalfNormal,
    LogNormal,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    Uniform,
)

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.infer.inputs.problem import make_problem
from amortized.latent_priors import LatentTasks, fit_mixture
from amortized.latent_priors.problems import PROBLEMS, embedding_of
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.pretrained import save
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.logistic_model import LogisticModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.priors.regression.normal_variance import NormalVariancePrior
from amortized.program.likelihood_summary import LikelihoodSummary

SMALL = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16)


class SketchedMean(NormalMeanPrior):
    """With its exact likelihood as sketch, so that an untrained network is right already."""

    def likelihood_summary(self, x, y, mask):
        return LikelihoodSummary(*self.linear_observation(y, mask))


def network_of(program, bad=0.0, **changes):
    """An untrained network, which starts from the sketch; a bad one has noise in its heads."""
    network = DistributionTransformer.new(
        LatentTasks(program), dataclasses.replace(SMALL, **changes), seed=0
    )
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(3)
        for head in (network.head, network.sketch_head):
            head.weight += bad * torch.randn_like(head.weight)
    return network.eval()


def normal_samples(n_datasets=6, n=12):
    torch.manual_seed(0)
    return 2.0 * torch.randn(n_datasets, n) + 1.0


@pytest.fixture(scope="module")
def means():
    """Data of normal means, the networks, and the closed form under N(0, 2^2)."""
    prior = SketchedMean()
    torch.manual_seed(1)
    y = 1.5 + torch.randn(5, 4, dtype=torch.float64)
    own = GaussianMixture.from_moments(torch.zeros(1), 4 * torch.eye(1))
    return prior, y, *posterior_of_means(prior, y, own)


def evidence_of_means(y, told):
    """Log evidence of samples whose mean has a mixture prior: a mixture of multivariate normals."""
    ones = torch.ones(y.shape[1], y.shape[1], dtype=y.dtype)
    terms = [
        log_weight
        + torch.distributions.MultivariateNormal(
            mean.expand(y.shape[1]).to(y), torch.eye(len(ones)).to(y) + tril[0, 0] ** 2 * ones
        ).log_prob(y)
        for log_weight, mean, tril in zip(
            told.log_weights, told.means, told.scale_tril, strict=True
        )
    ]
    return torch.stack(terms).logsumexp(0)


def posterior_of_means(prior, y, told):
    """Closed form and evidence under a mixture prior."""
    value, matrix = prior.linear_observation(y)
    exact, _ = told.to(torch.float64).expand((len(y),)).update(value, matrix)
    return exact, evidence_of_means(y, told.to(torch.float64))


def assert_close_to(posterior, exact, log_evidence, sigmas=0.15):
    off = (posterior.mean["mean"] - exact.mean[:, 0]) / exact.stddev[:, 0]
    assert off.abs().max() < sigmas
    assert torch.allclose(posterior.std["mean"], exact.stddev[:, 0], rtol=0.12)
    assert torch.allclose(posterior.log_evidence, log_evidence, atol=0.2)


def test_one_pass_gives_draws_and_the_density_of_one_mixture(means):
    prior, y, _, _ = means
    posterior = infer(prior, y, method="dt", network=network_of(prior), n_draws=4000)
    mixture = posterior.mixture
    assert isinstance(mixture, GaussianMixture)
    assert torch.allclose(posterior.mean["mean"], mixture.mean[:, 0], atol=0.1)
    at = torch.linspace(-2, 3, 7, dtype=torch.float64).unsqueeze(-1).expand(7, 5)
    expected = mixture.log_prob(at.unsqueeze(-1))  # the mean's own units are those of u
    assert torch.allclose(posterior.log_prob({"mean": at}), expected, atol=1e-6)
    assert posterior.diagnostics["method"] == "dt"
    assert posterior.diagnostics["inside_training_range"].all()


def test_density_of_a_positive_latent_integrates_to_one():
    prior = LinearModelPrior(0)
    posterior = infer(prior, normal_samples()[0], method="dt", network=network_of(prior))
    grid = {
        "coefficients": torch.linspace(-6, 8, 400).double(),
        "noise": torch.linspace(0.01, 12, 400).double(),
    }
    a, b = torch.meshgrid(*grid.values(), indexing="ij")
    log_prob = posterior.log_prob({"coefficients": a.reshape(-1, 1), "noise": b.reshape(-1)})
    cell = math.prod(float(v[1] - v[0]) for v in grid.values())
    assert (log_prob.exp().sum() * cell).item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("bad", [0.0, 0.5, 8.0], ids=["good", "poor", "useless"])
def test_auto_meets_the_exact_posterior_whatever_the_network(means, bad):
    prior, y, exact, log_evidence = means
    posterior = infer(prior, y, network=network_of(prior, bad), n_draws=2000)
    assert_close_to(posterior, exact, log_evidence)
    stages, k_hat = posterior.diagnostics["stage"], posterior.diagnostics["k_hat"]
    assert len(stages) == 5
    for stage, k in zip(stages, k_hat.tolist(), strict=True):
        assert stage == "importance" if bad == 0 else stage in ("importance", "adapted", "smc")
        assert k < 0.7 or stage != "importance"
    assert bad < 8 or "smc" in stages
    assert bad == 0 or "adapted" in stages
    one_pass = infer(prior, y, method="dt", network=network_of(prior, bad)).mixture
    assert (exact.kl(one_pass).max() > 0.05) == (bad > 0)


def test_a_prior_changed_at_run_time_is_met_exactly(means):
    """Three standard deviations away, by name and as a mixture."""
    prior, y, _, _ = means
    told = GaussianMixture.from_moments(torch.tensor([7.5]), 0.25 * torch.eye(1))
    exact, log_evidence = posterior_of_means(prior, y, told)
    network = network_of(prior)
    for given in (told, {"mean": Normal(7.5, 0.5)}):
        posterior = infer(prior, y, network=network, latent_prior=given, n_draws=2000)
        assert_close_to(posterior, exact, log_evidence)


BY_NAME = {
    "gamma": {"noise": Gamma(3.0, 2.0)},
    "log-normal": {"noise": LogNormal(0.5, 0.3)},
    "one for every element": {"coefficients": Normal(1.0, 0.3)},
    "one an element": {"coefficients": Normal(torch.tensor([1.0, -2.0]), torch.tensor([0.3, 4.0]))},
    "joint": {
        "coefficients": MultivariateNormal(torch.ones(2), torch.tensor([[1.0, 0.5], [0.5, 2.0]])),
        "noise": HalfNormal(2.0),
    },
    "logistic": {
        "coefficients": TransformedDistribution(
            Uniform(torch.zeros(2), 1.0),
            [SigmoidTransform().inv, AffineTransform(torch.ones(2), 2.0)],
        )
    },
    "mixture": {
        "noise": MixtureSameFamily(
            Categorical(torch.tensor([0.3, 0.7])),
            Gamma(torch.tensor([1.0, 9.0]), torch.tensor([1.0, 3.0])),
        )
    },
}


@pytest.mark.parametrize("latent_prior", BY_NAME.values(), ids=BY_NAME)
def test_prior_by_name_is_the_one_in_the_density(latent_prior):
    """Single-precision distributions with double-precision data, for latents of any shape."""
    model, x, y = LinearModelPrior(1), torch.ones(4, 1).double(), torch.arange(4.0).double()
    told = make_problem(model, x, y, latent_prior).density()
    own = make_problem(model, x, y, None).density()
    u = torch.randn(1, 5, 3, dtype=torch.float64)
    change = 0.0
    for name, distribution in latent_prior.items():
        value = own.constrain(u)[name][0]
        replaced = {"coefficients": Normal(0.0, 1.0), "noise": LogNormal(0.0, 1.0)}[name]
        for sign, law in ((1, distribution), (-1, replaced)):
            change = change + sign * law.log_prob(value).reshape(5, -1).sum(-1)
    assert told.y.dtype == told.log_prior(u).dtype == torch.float64
    assert torch.allclose(told.log_prior(u) - own.log_prior(u), change, atol=1e-5)
    assert torch.equal(told.log_likelihood(u), own.log_likelihood(u))


def test_a_mixture_prior_has_a_mixture_posterior_and_samplers_take_it(means):
    prior, y, _, _ = means
    told = GaussianMixture(
        torch.zeros(2), torch.tensor([[-4.0], [5.0]]), torch.full((2, 1, 1), 1.0)
    )
    exact, log_evidence = posterior_of_means(prior, y, told)
    for options in ({"network": network_of(prior)}, {"method": "smc"}):
        posterior = infer(prior, y, latent_prior=told, n_draws=2000, **options)
        assert_close_to(posterior, exact, log_evidence)
    with pytest.raises(ValueError, match="Expected a latent prior by distributions"):
        infer(prior, y, latent_prior=told, method="exact")


def test_each_dataset_may_have_a_prior_of_its_own(means):
    prior, y, _, _ = means
    centres = torch.arange(5.0).unsqueeze(-1)
    told = GaussianMixture.from_moments(centres, torch.full((5, 1, 1), 0.01))
    posterior = infer(prior, y, latent_prior=told, method="dt", network=network_of(prior))
    assert torch.allclose(posterior.mean["mean"].float(), centres[:, 0], atol=0.15)


def test_far_priors_and_data_are_flagged():
    prior = NormalMeanPrior()
    network, y = network_of(prior), normal_samples(2, 3)

    def inside(y, **options):
        posterior = infer(prior, y, method="dt", network=network, **options)
        return posterior.diagnostics["inside_training_range"].tolist()

    assert inside(y) == [True, True]
    y[1, 0] = 1e4
    assert inside(y) == [True, False]
    assert inside(y, latent_prior={"mean": Normal(1e5, 1.0)}) == [False, False]
    assert inside(y, latent_prior={"mean": Normal(0.0, 1e-6)}) == [False, False]


def test_named_networks_serve_models_with_fewer_coefficients(tmp_path):
    """Two of the five coefficients: the others are told to be zero times anything."""
    torch.manual_seed(0)
    x = torch.randn(3, 40, 2, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -2.0]).double() + 0.5 * torch.randn(3, 40).double()
    network = network_of(PROBLEMS["dt-linear"].program(), prior="dt-linear", reads_rows=False)
    path = save(network, tmp_path / "linear")
    posterior = infer(LinearModelPrior(2, intercept=False), x, y, method="dt", network=path)
    least_squares = torch.linalg.lstsq(x, y.unsqueeze(-1)).solution.squeeze(-1)
    assert torch.allclose(posterior.mean["coefficients"], least_squares, atol=0.1)
    assert torch.allclose(posterior.mean["noise"], torch.tensor(0.5).double(), atol=0.2)
    with_intercept = infer(LinearModelPrior(2), x, y, network=path)
    assert torch.allclose(with_intercept.mean["coefficients"][:, :2], least_squares, atol=0.1)
    assert set(with_intercept.diagnostics["stage"]) <= {"importance", "adapted", "smc"}


def test_places():
    assert embedding_of(LinearModelPrior(0)).name == "dt-normal"
    assert embedding_of(LinearModelPrior(3)).coordinates == (0, 1, 2, 3, 5)
    assert embedding_of(LogisticModelPrior(4)).name == "dt-logistic"
    assert embedding_of(LogisticModelPrior(7)) is None
    assert embedding_of(NormalVariancePrior(9.0, 9.0)).name == "dt-variance"
    assert embedding_of(lambda x, y=None: None) is None


def test_without_a_network_auto_is_exact_or_smc():
    posterior = infer(NormalMeanPrior(), normal_samples(2))
    assert posterior.diagnostics["stage"] == ["exact", "exact"]
    posterior = infer(
        NormalMeanPrior(noise=2.0),
        normal_samples(1)[0],
        latent_prior=fit_mixture(Normal(0.0, 1.0)),
        n_draws=100,
    )
    assert posterior.diagnostics["stage"] == "smc"


def test_posteriors_and_draws_are_priors_too():
    prior, y = SketchedMean(), normal_samples(3, 4)
    network = network_of(prior)
    first = infer(prior, y, method="dt", network=network)
    again = infer(prior, y, method="dt", network=network, latent_prior=first)
    assert (again.std["mean"] < first.std["mean"]).all()
    sampled = infer(prior, y, method="smc")
    from_draws = infer(prior, y, method="dt", network=network, latent_prior=sampled)
    assert torch.allclose(from_draws.mean["mean"], again.mean["mean"], atol=0.1)
    one = {"mean": torch.randn(500).double() + 4.0}
    by_name = infer(prior, y, method="dt", network=network, latent_prior=one)
    assert (by_name.mean["mean"] > again.mean["mean"]).all()


NETWORK = network_of(NormalMeanPrior())
LINEAR = network_of(LinearModelPrior(2))
Y = normal_samples(2, 3)


SAMPLED = {}  # the chains of both cases are the same


@pytest.mark.parametrize("chains_agree", [True, False])
def test_a_dataset_in_doubt_goes_on_to_chains(chains_agree, monkeypatch):
    """The first of three datasets; its particles are moved, and in doubt."""
    cascade = importlib.import_module("amortized.infer.cascade")
    sampled, chained, first = cascade.smc, cascade.nuts, torch.tensor([1.0, 0.0, 0.0])

    def doubtful(density, n_draws, **options):
        draws = sampled(density, n_draws, **options)
        off = draws.diagnostics["mean_off"] + first
        return draws._replace(
            u=draws.u + 0.5 * first[:, None, None],
            diagnostics=draws.diagnostics | {"mean_off": off},
        )

    def chains(density, n_draws, **options):
        if not SAMPLED:
            SAMPLED["chains"] = chained(density, n_draws, **options)
        draws = SAMPLED["chains"]
        assert len(draws.u) == 1
        return draws if chains_agree else draws._replace(u=draws.u * 3)

    monkeypatch.setattr(cascade, "smc", doubtful)
    monkeypatch.setattr(cascade, "nuts", chains)
    model, y = NormalMeanPrior(), normal_samples(3)
    density = make_problem(model, torch.zeros(3, 12, 0), y, None).density()
    draws, by_nuts = cascade._temper(density, 400, {})
    assert by_nuts.tolist() == [chains_agree, False, False]
    assert bool(draws.diagnostics["doubt"][0]) != chains_agree
    exact = infer(model, y, method="exact")
    off = (draws.u[..., 0].mean(1) - exact.mean["mean"]) / exact.std["mean"]
    assert off[1:].abs().max() < 0.25 and (off[0].abs() < 0.25) == chains_agree


WRONG = {
    "none": (lambda: infer(NormalMeanPrior(3.0), Y, method="dt"), "pretrained network"),
    "no name": (lambda: infer(NormalMeanPrior(), Y, method="dt", network="moon"), "saved network"),
    "latents": (
        lambda: infer(SketchedMean(), Y, method="dt", network=LINEAR),
        "network for 1 latents",
    ),
    "support": (
        lambda: infer(
            NormalVariancePrior(),
            Y,
            method="dt",
            network=network_of(NormalVariancePrior()),
            latent_prior={"variance": Uniform(0.0, 2.0)},
        ),
        "with the support",
    ),
    "prior's size": (
        lambda: infer(
            NormalMeanPrior(),
            Y,
            method="dt",
            network=NETWORK,
            latent_prior=GaussianMixture.from_moments(torch.zeros(2), torch.eye(2)),
        ),
        "latent prior over the 1",
    ),
    "what": (
        lambda: infer(NormalMeanPrior(), Y, method="dt", network=NETWORK, latent_prior="flat"),
        "latent_prior to be",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(TypeError, match="DistributionTransformer"):
        infer(NormalMeanPrior(), Y, method="dt", network=torch.nn.Linear(1, 1))
