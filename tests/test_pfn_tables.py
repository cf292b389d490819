"""Many tables in one call answer as each by itself; missing cells explain an answer."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config

from amortized.estimators import PFNClassifier, PFNRegressor, predict_tables, shapley_values
from amortized.estimators.tabular import pfn_attribution, pfn_tables
from amortized.networks.tabular_pfn import TabularPFN, TabularPFNConfig

SMALL = {"d_model": 32, "d_hidden": 16, "n_cell_blocks": 2, "n_row_blocks": 1, "d_row": 48}


def network_of(target):
    """A network of random weights: an untrained one would answer every query alike."""
    config = TabularPFNConfig(target=target, n_retrieval_heads=2, n_bars=20, **SMALL)
    network = TabularPFN(config)
    rng = np.random.default_rng(0)
    for weight in network.parameters():
        weight.data = weight.data.new_tensor(rng.normal(size=weight.shape) / 6)
    return network.eval()


def tables_of(kind, n_classes=2):
    """Three tables of one shape, one of another with text and missing values."""
    rng = np.random.default_rng(1)
    tables = []
    for n_rows in (20, 31, 20, 20):
        x = rng.normal(size=(n_rows + 4, 3))
        table = x if n_rows == 20 else pd.DataFrame(x).rename(columns=str)
        if n_rows != 20:
            table["1"] = np.where(x[:, 1] > 0, "up", None)
        y = x[:, 0] if kind == "regression" else np.arange(n_rows + 4) % n_classes
        tables.append((table[:n_rows], y[:n_rows], table[n_rows:]))
    return tables


CASES = {
    "classes": ("classification", 2, "predict"),
    "probabilities against the rest": ("classification", 3, "predict_proba"),
    "a tree": ("classification", 12, "predict_proba"),
    "numbers": ("regression", 0, "predict"),
}


def assert_as_one_by_one(kind, n_classes, method, n_jobs=None):
    make = PFNClassifier if kind == "classification" else PFNRegressor
    estimator = make(network_of(kind), n_estimators=2, precision="float32")
    tables = tables_of(kind, n_classes)
    found = predict_tables(estimator, tables, method=method, n_jobs=n_jobs)
    for (X, y, query), answer in zip(tables, found, strict=True):
        alone = getattr(estimator.fit(X, y), method)(query)
        np.testing.assert_allclose(answer, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "n_classes", "method"), CASES.values(), ids=CASES)
def test_tables_together_are_answered_as_one_by_one(kind, n_classes, method):
    assert_as_one_by_one(kind, n_classes, method)


def test_tables_are_spread_over_jobs_by_joblib(monkeypatch):
    monkeypatch.setattr(pfn_tables, "_TOGETHER", 1)
    with parallel_config("threading"):
        assert_as_one_by_one("regression", 0, "predict", n_jobs=2)


def test_distributions_of_many_tables():
    estimator = PFNRegressor(network_of("regression"), n_estimators=3, precision="float32")
    tables = tables_of("regression")
    for (X, y, query), answer in zip(
        tables, predict_tables(estimator, tables, method="predict_distribution"), strict=True
    ):
        alone = estimator.fit(X, y).predict_distribution(query)
        np.testing.assert_allclose(answer.borders, alone.borders)
        np.testing.assert_allclose(answer.masses, alone.masses, atol=1e-5)


WRONG = {
    "another estimator": (lambda: predict_tables(3, []), TypeError, "PFNClassifier or a PFNReg"),
    "no method": (
        lambda: predict_tables(PFNRegressor(), [], method="predict_proba"),
        ValueError,
        "Expected method to be one of .'predict', 'predict_distribution'",
    ),
    "a pair": (
        lambda: predict_tables(PFNRegressor(), [([[1.0]], [1.0])]),
        ValueError,
        "got 2 members in table 0",
    ),
}


@pytest.mark.parametrize(("call", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_calls(call, error, message, no_shape_checks):
    with pytest.raises(error, match=message):
        call()


# --- Shapley values


def fitted(kind, n_columns=3, **options):
    X = np.random.default_rng(3).normal(size=(24, n_columns))
    y = X[:, 0] + X[:, 1] * X[:, 2] if kind == "regression" else np.arange(24) % 2
    make = PFNClassifier if kind == "classification" else PFNRegressor
    return make(network_of(kind), precision="float32", **options).fit(X, y), X


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_shapley_values_are_means_over_all_orders(kind):
    estimator, X = fitted(kind, n_estimators=2)
    answer = estimator.predict if kind == "regression" else estimator.predict_proba
    row, expected = X[:1], 0.0
    orders = list(permutations(range(3)))
    for order in orders:
        known, before = np.full((1, 3), np.nan), answer(np.full((1, 3), np.nan))[0]
        added = np.zeros((3, *np.shape(before)))
        for column in order:
            known[0, column] = row[0, column]
            after = answer(known)[0]
            added[column], before = after - before, after
        expected = expected + added / len(orders)
    values, base = shapley_values(estimator, row)
    np.testing.assert_allclose(values[0], expected, atol=1e-5)
    np.testing.assert_allclose(base, answer(np.full((1, 3), np.nan))[0], atol=1e-6)


def test_shapley_values_of_random_orders_approach_the_exact_ones(monkeypatch):
    estimator, X = fitted("regression", n_columns=8, n_estimators=1)
    exact, base = shapley_values(estimator, X[:4])
    all_sets = pfn_attribution._all_sets
    monkeypatch.setattr(pfn_attribution, "_all_sets", None)  # not to be called
    sampled = shapley_values(estimator, X[:4], n_permutations=30).values
    assert all_sets(8)[0].shape == (256, 8)
    assert np.corrcoef(exact.ravel(), sampled.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(sampled.sum(1) + base, estimator.predict(X[:4]), atol=1e-5)


def test_a_column_that_does_not_vary_has_no_share():
    X = pd.DataFrame({"same": "a", "x": np.arange(12.0), "text": ["b", "c"] * 6})
    estimator = PFNRegressor(network_of("regression"), n_estimators=1).fit(X, np.arange(12.0))
    values, _ = shapley_values(estimator, X[:2])
    assert values.shape == (2, 3) and (values[:, 0] == 0).all() and (values[:, 1:] != 0).all()


def test_what_shapley_values_cannot_be_had_of():
    X = np.arange(9.0)[:, None]
    with pytest.raises(ValueError, match="Expected a network over tables, .* got a PFN"):
        shapley_values(PFNRegressor("gp").fit(X, X[:, 0]), X)
    with pytest.raises(ValueError, match="Expected n_permutations to be an even integer"):
        shapley_values(fitted("regression")[0], np.zeros((1, 3)), n_permutations=3)
