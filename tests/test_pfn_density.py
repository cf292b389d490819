"""The joint of a table is a density, knows what is unusual, and draws rows like the fitted."""

import pickle

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized.estimators import PFNDensity

COVARIANCE = np.array([[1.0, 1.6], [1.6, 4.0]])


def pairs(n, seed=0):
    return np.random.default_rng(seed).multivariate_normal([3.0, -1.0], COVARIANCE, n)


def mixed(n=120, seed=0):
    """Numbers, whole numbers, an ordered and an unordered category, times."""
    rng = np.random.default_rng(seed)
    size = rng.integers(0, 3, n)
    return pd.DataFrame(
        {
            "kind": np.array(["cat", "dog"])[rng.integers(0, 2, n)],
            "size": pd.Categorical.from_codes(size, ["small", "large", "huge"], ordered=True),
            "weight": 10.0 * size + rng.normal(size=n),
            "count": rng.poisson(20.0, n),
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
        }
    )


def test_the_density_integrates_to_one_and_is_near_the_exact_one():
    density = PFNDensity().fit(pairs(200))
    x, y = np.linspace(-5.0, 11.0, 49), np.linspace(-17.0, 15.0, 49)
    cells = (x[1] - x[0]) * (y[1] - y[0])
    grid = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    assert abs(np.exp(density.score_samples(grid)).sum() * cells - 1) < 0.02
    new = pairs(400, seed=1)
    exact = stats.multivariate_normal([3.0, -1.0], COVARIANCE).logpdf(new)
    lost = exact - density.score_samples(new)
    assert abs(lost.mean()) < 0.1 + 4 * lost.std() / 20


def test_a_missing_cell_is_integrated_out():
    X = pairs(150)
    density = PFNDensity(n_orders=1).fit(X)
    alone = PFNDensity(n_orders=1).fit(X[:, :1])
    half = np.column_stack((X[:9, 0], np.full(9, np.nan)))
    np.testing.assert_allclose(density.score_samples(half), alone.score_samples(X[:9, :1]))


def test_rows_against_the_correlation_are_the_outliers():
    """Each of their cells alone is usual; held out, they cannot explain themselves."""
    X = pairs(150)
    X[:4] = [[4.5, -4.0], [1.5, 2.0], [4.9, -2.9], [1.2, 1.1]]
    scores = PFNDensity().fit(X).score_held_out()
    assert scores.shape == (150,)
    assert roc_auc_score(np.arange(150) < 4, -scores) > 0.95


def test_drawn_rows_have_the_moments_of_the_fitted_ones():
    X = pairs(200)
    drawn = PFNDensity().fit(X).sample(600, random_state=1)
    error = np.sqrt(np.diag(COVARIANCE) * (1 / 200 + 1 / 600))
    assert (np.abs(drawn.mean(0) - X.mean(0)) < 4 * error).all()
    assert (np.abs(drawn.std(0) / X.std(0) - 1) < 4 * np.sqrt(0.5 / 200 + 0.5 / 600) + 0.1).all()
    correlation = [np.arctanh(np.corrcoef(x.T)[0, 1]) for x in (X, drawn)]
    assert abs(correlation[0] - correlation[1]) < 4 * np.sqrt(1 / 197 + 1 / 597)


def test_drawn_rows_of_a_mixed_table_are_of_its_kinds():
    X = mixed()
    density = PFNDensity().fit(X)
    drawn = pd.DataFrame(density.sample(200), columns=X.columns)
    assert set(drawn["kind"]) == {"cat", "dog"}
    assert set(drawn["size"]) <= {"small", "large", "huge"}
    assert all(float(count).is_integer() for count in drawn["count"])
    near = X["day"].min() - pd.Timedelta(60, "D"), X["day"].max() + pd.Timedelta(60, "D")
    assert pd.to_datetime(drawn["day"]).between(*near).mean() > 0.95
    means = drawn["weight"].astype(float).groupby(drawn["size"]).mean()
    np.testing.assert_allclose(means[["small", "large", "huge"]], [0, 10, 20], atol=3)
    share = [(table["size"] == "small").mean() for table in (X, drawn)]
    assert abs(share[0] - share[1]) < 4 * np.sqrt(0.25 / 120 + 0.25 / 200)
    assert np.isfinite(density.score_samples(X)).all()
    odd = X.iloc[:1].assign(kind="fish")
    assert density.score_samples(odd)[0] > -np.inf


def test_seeds_and_copies():
    density = PFNDensity(n_orders=1).fit(pairs(40))
    again = pickle.loads(pickle.dumps(density))
    np.testing.assert_array_equal(density.sample(3), again.sample(3))
    assert not np.array_equal(density.sample(3), density.sample(3, random_state=1))
    assert density.score(pairs(5)) == pytest.approx(density.score_samples(pairs(5)).mean())


WRONG = {
    "orders": (lambda: PFNDensity(n_orders=0).fit(pairs(5)), "n_orders"),
    "draws": (lambda: PFNDensity().fit(pairs(5)).sample(0), "n_samples"),
    "folds": (lambda: PFNDensity().fit(pairs(5)).score_held_out(6), "from 2 to 5"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@parametrize_with_checks([PFNDensity(n_orders=1)])
def test_scikit_learn_checks_of_the_density(estimator, check, no_shape_checks):
    check(estimator)
