"""Joint predictions, martingale posteriors and splits of variance meet their closed forms."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator
from sklearn.linear_model import LinearRegression
from torch.distributions import Normal

from amortized import PFNRegressor, infer, load
from amortized.priors import GaussianProcessPrior, TaskBatch, named_prior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.sampling.exact.hyperposterior_grid import HyperposteriorGrid
from amortized.uncertainty import (
    ConformalRegressor,
    joint_log_prob,
    joint_sample,
    martingale_posterior,
    split_by_posterior,
    split_by_twins,
)

GP = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.3)


def gp_predict(x, y, z):
    return GP.posterior_predictive(TaskBatch(x, y, z, z[..., 0]))


def normal_mean(x, y, z):
    """y ~ N(theta, 1) and theta ~ N(0, 1)."""
    n = y.shape[1]
    mean = (y.sum(1, keepdim=True) / (n + 1)).expand(z.shape[:2])
    return Normal(mean, (1 + 1 / (n + 1)) ** 0.5)


@pytest.fixture(scope="module")
def network():
    return load("gp-1d")


@pytest.fixture
def task():
    return GP.sample(3, 6, 4, seed=0)


def parts(task):
    return task.x_context, task.y_context, task.x_query, task.y_query


def exact_joint(prior, task, hyperparameters=None):
    x = torch.cat([task.x_context, task.x_query], 1)
    y = torch.cat([task.y_context, task.y_query], 1)
    return prior.log_evidence(x, y) - prior.log_evidence(task.x_context, task.y_context)


def test_joint_log_prob_of_a_gaussian_process_is_its_joint_density(task):
    ours = joint_log_prob(gp_predict, *parts(task))
    torch.testing.assert_close(ours, exact_joint(GP, task), rtol=1e-4, atol=1e-3)


def test_joint_samples_have_the_joint_covariance(task):
    x, y, z, _ = (part[:1] for part in parts(task))
    z = torch.tensor([[[0.0], [0.1], [1.5]]])
    draws = joint_sample(gp_predict, x, y, z, 4000)[:, 0].T
    noisy = GP.noisy_covariance(torch.cat([x, z], 1), GP._fixed(x))[0]
    gain = noisy[6:, :6] @ torch.linalg.inv(noisy[:6, :6])
    torch.testing.assert_close(draws.mean(1), gain @ y[0], atol=0.06, rtol=0)
    torch.testing.assert_close(
        torch.cov(draws), noisy[6:, 6:] - gain @ noisy[:6, 6:], atol=0.06, rtol=0
    )


def test_joint_of_the_network_is_near_the_exact_one_and_above_the_marginals(network):
    prior, gaps, gains, cached = named_prior("gp-1d"), [], [], []
    for seed in range(3):
        task = prior.sample(16, 20, 15, seed=100 + seed)
        data = parts(task)
        ours = joint_log_prob(network, *data) / 15
        with torch.no_grad():
            alone = network(*data[:3]).log_prob(data[3]).mean(1)
        both = TaskBatch(
            torch.cat([data[0], data[2]], 1), torch.cat([data[1], data[3]], 1), data[2], data[3]
        )
        evidence = [HyperposteriorGrid(prior, b, 15).log_evidence for b in (task, both)]
        gaps.append((evidence[1] - evidence[0]) / 15 - ours)
        gains.append(ours - alone)
        cached.append(joint_log_prob(network, *data, refresh=50) / 15 - ours)
    assert torch.cat(gaps).mean() < 0.12
    assert torch.cat(gains).mean() > 0.05
    assert torch.cat(cached).mean() > -1.0


def test_joint_samples_of_the_network_are_curves(network):
    x = torch.linspace(-2, 2, 10).reshape(1, 10, 1)
    z = torch.linspace(-1.9, -1.88, 5).reshape(1, 5, 1)
    draws = joint_sample(network, x[:, 5:], torch.zeros(1, 5), z, 50)[:, 0]
    assert draws.std(0).mean() > 3 * draws.std(1).mean()  # points this near move together
    assert torch.equal(draws, joint_sample(network, x[:, 5:], torch.zeros(1, 5), z, 50)[:, 0])


def test_joint_samples_that_share_a_context_are_those_of_copies_of_it(network):
    """Without a copy each: the same draws, as each sample has the same random numbers."""
    x, z = torch.linspace(-2, 2, 12).reshape(2, 6, 1), torch.linspace(-1, 1, 8).reshape(2, 4, 1)
    shared = joint_sample(network, x, x[..., 0], z, 5, refresh=4)
    copies = joint_sample(
        network, *(v.repeat(5, *[1] * (v.ndim - 1)) for v in (x, x[..., 0], z)), 1, refresh=4
    )
    torch.testing.assert_close(shared.flatten(0, 1), copies[0], rtol=1e-3, atol=1e-3)


def test_martingale_posterior_of_a_mean_is_the_conjugate_posterior():
    y = torch.tensor([0.3, 1.2, -0.4, 2.0, 0.9, 0.1])
    draws = martingale_posterior(
        normal_mean, torch.zeros(6, 0), y, lambda x, y: y.mean(1), n_draws=800, n_future=1500
    )
    exact = stats.norm(y.sum().item() / 7, (1 / 7) ** 0.5)
    assert stats.kstest(draws.numpy(), exact.cdf).pvalue > 0.01


def test_martingale_posterior_of_a_variance_keeps_the_known_one():
    draws = martingale_posterior(
        normal_mean, torch.zeros(5, 0), torch.zeros(5), lambda x, y: y.var(1), n_future=1000
    )
    assert draws.mean() == pytest.approx(1.0, abs=0.02)


def test_martingale_posterior_of_a_coefficient():
    prior = LinearRegressionPrior(1, variance=0.25, intercept=False, weight_scale=2.0)
    batch = prior.sample(1, 12, 0, seed=3)
    x, y = batch.x_context, batch.y_context

    def predict(x, y, z):
        return prior.posterior_predictive(TaskBatch(x, y, z, z[..., 0]))

    def slope(x, y):
        return (x[..., 0] * y).sum(1) / x[..., 0].square().sum(1)

    draws = martingale_posterior(predict, x[0], y[0], slope, n_draws=500, n_future=300)
    exact = prior.posterior(x, y)
    sd = 1 / exact.precision_tril[0, 0, 0]
    # The functional is a least-squares slope: it forgets the prior as the future grows.
    assert draws.mean().item() == pytest.approx(exact.mean.item(), abs=4 * sd.item() / 500**0.5)
    assert draws.std().item() == pytest.approx(sd.item(), rel=0.12)


def test_martingale_posterior_by_a_network(network):
    task = named_prior("gp-1d").sample(1, 20, 0, seed=1)
    draws = martingale_posterior(
        network,
        task.x_context[0],
        task.y_context[0],
        lambda x, y: y.mean(1),
        n_draws=20,
        n_future=30,
        refresh=10,
    )
    assert draws.shape == (20,) and draws.std() > 0


def test_whole_answers_and_doubles_are_numbers_like_others(network, no_shape_checks):
    x, y, z = torch.tensor([[[0.1], [0.7]]]), torch.tensor([[1.0, 2.0]]), torch.tensor([[[0.3]]])
    for one, other in ((y.long(), normal_mean), (y.double(), network)):
        converted = x.to(torch.promote_types(one.dtype, x.dtype)), one
        expected = joint_sample(other, x, y, z, 4)
        torch.testing.assert_close(joint_sample(other, *converted, z, 4).float(), expected)
        split = split_by_twins(other, *converted, z).epistemic
        torch.testing.assert_close(split.float(), split_by_twins(other, x, y, z).epistemic)


def test_twins_split_the_variance_of_a_gaussian_process(task):
    split = split_by_twins(gp_predict, task.x_context, task.y_context, task.x_query)
    noise = torch.full_like(split.aleatoric, 0.09)
    torch.testing.assert_close(split.aleatoric, noise, atol=2e-3, rtol=0)
    total = gp_predict(*parts(task)[:3]).variance
    torch.testing.assert_close(split.total, total, rtol=1e-5, atol=1e-6)


def test_twins_of_the_network_know_where_the_data_are(network):
    x = torch.linspace(-2, 0, 15).reshape(1, 15, 1)
    z = torch.tensor([[[-1.0], [1.5]]])
    split = split_by_twins(network, x, torch.sin(3 * x[..., 0]), z)
    assert split.epistemic[0, 1] > 20 * split.epistemic[0, 0]
    assert split.epistemic[0, 1] > 0.9 * split.total[0, 1]  # the noise of this prior is small


def test_posterior_splits_the_variance_of_a_regression():
    prior = LinearRegressionPrior(1, variance=0.25)
    batch = prior.sample(1, 10, 3, seed=0)
    x, y, z = (part[0].double() for part in (batch.x_context, batch.y_context, batch.x_query))
    posterior = infer(prior, x, y, method="exact", n_draws=2000)
    split = split_by_posterior(prior.model, posterior, z, x, y, n_draws=2000)
    assert torch.allclose(split.aleatoric, torch.full((3,), 0.25, dtype=torch.float64))
    exact = posterior.predictive(z).variance
    torch.testing.assert_close(split.total, exact, rtol=0.05, atol=0)


def test_posterior_splits_the_variance_of_a_program_with_discrete_latents():
    """The discrete latent of a row is noise; that of all rows is uncertain like any latent."""

    def switched(x, y=None):
        shift = pyro.sample("shift", dist.Bernoulli(0.3))
        with pyro.plate("rows", len(x)):
            own = pyro.sample("own", dist.Bernoulli(0.4))
            return pyro.sample("y", dist.Normal(shift + 2 * own, 0.5), obs=y)

    x, y = torch.zeros(3, 1), torch.tensor([0.2, 1.0, 2.4])
    posterior = infer(switched, x, y, n_draws=4000)
    split = split_by_posterior(switched, posterior, x[:1], x, y, n_draws=4000)
    p = posterior.probabilities("shift")[1].item()
    assert abs(split.aleatoric.item() - (0.25 + 4 * 0.4 * 0.6)) < 1e-6
    assert abs(split.epistemic.item() - p * (1 - p)) < 4 * 0.5 / math.sqrt(4000)


@pytest.mark.parametrize("kind", ["linear", "pfn"])
def test_conformal_intervals_cover_as_often_as_they_say(kind):
    rng = np.random.default_rng(0)
    estimator = LinearRegression() if kind == "linear" else PFNRegressor("gp")
    hits = []
    for seed in range(4):
        X = rng.normal(size=(1060, 1))
        y = X[:, 0] + rng.standard_t(2, size=1060) * (1 + X[:, 0] ** 2)
        fitted = ConformalRegressor(estimator, level=0.8, random_state=seed).fit(X[:60], y[:60])
        low, high = fitted.predict_interval(X[60:]).T
        hits.append(((low <= y[60:]) & (y[60:] <= high)).mean())
        assert fitted.predict(X[:2]).shape == (2,)
    assert 0.72 < np.mean(hits) < 0.93  # 18 rows calibrate each: 0.84 is expected


class Ends(BaseEstimator):
    """Quantiles that were given, for as many rows as are asked for."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def fit(self, X, y):
        return self

    def predict_quantiles(self, X, levels):
        return np.tile([self.low, self.high], (len(X), 1)).astype(float)

    def predict(self, X):
        return np.zeros(len(X))


@pytest.mark.parametrize("low, high", [(-9.0, 9.0), (9.0, -9.0), (8.0, 9.0), (0.5, 0.5)])
def test_ends_never_swap_and_cover_as_often_as_they_say(low, high):
    """Also where a wide estimator is narrowed past its middle, or says its quantiles crossed."""
    rng = np.random.default_rng(0)
    X, y = np.zeros((2000, 1)), rng.normal(size=2000)
    for level in (0.1, 0.5, 0.9):
        fitted = ConformalRegressor(Ends(low, high), level=level, random_state=0)
        ends = fitted.fit(X[:1000], y[:1000]).predict_interval(X[1000:])
        assert (ends[:, 0] <= ends[:, 1]).all()
        covered = ((ends[:, 0] <= y[1000:]) & (y[1000:] <= ends[:, 1])).mean()
        # 300 rows calibrate, 1,000 test: four errors of both.
        assert covered > level - 4 * (level * (1 - level) * (1 / 300 + 1 / 1000)) ** 0.5


def test_an_interval_of_which_nothing_is_left_is_its_middle():
    X, y = np.zeros((200, 1)), np.random.default_rng(0).normal(scale=0.01, size=200)
    fitted = ConformalRegressor(Ends(-9.0, 9.5), random_state=0).fit(X, y)
    assert fitted.correction_ < -8
    narrow = fitted.predict_interval(X[:1])[0]
    assert narrow[0] <= narrow[1] and abs(narrow - 0.25).max() < 0.3
    fitted.correction_ = -9.3
    np.testing.assert_array_equal(fitted.predict_interval(X[:1]), [[0.25, 0.25]])


def test_predictions_that_are_nan_are_said():
    X, y = np.zeros((40, 1)), np.arange(40.0)
    with pytest.raises(ValueError, match="estimator's predictions without NaN; got 12 NaN of 24"):
        ConformalRegressor(Ends(np.nan, 1.0), random_state=0).fit(X, y)


def test_a_column_of_answers_is_a_vector():
    X, y = np.arange(40.0)[:, None], np.arange(40.0) ** 2
    vector, column = (
        ConformalRegressor(LinearRegression(), random_state=0).fit(X, answers)
        for answers in (y, y[:, None])
    )
    assert vector.correction_ == column.correction_


def test_intervals_are_of_the_level_that_was_fitted():
    X, y = np.arange(40.0)[:, None], np.sin(np.arange(40.0))
    fitted = ConformalRegressor(PFNRegressor("gp"), level=0.5, random_state=0).fit(X, y)
    before = fitted.predict_interval(X)
    np.testing.assert_array_equal(fitted.set_params(level=0.9).predict_interval(X), before)


def test_too_few_rows_give_an_interval_without_end():
    X, y = np.arange(10.0)[:, None], np.arange(10.0)
    fitted = ConformalRegressor(LinearRegression(), level=0.99, random_state=0).fit(X, y)
    assert np.isinf(fitted.predict_interval(X)).all()


X0, Y0 = torch.zeros(1, 3, 1), torch.zeros(1, 3)
WRONG = {
    "refresh": (
        lambda n: joint_log_prob(n, X0, Y0, X0, Y0, refresh=0),
        "refresh to be an integer >= 1",
    ),
    "rows": (
        lambda n: joint_log_prob(n, X0, Y0, torch.zeros(1, 48, 1), torch.zeros(1, 48)),
        "at most 50 rows",
    ),
    "samples": (lambda n: joint_sample(n, X0, Y0, X0, 0), "n_samples to be an integer >= 1"),
    "a batch": (lambda n: martingale_posterior(n, X0, Y0, torch.mean), "one dataset"),
    "no future": (
        lambda n: martingale_posterior(n, X0[0], Y0[0], torch.mean, n_future=0),
        "n_future to be an integer >= 1",
    ),
    "nodes": (lambda n: split_by_twins(n, X0, Y0, X0, n_nodes=1), "n_nodes to be an integer >= 2"),
    "no room for twins": (
        lambda n: split_by_twins(n, torch.zeros(1, 50, 1), torch.zeros(1, 50), X0),
        "fewer than 50 rows",
    ),
    "level": (
        lambda n: ConformalRegressor(LinearRegression(), level=90).fit(X0[0], Y0[0]),
        "level in",
    ),
    "answers missing": (
        lambda n: ConformalRegressor(LinearRegression()).fit(X0[0], [0.0, np.nan, 1.0]),
        "y contains NaN",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_say_what_was_expected(name, network, no_shape_checks):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call(network)
