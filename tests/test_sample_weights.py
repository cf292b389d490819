"""Weights of rows: whole ones are repetitions, others draw rows, and nothing else changes."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingRegressor
from sklearn.multioutput import MultiOutputRegressor

from amortized.estimators import PFNClassifier, PFNRegressor
from amortized.networks import TabularPFN, TabularPFNConfig
from amortized.pretrained import save
from amortized.tables.sample_weights import MAX_REPEATED, resampled, weighted_rows
from amortized.tables.views import draw_views

N = 40
SMALL = {
    "d_model": 32,
    "d_hidden": 16,
    "n_cell_blocks": 2,
    "n_row_blocks": 1,
    "d_row": 48,
    "n_retrieval_heads": 2,
    "n_bars": 20,
}


def network_of(target, max_context=1000):
    network = TabularPFN(TabularPFNConfig(target=target, max_context=max_context, **SMALL))
    for parameter in network.parameters():
        parameter.data += 0.2 * parameter.data.new_empty(parameter.shape).normal_()
    return network


def estimators():
    """One of each kind, with its data."""
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"a": rng.normal(size=N), "b": rng.choice(["x", "y", None], N), "c": rng.normal(size=N)}
    )
    classes, numbers = np.arange(N) % 3, rng.normal(size=N)
    x = table[["a", "c"]].to_numpy()
    return {
        "classes": (PFNClassifier(network_of("classification"), n_estimators=2), table, classes),
        "table": (PFNRegressor(network_of("regression"), n_estimators=2), table, numbers),
        "rows": (PFNRegressor("gp"), x, numbers),
    }


each_kind = pytest.mark.parametrize("kind", ["classes", "table", "rows"])


def answers(estimator, X):
    if isinstance(estimator, PFNClassifier):
        return estimator.predict_proba(X)
    return estimator.predict_distribution(X).log_prob(estimator.predict_distribution(X).mean)


def taken(X, rows):
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


@each_kind
def test_whole_weights_are_repetitions_and_zeros_are_removals(kind):
    estimator, X, y = estimators()[kind]
    weight = np.random.default_rng(1).integers(0, 4, N)
    rows = np.random.default_rng(2).permutation(np.repeat(np.arange(N), weight))
    weighted = answers(estimator.fit(X, y, weight.astype(float)), X)
    repeated = answers(estimator.fit(taken(X, rows), y[rows]), X)
    np.testing.assert_array_equal(weighted, repeated)


@each_kind
def test_equal_weights_are_none(kind):
    estimator, X, y = estimators()[kind]
    plain = answers(estimator.fit(X, y), X)
    for weight in (np.ones(N), np.full(N, 0.3), pd.Series(np.full(N, 1e-300))):
        np.testing.assert_array_equal(answers(estimator.fit(X, y, weight), X), plain)


@each_kind
def test_only_ratios_of_other_weights_count_and_only_so_far_as_rows_tell(kind):
    estimator, X, y = estimators()[kind]
    weight = np.random.default_rng(1).gamma(1.0, size=N)
    order = np.random.default_rng(2).permutation(N)
    one = answers(estimator.fit(X, y, weight), X)
    np.testing.assert_array_equal(one, answers(estimator.fit(X, y, 4.0 * weight), X))
    other = estimator.fit(taken(X, order), y[order], weight[order])
    np.testing.assert_array_equal(one, answers(other, X))
    assert not np.array_equal(one, answers(estimator.fit(X, y), X))


def test_of_two_that_disagree_the_heavier_is_believed():
    """Under a prior that knows such noise; gp-1d's takes .02 for granted, and would wiggle."""
    rng = np.random.default_rng(0)
    x, side = rng.uniform(-1, 1, (40, 1)), rng.choice([-1, 1], 40)
    mean = [
        PFNRegressor("gp").fit(x, x[:, 0] + 0.2 * side, weight).predict(x).mean()
        for weight in (np.where(side > 0, 3.3, 0.7), np.where(side > 0, 0.7, 3.3))
    ]
    # 0.2 times the difference of the sides' shares, twice: 0.26.
    assert 0.1 < mean[0] - mean[1] < 0.4


def test_weights_are_kept_in_a_file(tmp_path):
    _, X, y = estimators()["classes"]
    folder = str(save(network_of("classification"), tmp_path / "network"))
    weight = np.random.default_rng(1).gamma(1.0, size=N)
    estimator = PFNClassifier(folder).fit(X, y, weight)
    again = PFNClassifier.load(estimator.save(tmp_path / "fitted"))
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))


def test_rows_are_drawn_by_their_weights():
    weight = np.random.default_rng(0).gamma(1.0, size=25)
    expected = 25 * weight / weight.sum()
    counts = np.stack(
        [
            np.bincount(resampled(weight, np.random.RandomState(seed)), minlength=25)
            for seed in range(600)
        ]
    )
    assert (counts.sum(1) == 25).all() and (np.abs(counts - expected) < 1).all()
    # A count is one of two neighbours, so its deviation is at most a half.
    assert np.abs(counts.mean(0) - expected).max() < 5 * 0.5 / np.sqrt(600)


def test_a_weighted_view_holds_every_class_and_no_more_rows_than_the_network_takes():
    strata = np.repeat([0, 1, 2], [30, 9, 1])
    weight = np.where(strata == 2, 1e-9, np.random.default_rng(0).gamma(1.0, size=40))
    for most in (1000, 10):
        views = draw_views(5, strata, np.arange(3), most, np.random.RandomState(0), weight)
        for rows, _ in views:
            assert len(rows) <= min(most, 41) and set(strata[rows]) == {0, 1, 2}
        assert len({tuple(rows) for rows, _ in views}) > 1


def test_too_many_repetitions_are_ratios():
    rows, weight = weighted_rows([MAX_REPEATED, 1, 0], 3)
    assert rows.tolist() == [0, 1] and weight.tolist() == [MAX_REPEATED, 1]
    rows, weight = weighted_rows(np.full(MAX_REPEATED + 1, 1.0), MAX_REPEATED + 1)
    assert len(rows) == MAX_REPEATED + 1 and weight is None


WRONG = {
    "negative": ([-1.0] + [1.0] * (N - 1), "non-negative sample_weight; got -1.0"),
    "infinite": ([np.inf] + [1.0] * (N - 1), "finite non-negative sample_weight; got inf"),
    "missing": ([np.nan] + [1.0] * (N - 1), "finite non-negative sample_weight; got nan"),
    "all zero": (np.zeros(N), "above zero; got zero for every row"),
    "too few": (np.ones(N - 1), "for each of 40 rows; got shape"),
    "a matrix": (np.ones((N, 2)), "for each of 40 rows; got shape"),
    "text": (["heavy"] * N, "Expected numbers as sample_weight"),
}


@each_kind
@pytest.mark.parametrize(("weight", "message"), WRONG.values(), ids=WRONG)
def test_wrong_weights(kind, weight, message):
    estimator, X, y = estimators()[kind]
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y, weight)


# --- what scikit-learn makes of the estimators


def test_several_outputs():
    rng = np.random.default_rng(0)
    X, weight = rng.uniform(-1, 1, (30, 2)), rng.integers(0, 3, 30)
    Y = np.stack([X[:, 0] + X[:, 1], np.sin(2 * X[:, 0])], axis=1)
    both = MultiOutputRegressor(PFNRegressor("gp")).fit(X, Y, sample_weight=weight)
    assert both.predict(X).shape == (30, 2) and both.score(X, Y) > 0.9
    for j in range(2):
        alone = PFNRegressor("gp").fit(X, Y[:, j], sample_weight=weight)
        np.testing.assert_array_equal(both.predict(X)[:, j], alone.predict(X))


def test_several_outputs_of_a_table():
    estimator, X, y = estimators()["table"]
    assert MultiOutputRegressor(estimator).fit(X, np.stack([y, -y], 1)).predict(X).shape == (N, 2)


def test_weights_go_through_a_bag():
    _, X, y = estimators()["rows"]
    bag = BaggingRegressor(PFNRegressor("gp"), n_estimators=2, random_state=0)
    assert np.isfinite(bag.fit(X, y, sample_weight=np.linspace(0.1, 1, N)).predict(X)).all()


@pytest.mark.skipif(
    tuple(map(int, sklearn.__version__.split(".")[:2])) < (1, 8), reason="new in scikit-learn 1.8"
)
def test_temperature_by_cross_validation():
    """It is the temperature of the least log-loss over the folds that were left out."""
    X, y = load_iris(return_X_y=True, as_frame=True)
    estimator = PFNClassifier(network_of("classification"), n_estimators=1)
    calibrated = CalibratedClassifierCV(estimator, method="temperature", ensemble=False, cv=3)
    proba = calibrated.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1)
    inverse = calibrated.calibrated_classifiers_[0].calibrators[0].beta_
    by_hand = PFNClassifier(estimator.network, n_estimators=1, temperature=1 / inverse).fit(X, y)
    np.testing.assert_allclose(proba, by_hand.predict_proba(X), rtol=1e-4, atol=1e-6)
    assert abs(inverse - 1) > 0.01
