"""Gaussian-process priors against scikit-learn, the joint Gaussian, and their own program."""

import math

import numpy as np
import pytest
import torch
from pyro.distributions import LogNormal, Uniform
from scipy import stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as peer

from amortized.priors import GaussianProcessPrior, named_prior
from amortized.priors.regression.gaussian_process import standardised_inputs, uniform_inputs
from amortized.priors.task import TaskBatch
from amortized.program.density import ProgramDensity

FIXED = {
    name: lambda name=name, **more: GaussianProcessPrior(
        name,
        lengthscale=0.8,
        outputscale=1.4,
        noise=0.3,
        period=1.5 if name == "periodic" else None,
        **more,
    )
    for name in ("rbf", "matern12", "matern32", "matern52", "periodic")
}
each_fixed = pytest.mark.parametrize("make", FIXED.values(), ids=FIXED)
LATENT = {
    "all": lambda: GaussianProcessPrior(
        "rbf",
        lengthscale=LogNormal(0.0, 0.5),
        outputscale=LogNormal(0.0, 0.3),
        noise=LogNormal(-1.5, 0.5),
        n_features=2,
    ),
    "lengthscale": lambda: GaussianProcessPrior(
        "matern52", lengthscale=Uniform(0.5, 2.0), outputscale=1.2, noise=0.1, n_features=3
    ),
    "periodic": lambda: GaussianProcessPrior(
        "periodic",
        lengthscale=LogNormal(0.0, 0.5),
        outputscale=1.0,
        noise=0.2,
        period=Uniform(1.0, 2.0),
        n_features=2,
    ),
    "gp-1d": lambda: named_prior("gp-1d"),
    "gp": lambda: named_prior("gp"),
}
each_latent = pytest.mark.parametrize("make", LATENT.values(), ids=LATENT)


def double(batch):
    parts = (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
    latents = {name: value.double() for name, value in (batch.latents or {}).items()}
    return TaskBatch(*(part.double() for part in parts), latents)


def hyperparameters(prior, batch):
    """Every hyperparameter of each task: the latent that it drew, or the fixed number."""
    shape = {"lengthscale": (batch.n_features,), "period": (batch.n_features,)}
    return {
        name: batch.latents[name]
        if name in batch.latents
        else torch.full((batch.n_tasks, *shape.get(name, ())), float(value)).double()
        for name, value in prior.hyperparameters.items()
    }


@each_fixed
def test_answers_have_the_stated_covariance(make):
    n = 20_000
    prior = make(
        inputs=lambda n_tasks, n_rows, f: (
            torch.linspace(-1, 1, n_rows * f).reshape(1, n_rows, f).expand(n_tasks, -1, -1)
        ),
        n_features=2,
    )
    batch = prior.sample(n, 4, 2, seed=0)
    x = torch.cat([batch.x_context, batch.x_query], 1)[:1].double()
    y = torch.cat([batch.y_context, batch.y_query], 1).double()
    covariance = prior.noisy_covariance(x, prior._fixed(x))[0]
    variance = covariance.diagonal()
    # Standard errors of a mean and of a covariance of normal numbers.
    assert (y.mean(0).abs() < 4.5 * (variance / n).sqrt()).all()
    error = ((variance[:, None] * variance + covariance.square()) / n).sqrt()
    assert ((y.T @ y / n - covariance).abs() < 4.5 * error).all()
    assert stats.kstest((y[:, 0] / variance[0].sqrt()).numpy(), "norm").pvalue > 1e-3


PEERS = {
    "rbf": peer.RBF(0.8),
    "matern12": peer.Matern(0.8, nu=0.5),
    "matern32": peer.Matern(0.8, nu=1.5),
    "matern52": peer.Matern(0.8, nu=2.5),
    "periodic": peer.ExpSineSquared(0.8, 1.5),
}


@each_fixed
@pytest.mark.parametrize("n_context", [1, 12])
def test_predictive_and_evidence_are_scikit_learns(make, n_context):
    prior = make()
    batch = double(prior.sample(3, n_context, 5, seed=0))
    predictive = prior.posterior_predictive(batch)
    evidence = prior.log_evidence(batch.x_context, batch.y_context)
    for i in range(3):
        regressor = GaussianProcessRegressor(
            1.4**2 * PEERS[prior.kernel], alpha=0.3**2, optimizer=None
        ).fit(batch.x_context[i].numpy(), batch.y_context[i].numpy())
        mean, std = regressor.predict(batch.x_query[i].numpy(), return_std=True)
        np.testing.assert_allclose(predictive.mean[i], mean, rtol=1e-8, atol=1e-10)
        noisy = np.sqrt(std**2 + 0.3**2)
        np.testing.assert_allclose(predictive.stddev[i], noisy, rtol=1e-8)
        np.testing.assert_allclose(evidence[i], regressor.log_marginal_likelihood_value_)


@each_fixed
def test_predictive_conditions_the_joint_gaussian(make):
    prior = make(n_features=3)
    batch = double(prior.sample(4, 7, 2, seed=1))
    x = torch.cat([batch.x_context, batch.x_query], 1)
    y = torch.cat([batch.y_context, batch.y_query], 1)
    predictive = prior.posterior_predictive(batch)
    precision = prior.noisy_covariance(x, prior._fixed(x)).inverse()
    # Of the precision matrix: the last row's conditional on all others is 1 / precision.
    one = TaskBatch(x[:, :-1], y[:, :-1], x[:, -1:], y[:, -1:])
    torch.testing.assert_close(
        prior.posterior_predictive(one).variance[:, 0], 1 / precision[:, -1, -1]
    )
    # The chain rule of probability, over the whole query.
    first = TaskBatch(x[:, :7], y[:, :7], x[:, 7:8], y[:, 7:8])
    ratio = prior.log_evidence(x, y) - prior.log_evidence(x[:, :7], y[:, :7])
    chained = prior.posterior_predictive(first).log_prob(y[:, 7:8])[:, 0]
    chained = chained + prior.posterior_predictive(one).log_prob(y[:, -1:])[:, 0]
    torch.testing.assert_close(chained, ratio)
    torch.testing.assert_close(
        predictive.log_prob(batch.y_query)[:, 0],
        prior.posterior_predictive(first).log_prob(y[:, 7:8])[:, 0],
    )


@each_fixed
def test_no_context_gives_back_the_prior(make):
    prior = make()
    batch = double(prior.sample(2, 0, 3, seed=0))
    predictive = prior.posterior_predictive(batch)
    assert (predictive.mean == 0).all()
    variance = torch.full((2, 3), 1.4**2 + 0.3**2).double()
    torch.testing.assert_close(predictive.variance, variance, rtol=1e-6, atol=0)
    assert (prior.log_evidence(batch.x_context, batch.y_context) == 0).all()


@each_latent
def test_program_has_the_density_of_the_closed_form(make):
    prior = make()
    batch = double(prior.sample(3, 6, 1, seed=2))
    density = ProgramDensity(prior.model, batch.x_context, batch.y_context)
    u = density.unconstrain({name: value[:, None] for name, value in batch.latents.items()})
    evidence = prior.log_evidence(batch.x_context, batch.y_context, hyperparameters(prior, batch))
    torch.testing.assert_close(density.log_likelihood(u)[:, 0], evidence)
    constrained = density.constrain(u)
    for name, value in batch.latents.items():
        torch.testing.assert_close(constrained[name][:, 0], value)


@each_latent
def test_latents_follow_their_priors(make):
    prior = make()
    batch = prior.sample(4000, 1, 1, seed=0)
    for name, value in batch.latents.items():
        given = prior.hyperparameters[name]
        level = given.cdf(value.reshape(4000, -1)[:, 0])
        assert stats.kstest(level.numpy(), "uniform").pvalue > 1e-3
        if value.ndim > 1 and value.shape[1] > 1:  # each feature draws its own
            assert abs(np.corrcoef(value[:, 0], value[:, 1])[0, 1]) < 0.07


@each_latent
def test_predictive_given_the_latents_is_calibrated(make):
    prior = make()
    batch = double(prior.sample(1500, 8, 1, seed=3))
    level = prior.posterior_predictive(batch, hyperparameters(prior, batch)).cdf(batch.y_query)
    assert stats.kstest(level[:, 0].numpy(), "uniform").pvalue > 1e-3


def test_lengthscales_grow_with_the_root_of_the_dimension():
    plain, scaled = (
        GaussianProcessPrior(
            lengthscale=0.5, outputscale=1.0, noise=0.1, n_features=4, scale_by_dimension=scale
        )
        for scale in (False, True)
    )
    x = torch.randn(1, 5, 4)
    values = plain._fixed(x)
    torch.testing.assert_close(
        scaled.covariance(x, x, values), plain.covariance(x / 2, x / 2, values)
    )


def test_numbers_of_features_span_the_range():
    prior = FIXED["rbf"](n_features=(2, 4))
    seen = [prior.sample(1, 1, 1, seed=seed).n_features for seed in range(60)]
    assert set(seen) == {2, 3, 4}


def test_inputs_are_as_stated():
    x = standardised_inputs(400, 50, 3)
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.02
    # Half of the columns are uniform, and so end at the root of three.
    ends = x.abs().amax(1)
    assert 0.4 < (ends <= math.sqrt(3)).float().mean() < 0.62
    x = uniform_inputs(-2.0, 3.0)(400, 50, 3)
    assert x.min() >= -2 and x.max() <= 3
    assert stats.kstest((x.flatten().numpy() + 2) / 5, "uniform").pvalue > 1e-3


def test_a_singular_covariance_has_no_density_and_stops_nothing():
    """NaN for that dataset alone, so that a sampler can reject and go on."""
    prior = GaussianProcessPrior(lengthscale=1.0, outputscale=LogNormal(0.0, 1.0), noise=0.05)
    x = torch.zeros(2, 30, 1, dtype=torch.float32)
    density = ProgramDensity(prior.model, x, torch.ones(2, 30))
    u = density.unconstrain({"outputscale": torch.tensor([[0.2], [9e4]])})
    found = density.log_likelihood(u)[:, 0]
    assert found[0].isfinite() and not found[1].isfinite()


def latent():
    return named_prior("gp-1d")


SIZES = {"lengthscale": 1.0, "outputscale": 1.0, "noise": 0.1}
WRONG = {
    "unknown kernel": (lambda: GaussianProcessPrior("rbff", **SIZES), "one of .*; got 'rbff'"),
    "no period": (lambda: GaussianProcessPrior("periodic", **SIZES), "got kernel 'periodic' and"),
    "idle period": (lambda: GaussianProcessPrior("rbf", period=1.0, **SIZES), "period 1.0"),
    "no features": (
        lambda: GaussianProcessPrior(n_features=0, **SIZES),
        "n_features to be an integer >= 1; got 0",
    ),
    "range turned round": (
        lambda: GaussianProcessPrior(n_features=(3, 2), **SIZES),
        r"most features; got \(3, 2\)",
    ),
    "negative noise": (
        lambda: GaussianProcessPrior(**(SIZES | {"noise": -0.1})),
        "noise > 0; got -0.1",
    ),
    "no lengthscale": (
        lambda: GaussianProcessPrior(**(SIZES | {"lengthscale": 0.0})),
        "lengthscale > 0; got 0.0",
    ),
    "latent and not given": (
        lambda: latent().posterior_predictive(latent().sample(1, 2, 1, seed=0)),
        "Expected fixed hyperparameters",
    ),
    "evidence of latent ones": (
        lambda: latent().log_evidence(torch.zeros(1, 2, 1), torch.zeros(1, 2)),
        "Expected fixed hyperparameters",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("kernel", ["matern12", "matern32", "matern52"])
def test_the_filter_gives_the_dense_answers(kernel):
    """At irregular times, in any order, some of them equal, in double precision."""
    size = {"lengthscale": 0.7, "outputscale": 1.3, "noise": 0.2}
    dense = GaussianProcessPrior(kernel, **size, solver="dense")
    linear = GaussianProcessPrior(kernel, **size, solver="state-space")
    batch = double(dense.sample(2, 60, 25, seed=0))
    batch.x_context[:, 5] = batch.x_context[:, 6]
    batch.x_query[:, 3] = batch.x_context[:, 2]
    one, other = dense.posterior_predictive(batch), linear.posterior_predictive(batch)
    torch.testing.assert_close(other.mean, one.mean, atol=1e-8, rtol=0)
    torch.testing.assert_close(other.stddev, one.stddev, atol=1e-8, rtol=0)
    rows = batch.x_context, batch.y_context
    torch.testing.assert_close(
        linear.log_evidence(*rows), dense.log_evidence(*rows), atol=1e-8, rtol=1e-10
    )


def test_the_filter_is_taken_where_it_is_faster():
    prior = GaussianProcessPrior("matern32", lengthscale=0.5, outputscale=1.0, noise=0.1)
    assert not prior._is_linear(torch.zeros(1, 200, 1)) and prior._is_linear(torch.zeros(1, 201, 1))
    assert not prior._is_linear(torch.zeros(1, 500, 2))
    smooth = GaussianProcessPrior("rbf", lengthscale=0.5, outputscale=1.0, noise=0.1)
    assert not smooth._is_linear(torch.zeros(1, 500, 1))
    for wrong, message in ((("rbf", "state-space"), "one feature and a kernel"),
                           (("matern12", "sparse"), "Expected solver among")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            GaussianProcessPrior(
                wrong[0], lengthscale=1.0, outputscale=1.0, noise=0.1, solver=wrong[1]
            )


@pytest.mark.parametrize("solver", ["dense", "state-space"])
@pytest.mark.parametrize(("unit", "noise"), [(1e-6, 0.1), (1e6, 0.1), (1.0, 1e-4)])
def test_answers_are_right_in_all_units_and_for_little_noise(solver, unit, noise):
    """Against scikit-learn; what keeps a covariance positive definite must not count as noise."""
    prior = GaussianProcessPrior(
        "matern32", lengthscale=0.8, outputscale=1.4 * unit, noise=noise * unit, solver=solver
    )
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.rand(1, 14, 1, generator=generator, dtype=torch.float64)
    y = unit * torch.randn(1, 10, generator=generator, dtype=torch.float64)
    batch = TaskBatch(x[:, :10], y, x[:, 8:], y[:, :1].expand(1, 6))
    regressor = GaussianProcessRegressor(
        1.4**2 * PEERS["matern32"], alpha=noise**2, optimizer=None
    ).fit(x[0, :10].numpy(), y[0].numpy() / unit)
    mean, std = regressor.predict(x[0, 8:].numpy(), return_std=True)
    predictive = prior.posterior_predictive(batch)
    np.testing.assert_allclose(predictive.mean[0] / unit, mean, rtol=1e-3, atol=1e-6)
    noisy = np.sqrt(std**2 + noise**2)
    np.testing.assert_allclose(predictive.stddev[0] / unit, noisy, rtol=1e-3)
    evidence = prior.log_evidence(x[:, :10], y)[0] + 10 * np.log(unit)
    np.testing.assert_allclose(evidence, regressor.log_marginal_likelihood_value_, rtol=1e-5)
