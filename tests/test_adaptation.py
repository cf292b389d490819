"""Adaptation: it keeps what is right, lowers the divergence and survives impossible densities."""

import math

import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.infer.streaming import drift, update
from amortized.latent_priors.problems import named_tasks
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.sampling.steps.adaptation import adapt


def mixture(seed, dim, k=3, batch=4):
    torch.manual_seed(seed)
    means = 2 * torch.randn(batch, k, dim, dtype=torch.float64)
    factor = 0.3 * torch.randn(batch, k, dim, dim, dtype=torch.float64).tril(-1)
    factor = factor + torch.diag_embed(0.5 + torch.rand(batch, k, dim, dtype=torch.float64))
    return GaussianMixture(torch.randn(batch, k, dtype=torch.float64), means, factor)


def density_of(target):
    return lambda u: 5.0 + target.log_prob(u.transpose(0, 1)).T


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_a_mixture_that_is_right_stays(dim):
    right = mixture(0, dim)
    adapted = adapt(right, density_of(right))
    for name in ("log_weights", "means", "scale_tril"):
        assert torch.allclose(getattr(adapted, name), getattr(right, name), atol=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 6])
def test_every_step_lowers_the_divergence(dim):
    target = mixture(0, dim)
    wrong = GaussianMixture(
        target.log_weights.flip(-1), target.means + 0.3, 1.3 * target.scale_tril
    )
    torch.manual_seed(1)
    steps = [adapt(wrong, density_of(target), n) for n in (0, 1, 2, 8)]
    gaps = torch.stack([target.kl(q, 20_000).mean() for q in steps])
    assert (gaps.diff() < 0).all()
    assert gaps[-1] < 0.05 * gaps[0]


def test_of_a_normal_the_moments_are_met_at_once():
    target = mixture(2, 3, k=1)
    wide = GaussianMixture.from_moments(target.mean + 0.2, 1.5 * target.covariance_matrix)
    adapted = adapt(wide, density_of(target), 1)
    assert torch.allclose(adapted.mean, target.mean, atol=0.03)
    assert torch.allclose(adapted.stddev, target.stddev, rtol=0.05)


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_a_dataset_without_a_density_keeps_its_mixture(value):
    start = mixture(0, 2)

    def log_density(u):
        found = density_of(start)(u)
        found[1] = value
        return found

    adapted = adapt(start, log_density)
    assert torch.equal(adapted.log_weights[1], start.log_weights[1])
    assert torch.allclose(adapted.means, start.means)


def test_components_whose_points_see_one_place_only_keep_their_shape():
    start = GaussianMixture.from_moments(torch.zeros(1, 2), torch.eye(2).expand(1, 2, 2))
    adapted = adapt(start, lambda u: -5e5 * (u - 3.0).square().sum(-1), 1)
    assert torch.equal(adapted.scale_tril, start.scale_tril)
    assert adapted.log_weights.isfinite().all()


def test_fifty_single_updates_stay_with_the_posterior_of_all_rows():
    """By the released network of normal samples; by its answers alone they drift by nats."""
    tasks = named_tasks("dt-normal")
    # Of other seeds a first row may have a posterior with a neck, for which SMC takes a minute.
    batch = tasks.sample(4, 50, seed=5)
    x, y = batch.density.x.double(), batch.density.y.double()
    posterior = batch.latent_prior
    for i in range(50):
        posterior = update(tasks.prior, posterior, x[:, i : i + 1], y[:, i : i + 1])
    off = drift(tasks.prior, x, y, posterior, latent_prior=batch.latent_prior)
    assert off.median() < 0.05
    assert off.max() < 0.3
    assert posterior.diagnostics["divergence"].max() < 0.02


def test_a_part_of_the_prior_that_only_the_network_sees_is_kept():
    """A wide component whose share of one row's posterior is a needle, which its points miss."""
    prior = GaussianMixture(
        torch.tensor([0.5, 0.5]),
        torch.tensor([[-1.3, -5.4], [-0.1, -0.8]]),
        torch.diag_embed(torch.tensor([[0.8, 0.3], [0.1, 0.15]])),
    )
    torch.manual_seed(0)
    y = -0.014 + math.exp(-5.8) * torch.randn(12, dtype=torch.float64)
    x, posterior = torch.zeros(12, 0, dtype=torch.float64), prior
    for i in range(12):
        posterior = update(LinearModelPrior(0), posterior, x[i : i + 1], y[i : i + 1])
    # Twelve rows exclude the other component, so this is the posterior: one that SMC finds.
    needle = GaussianMixture.from_moments(prior.means[0], prior.scale_tril[0].square())
    reference = infer(LinearModelPrior(0), y, method="smc", latent_prior=needle, n_draws=4000)
    off = posterior.mean["noise"] - reference.mean["noise"]
    assert off.abs() < 0.5 * reference.std["noise"]
    assert 0.8 < posterior.std["noise"] / reference.std["noise"] < 1.25


def test_one_update_of_many_rows_is_the_posterior():
    torch.manual_seed(0)
    y = 2.0 * torch.randn(3, 30, dtype=torch.float64) + 1.0
    prior = LinearModelPrior(0)
    reference = infer(prior, y, method="smc", n_draws=4000, seed=0)
    updated = update(prior, None, y.new_zeros(3, 30, 0), y, n_draws=2000)
    for name in ("coefficients", "noise"):
        sd = reference.std[name]
        assert ((updated.mean[name] - reference.mean[name]).abs() < 0.1 * sd).all()
        assert torch.allclose(updated.std[name], sd, rtol=0.1)
