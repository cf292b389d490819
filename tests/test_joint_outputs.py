"""Several outputs: each has its own answers, and draws and densities are joint."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from amortized import PFNRegressor
from amortized.estimators import shapley_values

NOISE = np.array([[0.04, 0.032], [0.032, 0.04]])  # of correlation .8


def data(n=150, seed=0):
    """Two outputs whose noise is correlated, of one input among two."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n, 2))
    noise = rng.multivariate_normal([0.0, 0.0], NOISE, n)
    return X, np.column_stack((X[:, 0], -X[:, 0])) + noise


@pytest.fixture(scope="module", params=["gp", "tabular-regressor"])
def fitted(request):
    X, y = data()
    return PFNRegressor(request.param, n_estimators=2).fit(X, y)


def test_each_output_has_its_own_answers(fitted):
    X, y = data()
    Z = data(20, seed=1)[0]
    mean, std = fitted.predict(Z, return_std=True)
    quantiles = fitted.predict_quantiles(Z, [0.1, 0.5, 0.9])
    assert mean.shape == std.shape == (20, 2) and quantiles.shape == (20, 2, 3)
    for j in range(2):
        alone = PFNRegressor(fitted.network, n_estimators=2).fit(X, y[:, j])
        np.testing.assert_allclose(mean[:, j], alone.predict(Z), rtol=1e-6, atol=1e-6)
        expected = alone.predict_quantiles(Z, [0.1, 0.5, 0.9])
        np.testing.assert_allclose(quantiles[:, j], expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(mean, fitted.predict(Z))
    assert fitted.score(X, y) > 0.8


def test_the_joint_density_knows_the_correlation(fitted):
    """Better than independent outputs, and no better than the exact one.

    How much of the mutual information is found is up to the network: the first output is nearly the
    input, and only their small difference tells of the second one's noise.
    """
    X, y = data()
    Z, z = data(200, seed=2)
    joint = fitted.log_density(Z, z)
    exact = stats.multivariate_normal([0.0, 0.0], NOISE).logpdf(
        z - np.column_stack((Z[:, 0], -Z[:, 0]))
    )
    lost = exact - joint
    assert lost.mean() > -4 * lost.std() / np.sqrt(200)
    alone = [PFNRegressor(fitted.network, n_estimators=2).fit(X, y[:, j]) for j in range(2)]
    gained = joint - sum(one.log_density(Z, z[:, j]) for j, one in enumerate(alone))
    information = -0.5 * np.log(1 - 0.8**2)
    assert gained.mean() > 0.4 * information
    assert lost.mean() < information


def test_draws_are_joint(fitted):
    Z = data(8, seed=3)[0]
    drawn = fitted.sample_y(Z, 300, random_state=0)
    assert drawn.shape == (8, 2, 300)
    mean, std = fitted.predict(Z, return_std=True)
    np.testing.assert_allclose(drawn.mean(2), mean, atol=5 * std.max() / np.sqrt(300) + 0.03)
    apart = drawn - drawn.mean(2, keepdims=True)
    correlation = np.corrcoef(apart[:, 0].ravel(), apart[:, 1].ravel())[0, 1]
    assert 0.3 < correlation < 0.92
    np.testing.assert_array_equal(drawn, fitted.sample_y(Z, 300, random_state=0))


def test_one_output_has_a_log_density_too():
    X, y = data(40)
    estimator = PFNRegressor("gp").fit(X, y[:, 0])
    expected = [
        estimator.predict_distribution(X[[i]]).log_prob(torch.tensor(y[i, 0])).item()
        for i in range(5)
    ]
    np.testing.assert_allclose(estimator.log_density(X[:5], y[:5, 0]), expected)


def test_rows_are_added_and_stored(tmp_path):
    X, y = data(40)
    whole = PFNRegressor("gp").fit(X, y).predict(X)
    stream = PFNRegressor("gp").partial_fit(X[:30], y[:30]).partial_fit(X[30:], y[30:])
    np.testing.assert_array_equal(stream.predict(X), whole)
    assert stream.n_samples_seen_ == 40
    for again in (
        pickle.loads(pickle.dumps(stream)),
        PFNRegressor.load(stream.save(tmp_path / "f")),
    ):
        np.testing.assert_array_equal(again.predict(X), whole)
    weight = np.random.default_rng(0).integers(0, 3, 40).astype(float)
    weighted = PFNRegressor("gp").fit(X, y, weight).predict(X[:4])
    rows = np.repeat(np.arange(40), weight.astype(int))
    np.testing.assert_array_equal(weighted, PFNRegressor("gp").fit(X[rows], y[rows]).predict(X[:4]))
    stream.fit(X, y[:, 0])
    assert stream.predict(X).shape == (40,)


def test_a_table_with_categories():
    X, y = data(60)
    table = pd.DataFrame({"x": X[:, 0], "kind": np.where(X[:, 1] > 0, "high", "low")})
    table.iloc[3, 0] = np.nan
    y[:, 1] += 5.0 * (X[:, 1] > 0)
    estimator = PFNRegressor(n_estimators=1).fit(table, y)
    asked = pd.DataFrame({"x": [0.0, 0.0], "kind": ["high", "low"]})
    high, low = estimator.sample_y(asked, 40).mean(2)[:, 1]
    assert high - low > 3
    assert np.isfinite(estimator.log_density(table, y)).all()


X, Y = data(20)
WRONG = {
    "distribution": lambda one: one.predict_distribution(X),
    "report": lambda one: one.report(),
    "another number": lambda one: one.partial_fit(X, Y[:, 0]),
    "density of one": lambda one: one.log_density(X, Y[:, 0]),
    "infinite": lambda one: one.fit(X, np.full((20, 2), np.inf)),
    "unlike lengths": lambda one: one.log_density(X[:3], Y),
}


@pytest.mark.parametrize("call", WRONG.values(), ids=WRONG)
def test_wrong_inputs(call):
    estimator = PFNRegressor("gp").fit(X, Y)
    with pytest.raises(ValueError, match=r"Expected|infinity|inconsistent"):
        call(estimator)


def test_shapley_values_are_of_one_output():
    with pytest.raises(ValueError, match="of one output"):
        shapley_values(PFNRegressor(n_estimators=1).fit(X, Y), X[:1])
