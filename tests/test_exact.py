"""Closed-form posteriors found by `exact`, against formulas written elsewhere."""

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.exact.closed_form import exact


def answers(distribution, y):
    return pyro.sample("y", distribution.expand([len(y)]).to_event(1), obs=y)


def coin(x, y=None):
    answers(dist.Bernoulli(pyro.sample("p", dist.Beta(2.0, 3.0))), x[:, 0] if y is None else y)


def counts(x, y=None):
    answers(dist.Poisson(pyro.sample("rate", dist.Gamma(2.0, 0.5))), y)


def spread(x, y=None):
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    answers(dist.Normal(0.0, variance.sqrt()), y)


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.5).to_event(1))
    shift = pyro.sample("shift", dist.Normal(1.0, 2.0))
    pyro.sample("y", dist.Normal(x @ slope + shift, 0.3).to_event(1), obs=y)


def two_modes(x, y=None):
    prior = dist.MixtureSameFamily(
        dist.Categorical(torch.tensor([0.3, 0.7])), dist.Normal(torch.tensor([-2.0, 2.0]), 0.5)
    )
    answers(dist.Normal(pyro.sample("mean", prior), 4.0), y)


def dice(x, y=None):
    answers(dist.Categorical(pyro.sample("probs", dist.Dirichlet(torch.ones(3)))), y)


def coins(x, y=None):
    with pyro.plate("coins", x.shape[1]):
        p = pyro.sample("p", dist.Beta(2.0, 3.0))
    pyro.sample("y", dist.Bernoulli(x @ p).to_event(1), obs=y)


X = torch.randn(2, 6, 2, dtype=torch.float64)
COUNTS = torch.tensor([[0, 1, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0]], dtype=torch.float64)
REALS = torch.randn(2, 6, dtype=torch.float64)


def scipy_moments(oracle, y):
    law, evidence = oracle(y)
    return law.mean(), law.std(), evidence


ONE_LATENT = {
    "beta": (coin, COUNTS, lambda y: oracles.beta_bernoulli(y, 2, 3)),
    "gamma": (counts, COUNTS, lambda y: oracles.gamma_poisson(y, 2, 0.5)),
    "inverse gamma": (spread, REALS, lambda y: oracles.inverse_gamma_variance(y, 3, 2)),
}


@pytest.mark.parametrize("family", ONE_LATENT)
def test_conjugate_pairs_have_the_known_posterior(family):
    program, y, oracle = ONE_LATENT[family]
    answer = exact(ProgramDensity(program, X, y))
    assert answer.family == family
    for i in range(2):
        mean, std, evidence = scipy_moments(oracle, y[i].numpy())
        np.testing.assert_allclose(answer.distribution.mean[i].item(), mean, rtol=1e-6)
        np.testing.assert_allclose(answer.distribution.stddev[i].item(), std, rtol=1e-5)
        np.testing.assert_allclose(answer.log_evidence[i], evidence, rtol=1e-6)


def test_linear_regression_is_found_in_a_plain_program():
    answer = exact(ProgramDensity(line, X, REALS))
    assert answer.family == "normal"
    for i in range(2):
        design = np.concatenate([X[i], np.ones((6, 1))], 1)
        prior = np.array([0.0, 0.0, 1.0]), np.diag([2.25, 2.25, 4.0])
        mean, covariance, evidence = oracles.linear_gaussian(
            design, REALS[i].numpy(), *prior, 0.09 * np.eye(6)
        )
        np.testing.assert_allclose(answer.distribution.mean[i], mean, rtol=1e-7)
        np.testing.assert_allclose(answer.distribution.covariance_matrix[i], covariance, rtol=1e-6)
        np.testing.assert_allclose(answer.log_evidence[i], evidence, rtol=1e-8)


def unknown_variance(x, y=None):
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    scale = 1.5 * variance.sqrt()
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), scale).to_event(1))
    shift = pyro.sample("shift", dist.Normal(0.0, scale))
    pyro.sample("y", dist.Normal(x @ slope + shift, variance.sqrt()).to_event(1), obs=y)


def unknown_precision(x, y=None):
    precision = pyro.sample("precision", dist.Gamma(3.0, 2.0))
    scale = precision.rsqrt()
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.5 * scale).to_event(1))
    shift = pyro.sample("shift", dist.Normal(0.0, 1.5 * scale))
    pyro.sample("y", dist.Normal(x @ slope + shift, scale).to_event(1), obs=y)


@pytest.mark.parametrize("program", [unknown_variance, unknown_precision])
def test_regression_with_unknown_noise_is_found_in_a_plain_program(program):
    answer = exact(ProgramDensity(program, X, REALS))
    oracle = LinearRegressionPrior(2, weight_scale=1.5).posterior(X, REALS)
    by_variance = program is unknown_variance
    assert answer.family == ("normal inverse gamma" if by_variance else "normal gamma")
    for i in range(2):
        design = np.concatenate([X[i], np.ones((6, 1))], 1)
        evidence = oracles.student_evidence(design, REALS[i].numpy(), 1.5, 3.0, 2.0)
        np.testing.assert_allclose(answer.log_evidence[i], evidence, rtol=1e-8)
    draws = oracle.sample(5)
    value = {"slope": draws["weights"], "shift": draws["intercept"]}
    log_prob = oracle.log_prob(draws)
    if by_variance:
        value["variance"] = draws["variance"]
    else:  # the same law of 1 / v, with the Jacobian
        value["precision"] = 1 / draws["variance"]
        log_prob = log_prob + 2 * draws["variance"].log()
    torch.testing.assert_close(answer.log_prob(value), log_prob)
    many = answer.sample(20_000)
    expected = oracle.sample(20_000)
    for ours, theirs in (
        (many["slope"], expected["weights"]),
        (many["shift"], expected["intercept"]),
    ):
        assert ((ours.mean(0) - theirs.mean(0)) / theirs.std(0)).abs().max() < 0.05
        assert (ours.std(0) / theirs.std(0) - 1).abs().max() < 0.05


def semi_conjugate(x, y=None):
    """The weights' scale is not tied to the noise's: no closed form."""
    variance = pyro.sample("variance", dist.InverseGamma(3.0, 2.0))
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Normal(x @ slope, variance.sqrt()).to_event(1), obs=y)


@pytest.mark.parametrize("program", [two_modes, coin], ids=["mixture of normals", "beta"])
def test_density_agrees_with_quadrature(program):
    y = REALS if program is two_modes else COUNTS
    density = ProgramDensity(program, X, y)
    answer = exact(density)

    def log_joint(grid):
        u = torch.as_tensor(grid)[None, :, None].expand(2, -1, 1)
        return density.log_density(u)[0].numpy()

    *_, evidence = oracles.moments_by_quadrature(log_joint, -12, 12)
    np.testing.assert_allclose(answer.log_evidence[0], evidence, atol=1e-6)
    draws = answer.sample(7)
    u = density.unconstrain({k: v.transpose(0, 1) for k, v in draws.items()})
    expected = density.log_density(u) - density.log_jacobian(u) - answer.log_evidence[:, None]
    torch.testing.assert_close(answer.log_prob(draws).T, expected)


def test_dirichlet_counts():
    y = torch.tensor([[0.0, 1, 1, 2, 1, 1]], dtype=torch.float64)
    answer = exact(ProgramDensity(dice, X[:1], y))
    torch.testing.assert_close(
        answer.distribution.concentration, torch.tensor([[2.0, 5.0, 2.0]], dtype=torch.float64)
    )


def test_a_plate_of_coins_is_a_product_of_betas():
    one_hot = torch.eye(2, dtype=torch.float64)[[0, 0, 0, 1, 1, 1]].unsqueeze(0)
    posterior = infer(coins, one_hot, COUNTS[:1], method="exact", n_draws=20_000)
    expected = torch.tensor([[4.0 / 8, 4.0 / 8]], dtype=torch.float64)  # 2 of 3 heads in both
    torch.testing.assert_close(posterior.mean["p"], expected, atol=0.01, rtol=0)


def nearly_normal(x, y=None):
    answers(dist.StudentT(200.0, pyro.sample("mean", dist.Normal(0.0, 1.0)), 1.0), y)


def logistic(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("y", dist.Bernoulli(logits=x @ slope).to_event(1), obs=y)


@pytest.mark.parametrize("program", [nearly_normal, logistic, semi_conjugate])
def test_no_closed_form_is_claimed_where_there_is_none(program):
    with pytest.raises(ValueError, match="Expected a program with a conjugate posterior.*smc"):
        exact(ProgramDensity(program, X, COUNTS))
