"""The grid of hyperparameters against importance sampling, and against itself with more nodes."""

import math

import pytest
import torch
from pyro.distributions import LogNormal, Uniform
from scipy import stats

from amortized.priors import GaussianProcessPrior, named_prior
from amortized.priors.task import TaskBatch
from amortized.sampling.exact.hyperposterior_grid import HyperposteriorGrid

MADE = {
    "gp-1d": lambda: named_prior("gp-1d"),
    "noise alone": lambda: GaussianProcessPrior(
        "matern32", lengthscale=0.8, outputscale=1.0, noise=LogNormal(-1.5, 0.5)
    ),
    "periodic": lambda: GaussianProcessPrior(
        "periodic",
        lengthscale=1.0,
        outputscale=Uniform(0.5, 2.0),
        noise=0.2,
        period=Uniform(1.0, 2.0),
    ),
    "three latents": lambda: GaussianProcessPrior(
        "matern52",
        lengthscale=LogNormal(0.0, 0.5),
        outputscale=LogNormal(0.0, 0.3),
        noise=LogNormal(-1.5, 0.5),
    ),
}
each_prior = pytest.mark.parametrize("make", MADE.values(), ids=MADE)


def nodes_of(prior):
    n_latents = sum(hasattr(h, "log_prob") for h in prior.hyperparameters.values())
    return {1: 100, 2: 40, 3: 16}[n_latents]


def importance_sampling(prior, batch, n=20_000):
    """Log evidence, posterior means and predictive mean of the first task, by weighted draws."""
    drawn = prior.sample(n, 1, 0, seed=99).latents
    hyperparameters = {
        name: (drawn[name] if name in drawn else torch.full((n, 1), float(value)))
        .double()
        .reshape((n, 1) if name in ("lengthscale", "period") else (n,))
        for name, value in prior.hyperparameters.items()
    }
    parts = (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
    task = TaskBatch(*(part[:1].double().expand(n, *part.shape[1:]) for part in parts))
    log_weights = prior.log_evidence(task.x_context, task.y_context, hyperparameters)
    weights = log_weights.softmax(0)
    evidence = log_weights.logsumexp(0) - math.log(n)
    means = {name: weights @ value.double().flatten() for name, value in drawn.items()}
    predictive = prior.posterior_predictive(task, hyperparameters)
    ess = 1 / weights.square().sum()
    return evidence, means, weights @ predictive.mean, weights @ predictive.cdf(task.y_query), ess


@each_prior
def test_agrees_with_weighted_draws_from_the_prior(make):
    prior = make()
    batch = prior.sample(1, 6, 4, seed=3)
    evidence, means, mean, level, ess = importance_sampling(prior, batch)
    grid = HyperposteriorGrid(prior, batch, nodes_of(prior))
    error = 4 / math.sqrt(ess)  # four standard errors, of what varies by 1
    assert ess > 500
    torch.testing.assert_close(grid.log_evidence[0], evidence, rtol=0, atol=error)
    for name, found in grid.mean().items():
        torch.testing.assert_close(found[0], means[name], rtol=0.5 * error, atol=0)
    predictive = grid.predictive(batch)
    torch.testing.assert_close(predictive.mean[0], mean, rtol=0, atol=error)
    torch.testing.assert_close(predictive.cdf(batch.y_query.double())[0], level, rtol=0, atol=error)


@each_prior
def test_converges_as_the_nodes_double(make):
    """The error of a midpoint rule falls at least as one over the number of nodes."""
    prior = make()
    batch = prior.sample(2, 8, 5, seed=4)
    n = nodes_of(prior)
    found = []
    for n_nodes in (n // 4, n // 2, n):
        grid = HyperposteriorGrid(prior, batch, n_nodes)
        log_prob = grid.predictive(batch).log_prob(batch.y_query.double())
        found.append(torch.cat([grid.log_evidence, log_prob.flatten()]))
    coarse, fine = (found[0] - found[2]).abs().max(), (found[1] - found[2]).abs().max()
    assert fine < 0.06 and fine < 0.75 * coarse


@each_prior
def test_no_context_gives_back_the_prior(make):
    prior = make()
    batch = prior.sample(1, 0, 2, seed=0)
    grid = HyperposteriorGrid(prior, batch, nodes_of(prior))
    torch.testing.assert_close(grid.log_evidence, torch.zeros(1).double(), rtol=0, atol=1e-12)
    drawn = prior.sample(20_000, 0, 1, seed=1)
    torch.testing.assert_close(
        grid.predictive(batch).variance[0, 0].float(), drawn.y_query.var(), rtol=0.06, atol=0
    )
    assert torch.equal(grid.predictive(batch).mean, torch.zeros(1, 2).double())


def test_predictive_is_calibrated_and_never_surer_than_the_truth():
    prior = named_prior("gp-1d")
    batch = prior.sample(120, 8, 3, seed=7)
    y = batch.y_query.double()
    predictive = HyperposteriorGrid(prior, batch, 14).predictive(batch)
    assert stats.kstest(predictive.cdf(y)[:, 0].numpy(), "uniform").pvalue > 1e-3
    # Knowing the latents can only help, on average.
    known = {name: value.double() for name, value in batch.latents.items()}
    known["noise"] = torch.full((120,), 0.02, dtype=torch.float64)
    parts = (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
    exact = prior.posterior_predictive(TaskBatch(*(p.double() for p in parts)), known)
    assert (exact.log_prob(y) - predictive.log_prob(y)).mean() > 0


WRONG = {
    "two features": lambda: GaussianProcessPrior(
        lengthscale=LogNormal(0.0, 1.0), outputscale=1.0, noise=0.1, n_features=2
    ),
    "no latents": lambda: GaussianProcessPrior(lengthscale=1.0, outputscale=1.0, noise=0.1),
}


@pytest.mark.parametrize("make", WRONG.values(), ids=WRONG)
def test_wrong_priors_are_refused(make):
    prior = make()
    with pytest.raises(ValueError, match="one feature and one to three latent hyperparameters"):
        HyperposteriorGrid(prior, prior.sample(1, 3, 2, seed=0))
