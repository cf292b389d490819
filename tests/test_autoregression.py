"""Autoregressions: least squares, evidence of every set of lags, and the stationary prior."""

import time
from itertools import product

import numpy as np
import pytest
import torch
from statsmodels.tsa.ar_model import AutoReg
from statsmodels.tsa.arima_process import ArmaProcess

from amortized.forecasting import Autoregression
from amortized.priors.state_space.autoregression import (
    AutoregressivePrior,
    at_rest,
    levinson,
    partial_autocorrelations,
)


def series(coefficients, n, seed=0, mean=0.0):
    rng = np.random.default_rng(seed)
    p = len(coefficients)
    y = np.zeros(n + 500)
    for t in range(p, len(y)):
        y[t] = coefficients @ y[t - p : t][::-1] + rng.normal()
    return y[500:] + mean


@pytest.mark.parametrize("order", [1, 7, 80])
@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_flat_prior_is_least_squares(order, mean):
    y = series(np.array([0.6, 0.0, 0.3]), 600, mean=mean)
    model, oracle = Autoregression(order, sparse=False).fit(y), AutoReg(y, order).fit()
    np.testing.assert_allclose(model.coef_, oracle.params[1:], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.intercept_, oracle.params[0], rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(model.predict(5), oracle.forecast(5), rtol=1e-8, atol=1e-8)


def test_least_squares_near_a_unit_root():
    """Where normal equations alone would lose half of the digits."""
    y = np.cumsum(np.cumsum(np.random.default_rng(0).normal(size=1000)))
    model, oracle = Autoregression(6, sparse=False).fit(y), AutoReg(y, 6).fit()
    np.testing.assert_allclose(model.coef_, oracle.params[1:], rtol=1e-7, atol=1e-7)


def test_a_thousand_lags_of_fifty_thousand_points():
    """Four times the order takes about four times the time."""
    y, seconds = np.random.default_rng(0).normal(size=50_000), []
    for order in (250, 1000):
        begin = time.process_time()
        Autoregression(order, sparse=False).fit(y)
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 4 * 1.8 * seconds[0] + 0.3


def test_inclusion_equals_enumeration():
    """Of all 64 sets of 6 lags, in a series that leaves them in doubt."""
    p = 6
    y = series(np.array([0.12, 0.0, 0.3, 0.0, -0.12]), 200)
    rows = np.stack([y[p - k : len(y) - k] for k in range(p + 1)], 1)
    rows = rows - rows.mean(0)
    n, log_weight, sets = len(rows), [], np.array(list(product([0, 1], repeat=p)))
    for each in sets:
        k, chosen = each.sum(), rows[:, 1:][:, each == 1]
        fitted = chosen @ np.linalg.lstsq(chosen, rows[:, 0], rcond=None)[0] if k else 0.0
        r2 = 1 - np.square(rows[:, 0] - fitted).sum() / np.square(rows[:, 0]).sum()
        evidence = -k / 2 * np.log(1 + n) - (n - 1) / 2 * np.log(1 - n / (1 + n) * r2)
        n_sets = np.array([sum(s.sum() == k for s in sets)])[0]
        log_weight.append(evidence - np.log(n_sets))
    weight = np.exp(np.array(log_weight) - max(log_weight))
    exact = (weight / weight.sum()) @ sets
    assert ((exact > 0.05) & (exact < 0.95)).any()
    model = Autoregression(p, n_jumps=20_000).fit(y)
    np.testing.assert_allclose(model.inclusion_, exact, atol=0.02)


def test_support_of_a_sparse_autoregression():
    """Two of 50 lags, over 20 series of 1,000 points: F1 of all decisions together."""
    right = found = there = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        lags = rng.choice(50, size=2, replace=False)
        coefficients = np.zeros(50)
        coefficients[lags] = rng.choice([-1, 1], size=2) * rng.uniform(0.2, 0.45, size=2)
        inclusion = Autoregression(50, n_jumps=300).fit(series(coefficients, 1000, seed)).inclusion_
        chosen = inclusion > 0.5
        right += (chosen & (coefficients != 0)).sum()
        found, there = found + chosen.sum(), there + 2
    assert 2 * right / (found + there) >= 0.95


def test_paths_have_the_moments_of_the_process():
    """Far ahead they are stationary; near, they start at the last value."""
    y = series(np.array([0.0, 0.8]), 3000, mean=5.0)
    paths = Autoregression(4).fit(y).sample_paths(60, 4000)
    assert abs(paths[:, -1].mean() - y.mean()) < 0.2
    assert abs(paths[:, -1].std() / (1 / (1 - 0.64) ** 0.5) - 1) < 0.1
    assert abs(paths[:, 0].std() - 1) < 0.06
    assert abs(np.corrcoef(paths[:, 40], paths[:, 42])[0, 1] - 0.8) < 0.05


def test_partial_autocorrelations_and_back():
    partial = 1.98 * torch.rand(5, 8, dtype=torch.float64) - 0.99
    coefficients = levinson(partial)[-1]
    torch.testing.assert_close(partial_autocorrelations(coefficients), partial)
    for w in coefficients:
        assert ArmaProcess(np.r_[1, -w.numpy()], [1]).isstationary


def test_a_series_at_rest_has_the_autocovariance_of_its_coefficients():
    partial = torch.tensor([0.6, -0.5, 0.3], dtype=torch.float64)
    n, length = 20_000, 8
    y = at_rest(partial.expand(n, 3), torch.randn(n, length, dtype=torch.float64))
    process = ArmaProcess(np.r_[1, -levinson(partial)[-1].numpy()], [1])
    acf = torch.as_tensor(process.acf(length))
    lag = torch.arange(length)
    exact = acf[(lag[:, None] - lag).abs()]
    assert ((y.T @ y / n - exact).abs() < 6 * (2 / n) ** 0.5).all()


def test_prior():
    batch = AutoregressivePrior(6, 0.7).sample(500, 40, 8, seed=0)
    partial = partial_autocorrelations(batch.latents["coefficients"].double())
    assert (partial.abs() < 1).all()
    last = (partial.abs() > 1e-6).int().mul(torch.arange(1, 7)).amax(1)
    assert set(last.tolist()) == set(range(1, 7))
    standard = (batch.y_context - batch.latents["mean"][:, None]) / batch.latents["scale"][:, None]
    assert abs(standard.square().mean() - 1) < 0.25


WRONG = {
    "constant": (np.ones(100), 3, "series that varies; got a constant"),
    "short": (np.arange(10.0), 5, "at least 12 values for 5 lags; got 10"),
    "two series": (np.ones((50, 2)), 3, r"y of shape \(n,\)"),
    "missing": (np.r_[np.nan, np.arange(50.0)], 3, "NaN"),
    "determined": (np.tile([1.0, 2.0, 4.0], 40), 6, "linearly independent.*lower order"),
}


@pytest.mark.parametrize(("y", "order", "message"), WRONG.values(), ids=WRONG)
def test_wrong_series(no_shape_checks, y, order, message):
    with pytest.raises(ValueError, match=message):
        Autoregression(order, sparse=False).fit(y)
    with pytest.raises(ValueError, match="max_order"):
        AutoregressivePrior(0)


def test_the_unit_of_a_series_does_not_matter():
    y = np.random.default_rng(0).normal(size=60).cumsum()
    own, tiny = (Autoregression(order=3).fit(unit * y) for unit in (1.0, 1e-14))
    np.testing.assert_allclose(tiny.coef_, own.coef_, rtol=1e-6)
    np.testing.assert_allclose(tiny.predict(2), 1e-14 * own.predict(2), rtol=1e-6)
