"""Linear regression against closed forms that were written another way."""

import numpy as np
import oracles
import pytest
import torch
from scipy import stats

from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.task import TaskBatch
from amortized.program.density import ProgramDensity

PRIORS = {
    "known": LinearRegressionPrior(2, weight_scale=1.5, variance=0.3),
    "known, no intercept": LinearRegressionPrior(2, variance=0.3, intercept=False),
    "unknown": LinearRegressionPrior(2, weight_scale=1.5),
    "unknown, no features": LinearRegressionPrior(0, concentration=2.0, rate=1.0),
}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


def data(prior, n_tasks=3, n=8):
    batch = prior.sample(n_tasks, n, 4, seed=1)
    return batch.x_context.double(), batch.y_context.double()


def design_of(prior, x):
    return np.concatenate([x, np.ones((len(x), 1))], -1) if prior.intercept else np.asarray(x)


@each_prior
def test_evidence_and_moments_are_exact(prior):
    x, y = data(prior)
    posterior = prior.posterior(x, y)
    for i in range(len(x)):
        design, answers = design_of(prior, x[i].numpy()), y[i].numpy()
        k = design.shape[1]
        mean, covariance, evidence = oracles.linear_gaussian(
            design,
            answers,
            np.zeros(k),
            prior.weight_scale**2 * np.eye(k),
            (prior.variance or 1.0) * np.eye(len(answers)),
        )
        if prior.variance is None:
            evidence = oracles.student_evidence(
                design, answers, prior.weight_scale, prior.concentration, prior.rate
            )
        factor = posterior.precision_tril[i]
        np.testing.assert_allclose(posterior.mean[i], mean, rtol=1e-9)
        np.testing.assert_allclose((factor @ factor.T).inverse(), covariance, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(posterior.log_evidence[i], evidence, rtol=1e-9)


@each_prior
def test_bayes_theorem_holds_at_every_point(prior):
    """log prior + log likelihood - log evidence = log posterior: program and closed form agree."""
    x, y = data(prior)
    posterior, density = prior.posterior(x, y), ProgramDensity(prior.model, x, y)
    draws = posterior.sample(5)
    u = density.unconstrain({name: value.transpose(0, 1) for name, value in draws.items()})
    jacobian = u[..., density.layout["variance"][0]].sum(-1) if "variance" in draws else 0.0
    expected = density.log_density(u) - jacobian - posterior.log_evidence[:, None]
    torch.testing.assert_close(posterior.log_prob(draws).T, expected)


@each_prior
def test_draws_have_the_stated_moments(prior):
    x, y = data(prior, 1)
    posterior = prior.posterior(x, y)
    draws = posterior.sample(20_000)
    weights = draws["intercept"][:, 0] if prior.intercept else draws["weights"][:, 0, 0]
    spread = (posterior.precision_tril[0] @ posterior.precision_tril[0].T).inverse()[
        -1 if prior.intercept else 0
    ]
    variance = spread[-1 if prior.intercept else 0]
    if prior.variance is None:
        variance = variance * draws["variance"].mean()
    mean = posterior.mean[0, -1 if prior.intercept else 0]
    assert abs(weights.mean() - mean) < 4 * (variance / 20_000) ** 0.5
    assert abs(weights.var() / variance - 1) < 0.1


@each_prior
def test_predictive_is_the_ratio_of_two_evidences(prior):
    x, y = data(prior)
    predictive = prior.posterior(x[:, :-1], y[:, :-1]).predictive(x[:, -1:])
    ratio = prior.posterior(x, y).log_evidence - prior.posterior(x[:, :-1], y[:, :-1]).log_evidence
    torch.testing.assert_close(predictive.log_prob(y[:, -1:])[:, 0], ratio)


@each_prior
def test_masked_rows_do_not_exist(prior):
    batch = prior.sample(2, 6, 3, seed=0)
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[:, 4:] = False
    noisy = batch.y_context.where(mask, torch.nan)
    masked = TaskBatch(batch.x_context, noisy, batch.x_query, batch.y_query, context_mask=mask)
    short = TaskBatch(batch.x_context[:, :4], batch.y_context[:, :4], batch.x_query, batch.y_query)
    for at in (masked, short):
        assert prior.posterior_predictive(at).mean.shape == (2, 3)
    torch.testing.assert_close(
        prior.posterior_predictive(masked).log_prob(batch.y_query),
        prior.posterior_predictive(short).log_prob(batch.y_query),
    )


def test_predictive_is_calibrated_over_the_prior():
    prior = PRIORS["unknown"]
    batch = prior.sample(2000, 5, 1, seed=0)
    predictive = prior.posterior_predictive(batch)
    t = stats.t(predictive.df.numpy(), predictive.loc.numpy(), predictive.scale.numpy())
    assert stats.kstest(t.cdf(batch.y_query.numpy()).ravel(), "uniform").pvalue > 1e-4


WRONG = {
    "negative scale": (lambda: LinearRegressionPrior(1, weight_scale=-1.0), "weight_scale > 0"),
    "zero variance": (lambda: LinearRegressionPrior(1, variance=0.0), "variance > 0"),
    "nothing": (lambda: LinearRegressionPrior(0, intercept=False), "a feature or an intercept"),
    "wrong features": (
        lambda: PRIORS["known"].posterior(torch.zeros(3, 1), torch.zeros(3)),
        "Expected x",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
