"""Kernels of wide networks against wide networks; scaled processes against closed forms."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.func import grad

from amortized import infer
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.regression.network_kernels import NETWORK_KERNELS
from amortized.priors.regression.scaled_gaussian_process import ScaledGaussianProcessPrior
from amortized.priors.task import TaskBatch

ACTIVATIONS = {"relu": torch.relu, "erf": torch.erf}
each_network = pytest.mark.parametrize("name", NETWORK_KERNELS)
LENGTHSCALE = torch.tensor([0.7, 1.5], dtype=torch.float64)


@each_network
def test_one_layer_is_the_expectation_over_weights(name):
    """By quadrature: f(x) and f(z) are jointly normal."""
    x, z = torch.randn(2, 1, 2).double()
    covariance = 1 + (torch.cat([x, z]) / LENGTHSCALE) @ (torch.cat([x, z]) / LENGTHSCALE).T
    nodes = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    weights = (-nodes.square() / 2).softmax(0)
    a, b = torch.meshgrid(nodes, nodes, indexing="ij")
    factor = torch.linalg.cholesky(covariance)
    activation = ACTIVATIONS[name]
    f, g = activation(factor[0, 0] * a), activation(factor[1, 0] * a + factor[1, 1] * b)
    expected = 0.3 + 1.7 * (f * g * weights[:, None] * weights).sum()
    found = NETWORK_KERNELS[name](x, z, LENGTHSCALE, 1, 1.7, 0.3)[0, 0]
    assert (found - expected).abs() < 1e-4


@each_network
def test_wide_networks_have_this_covariance(name):
    width, n_networks, depth = 200, 2000, 2
    x = torch.randn(4, 2).double()
    f = (x / LENGTHSCALE) @ torch.randn(n_networks, 2, width).double()
    f = f + torch.randn(n_networks, 1, width).double()
    variance = 2.0 if name == "relu" else 1.0
    for n_out in (width, 1):
        weights = torch.randn(n_networks, width, n_out).double()
        f = ACTIVATIONS[name](f) @ weights * math.sqrt(variance / width)
    f = f.squeeze(-1)
    products = f.unsqueeze(-1) * f.unsqueeze(-2)
    error = products.std(0) / math.sqrt(n_networks)
    expected = NETWORK_KERNELS[name](x, x, LENGTHSCALE, depth)
    # Beside the sampling error, a width of 200 is not infinite.
    assert ((products.mean(0) - expected).abs() < 4.5 * error + 3 / width).all()


@each_network
@pytest.mark.parametrize("depth", [1, 3])
def test_is_a_covariance_with_gradients(name, depth):
    x = torch.randn(30, 2).double()
    x[3] = x[1]
    kernel = NETWORK_KERNELS[name]
    assert torch.linalg.eigvalsh(kernel(x, x, LENGTHSCALE, depth)).min() > -1e-12
    direction = torch.randn(30, 30).double()

    def total(log_lengthscale):
        return (kernel(x, x, log_lengthscale.exp(), depth) * direction).sum()

    point, step = LENGTHSCALE.log(), 1e-6 * torch.eye(2).double()
    slopes = torch.stack([total(point + s) - total(point - s) for s in step]) / 2e-6
    torch.testing.assert_close(grad(total)(point), slopes, rtol=1e-5, atol=1e-6)


def process(kernel="matern32", **more):
    return GaussianProcessPrior(
        kernel, lengthscale=0.8, outputscale=1.3, noise=0.4, n_features=2, **more
    )


def tasks(prior, n_context=12):
    batch = prior.sample(5, n_context, 4, seed=1)
    parts = (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
    return TaskBatch(*(part.double() for part in parts))


def covariance(prior, x):
    values = {name: value.double() for name, value in prior._fixed(x.unsqueeze(0)).items()}
    return prior.noisy_covariance(x.unsqueeze(0), values)[0]


@each_network
def test_network_process_predicts_as_the_joint_normal(name):
    prior = process(name, depth=2)
    batch = tasks(prior)
    found = prior.posterior_predictive(batch)
    for i in range(5):
        joint = covariance(prior, torch.cat([batch.x_context[i], batch.x_query[i]]))
        gain = torch.linalg.solve(joint[:12, :12], joint[:12, 12:]).T
        torch.testing.assert_close(found.mean[i], gain @ batch.y_context[i])
        variance = (joint[12:, 12:] - gain @ joint[:12, 12:]).diagonal()
        torch.testing.assert_close(found.variance[i], variance)


def test_student_t_process_is_the_multivariate_t():
    a, b = 2.5, 1.5
    prior = ScaledGaussianProcessPrior(process(), dist.InverseGamma(a, b))
    batch = tasks(prior)
    posterior = prior.posterior(batch.x_context, batch.y_context)
    predictive = posterior.predictive(batch.x_query)
    for i in range(5):
        joint = covariance(prior.process, torch.cat([batch.x_context[i], batch.x_query[i][:1]]))
        y = batch.y_context[i]
        own = stats.multivariate_t(np.zeros(12), b / a * joint[:12, :12].numpy(), df=2 * a)
        both = stats.multivariate_t(np.zeros(13), b / a * joint.numpy(), df=2 * a)
        evidence = own.logpdf(y.numpy())
        assert abs(posterior.log_evidence[i].item() - evidence) < 1e-10 * abs(evidence) + 1e-10
        target = batch.y_query[i][0]
        expected = both.logpdf(np.append(y.numpy(), target.item())) - evidence
        assert abs(predictive.log_prob(batch.y_query)[i, 0].item() - expected) < 1e-9


def test_quadrature_is_the_closed_form_where_there_is_one():
    scale = dist.InverseGamma(torch.tensor(2.5).double(), torch.tensor(1.5).double())
    prior = ScaledGaussianProcessPrior(process(), scale)
    batch = tasks(prior)
    exact = prior.posterior(batch.x_context, batch.y_context)
    normaliser = prior.process.log_evidence(batch.x_context, 0 * batch.y_context)
    quadratic = 2 * (normaliser - prior.process.log_evidence(batch.x_context, batch.y_context))
    grid = prior._on_grid(batch.x_context, batch.y_context, normaliser, quadratic)
    torch.testing.assert_close(grid.log_evidence, exact.log_evidence, rtol=1e-10, atol=1e-10)
    one, other = (each.predictive(batch.x_query) for each in (grid, exact))
    torch.testing.assert_close(one.log_prob(batch.y_query), other.log_prob(batch.y_query))
    latents = {"scale": torch.rand(7, 5).double() + 0.2}
    torch.testing.assert_close(grid.log_prob(latents), exact.log_prob(latents))
    draws = grid.sample(4000)["scale"]
    for i in range(5):
        reference = stats.invgamma(exact.scale.concentration[i], scale=exact.scale.rate[i])
        assert stats.kstest(draws[:, i].numpy(), reference.cdf).pvalue > 1e-4


@pytest.mark.parametrize(
    "scale",
    [dist.InverseGamma(2.0, 2.0), dist.LogNormal(0.0, 1.0), dist.Uniform(0.2, 4.0)],
    ids=["inverse-gamma", "log-normal", "uniform"],
)
def test_infer_proves_it_and_agrees_with_smc(scale):
    prior = ScaledGaussianProcessPrior(process(), scale)
    batch = tasks(prior)
    x, y = batch.x_context[:1], 2.0 * batch.y_context[:1]
    exact = infer(prior, x, y, method="exact", n_draws=4000)
    particles = infer(prior, x, y, method="smc", n_draws=2000)
    off = (exact.log_evidence - particles.log_evidence).abs()
    assert (off < 5 * particles.log_evidence_error + 0.01).all()
    assert (exact.mean["scale"] - particles.mean["scale"]).abs() < 0.2 * exact.std["scale"]
    assert exact.predictive(batch.x_query[:1]).mean.shape == (1, 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: process("relu", depth=0), "depth to be an integer >= 1"),
        (lambda: process("rbf", depth=2), "none with others"),
        (lambda: process("tanh"), "kernel to be one of"),
        (lambda: ScaledGaussianProcessPrior(process(), dist.Normal(0.0, 1.0)), "positive support"),
        (
            lambda: ScaledGaussianProcessPrior(
                GaussianProcessPrior(
                    lengthscale=dist.LogNormal(0.0, 1.0), outputscale=1.0, noise=0.1
                ),
                dist.InverseGamma(2.0, 2.0),
            ),
            "fixed hyperparameters",
        ),
    ],
)
def test_wrong_inputs(make, message):
    with pytest.raises(ValueError, match=message):
        make()
