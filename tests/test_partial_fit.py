"""Rows that come later: the answer is that of one fit to all of them."""

import pickle

import numpy as np
import pandas as pd
import pytest
import torch

from amortized import PFNClassifier, PFNRegressor
from amortized.estimators.tabular import seen_rows
from amortized.estimators.tabular.seen_rows import rows_held
from amortized.networks import TabularPFN, TabularPFNConfig

N = 60


def network_of(target):
    """A small network with random weights, whose answers depend on all that it reads."""
    torch.manual_seed(0)
    size = {"d_model": 32, "d_row": 32, "n_cell_blocks": 1, "n_row_blocks": 1}
    network = TabularPFN(
        TabularPFNConfig(
            target, max_context=40, n_bars=20, d_hidden=32, n_retrieval_heads=2, **size
        )
    )
    for weight in network.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network


def table(n=N, seed=0):
    """Numbers with holes, times, and categories, some of which come late."""
    rng = np.random.default_rng(seed)
    kinds = np.array(["m", "f", "a", "z"])[rng.integers(0, 2 + 2 * (np.arange(n) > n // 2))]
    return pd.DataFrame(
        {
            "size": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "kind": kinds,
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 99, n), "D"),
            "late": [None] * (n // 2) + rng.choice(["x", "y"], n - n // 2).tolist(),
            "constant": [3.0] * (n - 1) + [4.0],
        }
    )


def case(kind, n=N):
    rng = np.random.default_rng(1)
    if kind == "classes":
        y = np.array(["no", "yes", "maybe"])[rng.integers(0, 3, n)]
        return lambda: PFNClassifier(network_of("classification"), n_estimators=2), table(n), y
    y = rng.normal(3.0, 2.0, n)
    if kind == "table":
        return lambda: PFNRegressor(network_of("regression"), n_estimators=2), table(n), y
    return lambda: PFNRegressor(kind), rng.uniform(-2, 2, (n, 1)), 0.3 * (y - 3.0)


def taken(X, rows):
    return X.iloc[rows] if hasattr(X, "iloc") else X[rows]


def fed(estimator, X, y, parts, weight=None):
    """The estimator after one call for each part of the rows."""
    names = {"classes": np.unique(y)} if isinstance(estimator, PFNClassifier) else {}
    for rows in parts:
        if weight is not None:
            names["sample_weight"] = weight[rows]
        estimator.partial_fit(taken(X, rows), y[rows], **names)
    return estimator


def answers(estimator, X):
    if isinstance(estimator, PFNClassifier):
        return estimator.predict_proba(X)
    return estimator.predict_distribution(X).log_prob(torch.tensor(0.5)).numpy()


each_kind = pytest.mark.parametrize("kind", ["classes", "table", "gp-1d", "gp"])


@pytest.mark.filterwarnings("ignore:The target does not vary", "ignore:Expected at most 50 rows")
@pytest.mark.filterwarnings("ignore:The prior of the network", "ignore:Expected y between")
@each_kind
@pytest.mark.parametrize("n_parts", [N, 4])
def test_rows_one_by_one_are_one_fit(kind, n_parts):
    """To the last bit, whatever comes late; also of more rows than gp-1d reads."""
    make, X, y = case(kind)
    stream = fed(make(), X, y, np.array_split(np.arange(N), n_parts))
    assert stream.n_samples_seen_ == N
    np.testing.assert_array_equal(answers(stream, X), answers(make().fit(X, y), X))


@pytest.mark.filterwarnings("ignore:The prior of the network", "ignore:Expected y between")
@each_kind
def test_weights_of_later_rows_count(kind):
    make, X, y = case(kind, 40)
    weight = np.random.default_rng(2).integers(0, 3, 40).astype(float)
    first, later = np.arange(20), np.arange(20, 40)
    stream = fed(make(), X, y, [first, later], weight)
    np.testing.assert_array_equal(answers(stream, X), answers(make().fit(X, y, weight), X))
    plain = np.where(np.arange(40) < 20, 1.0, weight)
    stream = fed(make(), X, y, [first])
    stream.partial_fit(taken(X, later), y[later], sample_weight=weight[later])
    np.testing.assert_array_equal(answers(stream, X), answers(make().fit(X, y, plain), X))


@each_kind
def test_a_stream_goes_on_after_it_was_stored(kind):
    make, X, y = case(kind, 30)
    first, later = np.arange(20), np.arange(20, 30)
    stream = fed(make(), X, y, [first])
    again = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(answers(again, X), answers(stream, X))
    for one in (stream, again):
        one.partial_fit(taken(X, later), y[later])
    np.testing.assert_array_equal(answers(again, X), answers(stream, X))


def test_a_file_goes_on(tmp_path):
    make, X, y = case("gp", 30)
    stream = make().fit(X[:20], y[:20])
    again = PFNRegressor.load(stream.save(tmp_path / "stream")).partial_fit(X[20:], y[20:])
    np.testing.assert_array_equal(answers(again, X), answers(make().fit(X, y), X))


def test_an_old_file_cannot_go_on():
    make, X, y = case("gp", 20)
    stream = make().fit(X, y)
    del stream._seen
    with pytest.raises(ValueError, match="file of an older version"):
        stream.partial_fit(X, y)


def test_a_class_without_rows_has_the_probability_of_laplace():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(18, 2)), rng.integers(0, 2, 18)
    estimator = PFNClassifier(network_of("classification"), n_estimators=2)
    proba = estimator.partial_fit(X, y, classes=[0, 1, 7]).predict_proba(X)
    np.testing.assert_allclose(proba[:, 2], 1 / 21)
    two = PFNClassifier(network_of("classification"), n_estimators=2).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(proba[:, :2], two * 20 / 21)
    whole = estimator.partial_fit(X[:1], [7]).predict_proba(X)
    assert np.ptp(whole[:, 2]) > 0  # the network's own


def test_the_window_holds_the_latest_rows():
    make, X, y = case("table", 100)
    stream = make().set_params(forget="oldest")
    fed(stream, X, y, np.array_split(np.arange(100), 7))
    latest = make().fit(X[20:], y[20:])  # the network reads 80
    np.testing.assert_array_equal(answers(stream, X[:20]), answers(latest, X[:20]))
    assert stream.n_samples_seen_ == 100


def test_every_row_has_the_same_chance_to_be_in_the_reservoir(monkeypatch):
    monkeypatch.setattr(seen_rows, "MOST_HELD", 10)
    n, count = 2000, np.zeros(40)
    for seed in range(n):
        held = np.arange(4)
        for start, size in ((4, 3), (7, 13), (20, 20)):
            kept = rows_held(len(held), size, n_before=start, n_read=5, forget="random", seed=seed)
            held = np.concatenate((held, np.arange(start, start + size)))[kept]
        count[held] += 1
    assert count.sum() == 10 * n
    error = np.sqrt(n * 0.25 * 0.75)
    assert np.abs(count - n / 4).max() < 4.5 * error
    at_once = rows_held(4, 36, n_before=4, n_read=5, forget="random", seed=n - 1)
    np.testing.assert_array_equal(at_once, held)


def test_the_reservoir_is_bounded(monkeypatch):
    monkeypatch.setattr(seen_rows, "MOST_HELD", 30)
    make, X, y = case("gp", 200)
    stream = fed(make(), X, y, np.array_split(np.arange(200), 20))
    assert len(stream.X_train_) == 30 and stream.n_samples_seen_ == 200
    assert np.isfinite(answers(stream, X)).all()


X, Y = np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 2
CATEGORIES = pd.DataFrame({"a": pd.Categorical(list("lmhl"), ["l", "m", "h"], ordered=True)})
NEW = pd.DataFrame({"a": pd.Categorical(["x"], ["x", "l", "m", "h"], ordered=True)})


def fitted():
    return PFNClassifier(network_of("classification"), n_estimators=1).fit(X, Y)


def of_categories():
    return PFNRegressor(network_of("regression")).fit(CATEGORIES, [1.0, 2.0, 3.0, 4.0])


WRONG = {
    "no classes": (lambda: PFNClassifier().partial_fit(X, Y), "all classes in the first call"),
    "a new class": (lambda: fitted().partial_fit(X[:1], [2]), r"among \[0, 1\]; got \[2\]"),
    "of another kind": (lambda: fitted().partial_fit(X[:1], ["a"]), r"got \['a'\]"),
    "other classes": (lambda: fitted().partial_fit(X, Y, classes=[0, 1, 2]), "named at first"),
    "other columns": (lambda: fitted().partial_fit(X[:, :1], Y), "expecting 2 features"),
    "an ordered category": (lambda: of_categories().partial_fit(NEW, [1.0]), "ordered categories"),
    "text for numbers": (
        lambda: fitted().partial_fit(np.array([["a", "b"]], dtype=object), [1]),
        "Expected numbers in column 0",
    ),
    "forget": (lambda: PFNRegressor("gp", forget="newest").fit(X, Y), "Expected forget"),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_is_refused_changes_nothing():
    make, X, y = case("table", 30)
    stream = make().fit(X, y)
    before = answers(stream, X)
    bad = X.iloc[:2].assign(kind=["new", "kinds"], size=["no", "numbers"])
    with pytest.raises(ValueError, match="Expected numbers in column 0"):
        stream.partial_fit(bad, y[:2])
    with pytest.raises(ValueError, match="infinity"):
        stream.partial_fit(X.iloc[:1], [np.inf])
    np.testing.assert_array_equal(answers(stream, X), before)
    assert stream.n_samples_seen_ == 30
