"""The problems of the Distribution Transformers: references, sketches and simulators agree."""

import math
from functools import lru_cache

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.latent_priors import Hyperprior, LatentTasks
from amortized.latent_priors.problems import PROBLEMS, embedding_of, named_tasks
from amortized.latent_priors.replaced_density import LatentPriorDensity
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.regression.gaussian_process_lengthscale import LengthscalePrior
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.logistic_model import LogisticModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.priors.regression.normal_variance import NormalVariancePrior
from amortized.priors.simulators.epidemic import EpidemicPrior, infected_share
from amortized.priors.simulators.nonlinear_observation import NonlinearObservationPrior
from amortized.priors.simulators.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior
from amortized.priors.simulators.quantum_parameter import QuantumParameterPrior, excitation
from amortized.priors.task import TaskBatch
from amortized.program.density import ProgramDensity
from amortized.program.likelihood_summary import gauss_newton_summary
from amortized.sampling.exact.latent_reference import reference_log_prob
from amortized.sampling.exact.quadrature import grid_posterior

ONE_LATENT = ["dt-variance", "dt-quantum", "dt-nonlinear", "dt-gp-hyper"]


def rows_of(name, n):
    """About n rows, as many as a dataset of the problem may have."""
    low, high = PROBLEMS[name].n_context
    return min(max(n, low), high)


@lru_cache
def tasks_of(name):
    return named_tasks(name)


@pytest.mark.parametrize("name", PROBLEMS)
def test_tasks_are_finite_and_pure(name):
    tasks, n = tasks_of(name), rows_of(name, 7)
    a, b = (tasks.sample(6, n, seed=3) for _ in range(2))
    assert torch.equal(a.observations["data"], b.observations["data"])
    assert a.u.isfinite().all()
    assert a.masks["data"].any()
    if a.summary is None:
        return
    assert all(part.isfinite().all() for part in a.summary)
    rows = a.observations["data"]
    nothing = torch.zeros_like(a.masks["data"])
    unseen = tasks.task(a.latent_prior, a.u, rows[..., :-1], rows[..., -1], nothing)
    assert not unseen.summary.matrix.any()


@pytest.mark.parametrize("name", PROBLEMS)
def test_sketch_lies_around_the_true_latents(name):
    """In their own coordinates: its made-up observations err by about one standard deviation."""
    tasks = tasks_of(name)
    batch = tasks.sample(300, rows_of(name, 30), seed=5)
    if batch.summary is None:
        return
    value, matrix = batch.summary
    seen = matrix.abs().sum(-1) > 0
    error = ((matrix @ batch.u.unsqueeze(-1)).squeeze(-1) - value).abs()[seen]
    assert 0.1 < error.median() < 1.2


def test_reference_of_a_normal_mean_is_the_closed_form():
    tasks = LatentTasks(NormalMeanPrior())
    batch = tasks.sample(5, 3, seed=0)
    value, matrix = tasks.prior.linear_observation(batch.observations["data"][..., 0].double())
    exact, _ = batch.latent_prior.to(torch.float64).update(value, matrix)
    expected = exact.log_prob(batch.u.double())
    assert torch.allclose(reference_log_prob(tasks, batch), expected, atol=1e-8)


def test_two_references_of_a_normal_sample_agree():
    tasks = LatentTasks(LinearModelPrior(0))
    batch = tasks.sample(2, 8, seed=0)
    closed = reference_log_prob(tasks, batch, n_points=100)
    tasks.prior = ProgramPrior(tasks.prior.model)  # no longer known to be linear
    assert torch.allclose(reference_log_prob(tasks, batch, n_points=60), closed, atol=1e-3)


def test_grid_gives_the_evidence_of_an_inverse_gamma():
    y = torch.tensor([[0.5, -1.2, 2.0]], dtype=torch.float64)
    density = ProgramDensity(NormalVariancePrior(2.0, 3.0).model, torch.zeros(1, 3, 0).double(), y)
    answer = grid_posterior(density.log_density, torch.zeros(1, 1), torch.ones(1, 1))
    _, log_evidence = oracles.inverse_gamma_variance(y[0].numpy(), 2.0, 3.0)
    assert answer.log_evidence.item() == pytest.approx(log_evidence, abs=1e-5)  # its tail


@pytest.mark.parametrize("features", [0, 2])
def test_least_squares_sketch_with_known_noise(features):
    """With many rows the sketch's estimate is numpy's, and its spread the textbook's."""
    prior = LinearModelPrior(features)
    x = torch.randn(1, 200, features, dtype=torch.float64)
    design = prior.design(x)
    y = design.sum(-1) + 0.5 * torch.randn(1, 200, dtype=torch.float64)
    sketch = prior.likelihood_summary(x, y, torch.ones(1, 200, dtype=torch.bool))
    estimate = torch.linalg.solve(sketch.matrix, sketch.value.unsqueeze(-1)).squeeze(-1)
    expected = torch.linalg.lstsq(design[0], y[0].unsqueeze(-1)).solution[:, 0]
    assert torch.allclose(estimate[0, :-1], expected, atol=1e-6)
    assert estimate[0, -1].item() == pytest.approx(math.log(0.5), abs=0.2)
    assert sketch.matrix[0, -1, -1].item() == pytest.approx(math.sqrt(2 * 200), rel=0.05)


def test_gauss_newton_finds_the_maximum():
    truth = torch.tensor([[0.5, -1.0]], dtype=torch.float64)

    def predict(u):
        return torch.cat([u.exp(), u[:, :1] * u[:, 1:]], -1) * 100

    sketch = gauss_newton_summary(predict, predict(truth), torch.zeros(1, 2), prior_sd=100.0)
    estimate = torch.linalg.solve(sketch.matrix, sketch.value.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(estimate, truth, atol=1e-3)


@pytest.mark.parametrize("name", ONE_LATENT)
def test_reference_is_the_plain_sum(name):
    """A fine grid over the whole prior, neither moved nor narrowed; narrow modes and all."""
    tasks = tasks_of(name)
    batch = tasks.sample(3, rows_of(name, 6), seed=1)
    rows, prior = batch.observations["data"].double(), batch.latent_prior.to(torch.float64)
    density = ProgramDensity(tasks.prior.model, rows[..., :-1], rows[..., -1])
    reach = 9 * prior.scale_tril[..., 0, 0].amax(-1, keepdim=True)
    low, high = prior.means[..., 0].amin(-1, True) - reach, prior.means[..., 0].amax(-1, True)
    u = low + (high + reach - low) * torch.linspace(0, 1, 20_001, dtype=torch.float64)
    log_joint = prior.log_prob(u.T.unsqueeze(-1)).T + density.log_likelihood(u.unsqueeze(-1))
    log_evidence = log_joint.logsumexp(-1) + (u[:, 1] - u[:, 0]).log()
    truth = batch.u.double()
    log_density = prior.log_prob(truth) + density.log_likelihood(truth.unsqueeze(1))[:, 0]
    expected = log_density - log_evidence
    assert torch.allclose(reference_log_prob(tasks, batch), expected, atol=2e-4)


@pytest.mark.parametrize(
    "prior",
    [
        OrnsteinUhlenbeckPrior(),
        EpidemicPrior(),
        QuantumParameterPrior(),
        NonlinearObservationPrior(),
        LengthscalePrior(),
    ],
)
def test_data_have_the_density_of_their_draws(prior):
    """E of the score is zero under the truth: draws and density are of one law."""
    tasks, n = LatentTasks(prior), getattr(prior, "ordered", 6)
    u = torch.tensor([[0.3, -0.5]])[:, : tasks.dim].expand(1000, -1)
    torch.manual_seed(0)
    x = prior._inputs(1000, n)
    _, y = tasks.simulator(u, x)
    density = ProgramDensity(prior.model, x.double(), y.double())
    step = 1e-3 * torch.eye(tasks.dim, dtype=torch.float64)
    for shift in step:
        up, down = (density.log_likelihood((u.double() + s * shift).unsqueeze(1)) for s in (1, -1))
        score = (up - down).squeeze(1) / 2e-3
        assert abs(score.mean()) < 5 * score.std() / math.sqrt(1000)


@pytest.mark.parametrize("delta", [0.0, 0.2, 0.55, 1.0])
def test_excitation_is_the_mean_over_states_and_times(delta):
    """Against exp(-itH) by the Hamiltonian's own eigenvectors, states and times drawn."""
    rng, n = np.random.default_rng(0), 40_000
    values, vectors = np.linalg.eigh(np.array([[1 - delta, delta], [delta, delta - 1]]))
    means = [(1, 0)] * 5 + [(0, 1)] * 2 + [(1, 1)] * 3
    times = [1, 2, 3, 4, 5, 1, 2, 1, 2, 3]
    expected = excitation(torch.tensor(delta, dtype=torch.float64)).numpy()
    for mean, time, probability in zip(means, times, expected, strict=True):
        start = np.array(mean) + 0.1 * rng.standard_normal((n, 2))
        start /= np.linalg.norm(start, axis=-1, keepdims=True)
        phase = np.exp(-1j * values * (time + 0.05 * rng.standard_normal((n, 1))))
        drawn = np.abs((phase * (start @ vectors)) @ vectors.T)[:, 1] ** 2
        assert abs(drawn.mean() - probability) < 4.5 * drawn.std() / math.sqrt(n) + 1e-9


def test_nonlinear_density_is_even_and_scipys():
    y = torch.tensor([[3.0, -0.1]], dtype=torch.float64)
    density = ProgramDensity(NonlinearObservationPrior().model, torch.zeros(1, 2, 0).double(), y)
    u = torch.tensor([0.0, 0.4, -1.7, 6.0], dtype=torch.float64)
    got = density.log_likelihood(u[None, :, None])[0]
    assert torch.equal(got, density.log_likelihood(-u[None, :, None])[0])
    square, sine = stats.norm(u**2, math.sqrt(10)), stats.norm(np.sinc(3 * u), 0.1)
    assert np.allclose(got, square.logpdf(3.0) + sine.logpdf(-0.1))


def lengthscale_likelihood(x, y, log_lengthscales):
    """Log density of one dataset's answers at each log lengthscale, by scipy."""
    squared = (x - x.T) ** 2
    variance = (1e-3) * np.eye(len(x))
    covariances = [np.exp(-squared / (2 * np.exp(2 * u))) + variance for u in log_lengthscales]
    return np.array([stats.multivariate_normal(cov=c).logpdf(y) for c in covariances])


def test_sketch_of_a_lengthscale_has_the_moments_of_its_likelihood():
    prior = LengthscalePrior()
    batch = prior.sample(4, 9, 0, seed=2)
    mask = (torch.arange(9) < 7).expand(4, -1)
    spoilt = batch.y_context.where(mask, 1e3)  # no masked row may count
    sketch = prior.likelihood_summary(batch.x_context, spoilt, mask)
    u = np.linspace(-6, 7, 400)
    wide = stats.norm(0.4, 1.75)
    for i in range(4):
        x, y = batch.x_context[i, :7].double().numpy(), batch.y_context[i, :7].double().numpy()
        log_weights = lengthscale_likelihood(x, y, u) + wide.logpdf(u)
        weights = np.exp(log_weights - log_weights.max())
        weights /= weights.sum()
        mean = weights @ u
        deviation = math.sqrt(weights @ (u - mean) ** 2)
        row, value = sketch.matrix[i, 0, 0].item(), sketch.value[i, 0].item()
        precision = row**2 + 1 / 1.75**2
        assert precision**-0.5 == pytest.approx(deviation, rel=0.15)
        centre = (row * value + 0.4 / 1.75**2) / precision
        assert centre == pytest.approx(mean, abs=0.15 * deviation)


@pytest.mark.parametrize("method", ["auto", "dt"])
def test_joint_posterior_of_lengthscale_and_answer(method):
    """The predictive is the average of exact conditionals over the lengthscale's posterior.

    Of an untrained network "dt" has the sketch's normal, and "auto" its weights.
    """
    prior = LengthscalePrior()
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16)
    network = DistributionTransformer.new(LatentTasks(prior), size).eval()
    batch = prior.sample(1, 6, 3, seed=4)
    x, y = batch.x_context[0].double(), batch.y_context[0].double()
    posterior = infer(prior, x, y, method=method, network=network, n_draws=2000)
    asked, answers = batch.x_query[0].double(), batch.y_query[0].double()
    u = np.linspace(-5, 8, 300)
    own = stats.invgamma(1.5, scale=1.5).logpdf(np.exp(u)) + u
    log_weights = lengthscale_likelihood(x.numpy(), y.numpy(), u) + own
    weights = torch.as_tensor(np.exp(log_weights - log_weights.max()))
    values = {"lengthscale": torch.as_tensor(np.exp(u))[:, None], "outputscale": torch.ones(300)}
    values["noise"] = torch.full((300,), 1e-3**0.5)
    task = TaskBatch(*(part.expand(300, *part.shape) for part in (x, y, asked, answers)))
    each = prior.posterior_predictive(task, {k: v.double() for k, v in values.items()})
    expected = (weights / weights.sum()) @ each.log_prob(answers).exp()
    predictive = posterior.predictive(asked)
    # 2000 draws of positive terms, and what a normal of log lengthscale is off.
    tolerance = {"auto": 0.07, "dt": 0.3}[method]
    assert torch.allclose(predictive.log_prob(answers).exp(), expected, rtol=tolerance)
    if method == "auto":
        assert posterior.diagnostics["stage"] == "importance"
        evidence = np.log(np.exp(log_weights).sum() * (u[1] - u[0]))
        assert posterior.log_evidence.item() == pytest.approx(evidence, abs=0.05)


def test_told_mean_and_scale_leave_a_gaussian_process_exact():
    """The predictive experiment: c + s f(x) + noise with c and s told has nothing to infer."""
    centre, scale = 0.3, 1.05**0.5
    prior = GaussianProcessPrior(lengthscale=0.5, outputscale=scale, noise=0.1, n_features=5)
    batch = prior.sample(2, 30, 4, seed=0)

    def told(x, y=None):
        covariance = prior.noisy_covariance(x[None], prior._fixed(x[None]))[0]
        law = dist.MultivariateNormal(x.new_full(x.shape[:1], centre), covariance)
        return pyro.sample("y", law, obs=y)

    y = batch.y_context + centre
    posterior, known = infer(told, batch.x_context, y), infer(prior, batch.x_context, y - centre)
    assert posterior.diagnostics["method"] == "exact"
    assert torch.allclose(posterior.log_evidence, known.log_evidence)
    ours, oracle = posterior.predictive(batch.x_query), prior.posterior_predictive(batch)
    assert torch.allclose(ours.mean, oracle.mean.double() + centre, atol=1e-5)
    assert torch.allclose(ours.stddev, oracle.stddev.double(), atol=1e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_program_embeds_in_its_problem(name):
    embedding = embedding_of(PROBLEMS[name].program())
    assert embedding.name == name
    assert embedding.coordinates == tuple(range(tasks_of(name).dim))


def test_a_gaussian_process_embeds_by_its_likelihood():
    known = {"outputscale": 1.0, "noise": 1e-3**0.5}
    flat = GaussianProcessPrior(lengthscale=dist.Uniform(0.1, 9.0), **known)
    assert embedding_of(flat).name == "dt-gp-hyper"
    assert embedding_of(LengthscalePrior(3.0, 1.0)).name == "dt-gp-hyper"
    for other in ({"noise": 0.1}, {"outputscale": dist.LogNormal(0.0, 1.0)}, {"n_features": 2}):
        prior = GaussianProcessPrior(lengthscale=dist.LogNormal(0.0, 1.0), **(known | other))
        assert embedding_of(prior) is None


def test_an_epidemic_without_contacts_dies_out():
    share = infected_share(torch.tensor(0.01), torch.tensor(0.25), 10)
    assert share[0].item() == pytest.approx(1e-6)
    assert share[-1] < 1e-12


LOGISTIC = LatentTasks(LogisticModelPrior(3))
WRONG = {
    "name": (lambda: named_tasks("dt-moon"), "tasks among"),
    "three latents": (
        lambda: grid_posterior(lambda u: u.sum(-1), torch.zeros(1, 3), torch.ones(1, 3)),
        "one or two latents",
    ),
    "no closed form": (
        lambda: reference_log_prob(LOGISTIC, LOGISTIC.sample(2, 5, seed=0)),
        "one or two latents",
    ),
    "noise": (lambda: NormalMeanPrior(noise=0.0), "noise > 0"),
    "rate": (lambda: NormalVariancePrior(rate=-1.0), "rate > 0"),
    "hyperprior": (lambda: LengthscalePrior(concentration=0.0), "concentration > 0"),
    "concentrations": (lambda: QuantumParameterPrior(2.0, -1.0), "concentration0 > 0"),
    "spread": (lambda: NonlinearObservationPrior(0.0), "spread > 0"),
    "measurements": (
        lambda: QuantumParameterPrior().sample(2, 9, 0, seed=0),
        "10 measurements; got 9",
    ),
    "readings": (lambda: NonlinearObservationPrior().sample(2, 3, 0, seed=0), "2 readings; got 3"),
    "nothing": (lambda: LinearModelPrior(0, intercept=False), "a feature or an intercept"),
    "scale": (
        lambda: LatentTasks(NormalMeanPrior(), Hyperprior(), scale=torch.zeros(1)),
        "scale > 0",
    ),
    "wrong prior": (lambda: LatentTasks(NormalMeanPrior(), wrong_prior=1.0), "wrong_prior"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()


def test_smc_finds_the_component_that_explains_the_data():
    """Under way from the prior a wide component wins first, and the right one may be lost."""
    means = torch.tensor([[0.5, -2.0], [1.0, -4.3], [1.3, 5.6], [-0.1, -3.8]])
    sds = torch.tensor([[1.6, 0.4], [0.2, 0.5], [1.3, 0.2], [0.3, 0.4]])
    weights = torch.tensor([[0.4, 0.3, 0.1, 0.2]])
    told = GaussianMixture(weights.log(), means[None], torch.diag_embed(sds)[None])
    tasks, u = LatentTasks(LinearModelPrior(0)), torch.tensor([[5.87, -3.3]])
    noise = torch.randn(1, 10, generator=torch.Generator().manual_seed(0))
    batch = tasks.task(told, u, torch.zeros(1, 10, 0), u[:, :1] + u[:, 1:].exp() * noise)
    x, y = torch.zeros(1, 10, 0, dtype=torch.float64), batch.observations["data"][..., 0].double()
    density = LatentPriorDensity(ProgramDensity(tasks.prior.model, x, y), told)
    log_joint = density.log_density(u.double()[:, None])[:, 0]
    evidence = log_joint - reference_log_prob(tasks, batch)
    found = infer(tasks.prior, x, y, method="smc", latent_prior=told)
    assert found.log_evidence.item() == pytest.approx(evidence.item(), abs=0.2)
