"""The problems of the Distribution Transformers: references, sketches and simulators agree."""

import math

import oracles
import pytest
import torch

from amortized.latent_priors import LatentTasks, Metaprior
from amortized.latent_priors.catalogue import TASKS, named_tasks
from amortized.priors.density import ProgramDensity
from amortized.priors.epidemic import EpidemicPrior, infected_share
from amortized.priors.likelihood_sketch import gauss_newton_sketch
from amortized.priors.linear_model import LinearModelPrior
from amortized.priors.logistic_model import LogisticModelPrior
from amortized.priors.normal_mean import NormalMeanPrior
from amortized.priors.normal_variance import NormalVariancePrior
from amortized.priors.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior
from amortized.priors.program import ProgramPrior
from amortized.sampling.grid import grid_posterior
from amortized.sampling.latent_reference import reference_log_prob

ROWS = {"dt-mean": 1, "dt-variance": 1, "dt-oup": 25, "dt-sir": 10, "dt-filter": 2}


@pytest.mark.parametrize("name", TASKS)
def test_tasks_are_finite_and_pure(name):
    tasks, n = named_tasks(name), ROWS.get(name, 7)
    a, b = (tasks.sample(6, n, seed=3) for _ in range(2))
    assert torch.equal(a.observations["data"], b.observations["data"])
    assert a.u.isfinite().all()
    assert a.masks["data"].any()
    if a.sketch is None:
        return
    assert all(part.isfinite().all() for part in a.sketch)
    rows = a.observations["data"]
    nothing = torch.zeros_like(a.masks["data"])
    unseen = tasks.task(a.latent_prior, a.u, rows[..., :-1], rows[..., -1], nothing)
    assert not unseen.sketch.matrix.any()


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
    sketch = prior.sketch(x, y, torch.ones(1, 200, dtype=torch.bool))
    estimate = torch.linalg.solve(sketch.matrix, sketch.value.unsqueeze(-1)).squeeze(-1)
    expected = torch.linalg.lstsq(design[0], y[0].unsqueeze(-1)).solution[:, 0]
    assert torch.allclose(estimate[0, :-1], expected, atol=1e-6)
    assert estimate[0, -1].item() == pytest.approx(math.log(0.5), abs=0.2)
    assert sketch.matrix[0, -1, -1].item() == pytest.approx(math.sqrt(2 * 200), rel=0.05)


def test_gauss_newton_finds_the_maximum():
    truth = torch.tensor([[0.5, -1.0]], dtype=torch.float64)

    def predict(u):
        return torch.cat([u.exp(), u[:, :1] * u[:, 1:]], -1) * 100

    sketch = gauss_newton_sketch(predict, predict(truth), torch.zeros(1, 2), prior_sd=100.0)
    estimate = torch.linalg.solve(sketch.matrix, sketch.value.unsqueeze(-1)).squeeze(-1)
    assert torch.allclose(estimate, truth, atol=1e-3)


@pytest.mark.parametrize("prior", [OrnsteinUhlenbeckPrior(), EpidemicPrior()])
def test_series_have_the_density_of_their_draws(prior):
    """E of the score is zero under the truth: draws and density are of one law."""
    n = prior.ordered
    tasks = LatentTasks(prior)
    u = torch.tensor([[0.3, -0.5]]).expand(1000, 2)
    torch.manual_seed(0)
    _, y = tasks.simulator(u, torch.zeros(1000, n, 0))
    density = ProgramDensity(prior.model, torch.zeros(1000, n, 0).double(), y.double())
    step = 1e-3 * torch.eye(2, dtype=torch.float64)
    for shift in step:
        up, down = (density.log_likelihood((u.double() + s * shift).unsqueeze(1)) for s in (1, -1))
        score = (up - down).squeeze(1) / 2e-3
        assert abs(score.mean()) < 5 * score.std() / math.sqrt(1000)


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
    "nothing": (lambda: LinearModelPrior(0, intercept=False), "a feature or an intercept"),
    "scale": (
        lambda: LatentTasks(NormalMeanPrior(), Metaprior(), scale=torch.zeros(1)),
        "scale > 0",
    ),
    "wrong prior": (lambda: LatentTasks(NormalMeanPrior(), wrong_prior=1.0), "wrong_prior"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
