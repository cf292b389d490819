"""The classifier of tables: messy tables in, probabilities out, and what may not change them."""

import pickle
import warnings
from datetime import UTC, date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized.estimators import PFNClassifier, PFNRegressor
from amortized.networks import TabularPFN, TabularPFNConfig
from amortized.networks.layers import attention
from amortized.pretrained import save
from amortized.tables import class_tree, views
from amortized.tables.encoding import TableEncoder
from amortized.tables.screening import strongest_columns
from amortized.tables.views import LARGEST_CHUNK, draw_views, masses_together

SIZE = TabularPFNConfig(
    d_model=32, d_hidden=16, n_cell_blocks=2, n_row_blocks=1, d_row=48, n_retrieval_heads=2
)
N = 60


def network_of(target="classification", **changes):
    """Random weights: enough for laws that hold for any weights."""
    torch.manual_seed(1)
    network = TabularPFN(TabularPFNConfig(**{**vars(SIZE), "target": target, **changes}))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def classifier(**parameters):
    return PFNClassifier(**{"network": network_of(), "n_estimators": 2, **parameters})


def messy_table(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "number": rng.normal(size=n),
            "holes": np.where(rng.random(n) < 0.3, np.nan, rng.normal(size=n)),
            "text": rng.choice(["red", "green", "blue", None], n),
            "category": pd.Categorical(rng.choice(["a", "b"], n)),
            "grade": pd.Categorical(rng.choice(list("xyz"), n), list("zyx"), ordered=True),
            "flag": rng.random(n) < 0.5,
            "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(rng.integers(0, 999, n), "D"),
            "zone": pd.date_range("2021-01-01", periods=n, tz="Europe/Paris"),
            "nullable": pd.array(rng.integers(0, 5, n), dtype="Int64"),
            "mixed": [1, "one", None, 2.5] * (n // 4),
            "constant": 3.0,
            "nothing": np.nan,
        }
    )


def labels(n=N, n_classes=3, seed=0):
    return np.random.default_rng(seed).permutation(np.arange(n) % n_classes)


def test_a_messy_table():
    X, y = messy_table(), labels()
    X.loc[3, "nullable"] = pd.NA
    estimator = classifier().fit(X, y)
    unseen = X.assign(text="violet", mixed=7)
    for table in (X, unseen, X.head(1), X.assign(number=np.nan)):
        proba = estimator.predict_proba(table)
        assert proba.shape == (len(table), 3)
        np.testing.assert_allclose(proba.sum(1), 1)
    assert estimator.feature_names_in_.tolist() == list(X.columns)
    assert estimator.X_train_.shape == (N, 10)  # without the constant and the empty column
    with pytest.raises(ValueError, match="feature names"):
        estimator.predict(X[X.columns[::-1]])


def test_a_frame_and_its_array_give_the_same():
    X = messy_table()[["number", "holes", "text"]]
    y = labels()
    by_frame = classifier().fit(X, y).predict_proba(X)
    by_array = classifier().fit(X.to_numpy(), y).predict_proba(X.to_numpy())
    np.testing.assert_allclose(by_frame, by_array)


def test_a_list_and_its_array_give_the_same():
    rows = [[i % 5, "ab"[i % 2], date(2020, 1, 1 + i % 9), None] for i in range(N)]
    y, array = labels(), np.array(rows, dtype=object)
    by_list = classifier().fit(rows, y)
    assert by_list.encoder_.times == [False, False, True, False]
    expected = classifier().fit(array, y).predict_proba(array)
    np.testing.assert_array_equal(by_list.predict_proba(rows), expected)


def test_renaming_the_classes_permutes_the_probabilities():
    X, y = messy_table(), labels()
    names = np.array(["walnut", "apple", "pear"])
    proba = classifier().fit(X, y).predict_proba(X)
    renamed = classifier().fit(X, names[y])
    assert renamed.classes_.tolist() == sorted(names)
    np.testing.assert_allclose(renamed.predict_proba(X), proba[:, names.argsort()], atol=1e-5)
    assert set(renamed.predict(X)) <= set(names)


def test_a_network_of_ten_classes_tells_them_apart_in_one_pass():
    X, y = messy_table(), labels(n_classes=6)
    network = network_of(classes_at_once=10)
    estimator = classifier(network=network, precision="float32", n_estimators=1).fit(X, y)
    assert len(estimator._tree.views.reads) == 1
    x = torch.as_tensor(estimator.X_train_)[None]
    known = torch.as_tensor(estimator.y_train_).float()[None]
    with torch.inference_mode():
        asked = torch.as_tensor(estimator.encoder_.transform([X[c] for c in X]))
        expected = network(x, known, asked[None].float()).probs[0, :, :6]
    np.testing.assert_allclose(estimator.predict_proba(X), expected, atol=1e-4)
    assert len(classifier(n_estimators=1).fit(X, y)._tree.views.reads) == 6
    names = np.random.default_rng(1).permutation(6)
    renamed = classifier(network=network).fit(X, names[y]).predict_proba(X)
    as_before = classifier(network=network).fit(X, y).predict_proba(X)
    np.testing.assert_allclose(renamed[:, names], as_before, atol=1e-5)


def test_order_of_rows_does_not_matter():
    X, y = messy_table(), labels()
    order = np.random.default_rng(1).permutation(N)
    one, other = classifier().fit(X, y), classifier().fit(X.iloc[order], y[order])
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    np.testing.assert_array_equal(one.X_train_, other.X_train_)


def test_the_query_may_be_split():
    X, y = np.random.default_rng(0).normal(size=(N, 4)), labels()
    asked = np.random.default_rng(1).normal(size=(2 * LARGEST_CHUNK + 9, 4))
    estimator = classifier(precision="float32").fit(X, y)
    together = estimator.predict_proba(asked)
    apart = [estimator.predict_proba(part) for part in np.array_split(asked, 7)]
    np.testing.assert_allclose(together, np.concatenate(apart), atol=1e-5)


def test_views_encoded_together_answer_as_each_alone():
    """In whatever batches views and queries go through the network, a row has one answer."""
    X, y = messy_table(), labels()
    asked, n_views = X.iloc[:3], 4
    estimator = classifier(n_estimators=3 * n_views, precision="float32").fit(X, y)
    views = estimator._tree.views
    assert len(views.reads) == 3 * n_views  # each class against the rest
    assert len(views._encoded) < len(views.reads)
    x = estimator.encoder_.transform([asked[c] for c in asked])
    together = next(views.masses(x))
    for number, read in enumerate(views.reads):
        known = torch.as_tensor(views.answers[number]).float()[None]
        context, query = (torch.as_tensor(v).float()[None] for v in (read.context, read(x)))
        with torch.inference_mode():
            alone = estimator.network_(context, known, query).probs[0]
        np.testing.assert_allclose(together[number], alone, atol=1e-5)
    at_once = masses_together([(views, x), (views, x[:2])])
    np.testing.assert_allclose(torch.stack(at_once[0]), torch.stack(together), atol=1e-5)
    np.testing.assert_allclose(torch.stack(at_once[1]), torch.stack(together)[:, :2], atol=1e-5)


@pytest.fixture
def fast_bfloat16(monkeypatch):
    """Any CPU as one that multiplies bfloat16 faster: what it computes is the same."""
    for module in (attention, views):
        monkeypatch.setattr(module, "has_fast_bfloat16", lambda: True)


def test_precision(fast_bfloat16):
    """Exact in float32, close to that in bfloat16, and there a row's answer is one as well."""
    X, y = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32), labels(n_classes=2)
    asked = np.random.default_rng(1).normal(size=(LARGEST_CHUNK + 9, 4))
    exact = classifier(precision="float32").fit(X, y).predict_proba(asked)
    estimator = classifier(precision="auto").fit(X, y)
    close = estimator.predict_proba(asked)
    assert 0 < np.abs(close - exact).max() < 0.1
    apart = [estimator.predict_proba(part) for part in np.array_split(asked, 7)]
    np.testing.assert_allclose(close, np.concatenate(apart), atol=0.01)
    order = np.random.default_rng(1).permutation(N)
    again = classifier().fit(X[order], y[order]).predict_proba(asked)
    np.testing.assert_array_equal(close, again)


def test_precision_is_float32_where_bfloat16_is_slow(monkeypatch):
    monkeypatch.setattr(views, "has_fast_bfloat16", lambda: False)
    X, y = np.random.default_rng(0).normal(size=(N, 4)), labels(n_classes=2)
    exact = classifier(precision="float32").fit(X, y).predict_proba(X)
    np.testing.assert_array_equal(classifier().fit(X, y).predict_proba(X), exact)


@pytest.mark.parametrize("n_classes", [1, 2, 10, 11, 25])
def test_any_number_of_classes(n_classes):
    X, y = np.random.default_rng(0).normal(size=(N, 3)), labels(n_classes=n_classes)
    proba = classifier(n_estimators=1).fit(X, y).predict_proba(X)
    assert proba.shape == (N, n_classes) and (proba >= 0).all()
    np.testing.assert_allclose(proba.sum(1), 1)


def test_classes_of_improbable_groups_have_their_frequencies(monkeypatch):
    """A group that is not asked about changes no probability by more than its own."""
    X, y = np.random.default_rng(0).normal(size=(N, 3)), labels(n_classes=25)
    estimator = classifier(n_estimators=1).fit(X, y)
    exact = estimator.predict_proba(X)
    threshold = np.quantile(exact, 0.6)
    monkeypatch.setattr(class_tree, "_NEGLIGIBLE", threshold)
    close = estimator.predict_proba(X)
    np.testing.assert_allclose(close.sum(1), 1)
    assert 0 < np.abs(close - exact).max() <= threshold


def test_more_rows_and_columns_than_trained_for():
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(90, 130)), labels(90)
    estimator = classifier(network=network_of(max_context=40)).fit(X, y)
    np.testing.assert_allclose(estimator.predict_proba(X[:5]).sum(1), 1)


def test_views_hold_every_class_and_all_columns():
    strata = np.array([0] * 97 + [1, 2, 3])
    views = draw_views(3, strata, np.arange(5), 10, np.random.RandomState(0))
    for rows, columns in views:
        assert len(set(rows)) == 10 and set(strata[rows]) == {0, 1, 2, 3}
        assert sorted(columns) == [0, 1, 2, 3, 4]
    assert len(draw_views(3, strata, np.arange(1), 100, np.random.RandomState(0))) == 1


def test_strongest_columns_are_those_of_the_signal():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 50)), rng.normal(size=(300, 1))
    x[:, 7] += 3 * y[:, 0]
    x[:, 30] = np.abs(y[:, 0]) * rng.choice([-1, 1], 300)
    x[y[:, 0] > 1, 12] = np.nan
    found = strongest_columns(x, np.concatenate((y, np.abs(y)), 1), 3)
    assert found.tolist() == [7, 12, 30]


def test_temperature():
    X, y = messy_table(), labels()
    plain = classifier().fit(X, y).predict_proba(X)
    careful = classifier(temperature=2.0).fit(X, y).predict_proba(X)
    expected = np.sqrt(plain)
    np.testing.assert_allclose(careful, expected / expected.sum(1, keepdims=True), rtol=1e-6)


def test_class_weights_multiply_the_probabilities():
    """Of classes that came w times as often the posterior odds are w times as large."""
    X, y = messy_table(), np.array(["a", "b", "c"])[np.arange(N) % 5 // 2]  # 2 : 2 : 1
    plain = classifier().fit(X, y).predict_proba(X)
    weights = {"a": 1.0, "b": 3.0, "c": 0.5}
    weighed = classifier(class_weight=weights).fit(X, y).predict_proba(X)
    expected = plain * list(weights.values())
    np.testing.assert_allclose(weighed, expected / expected.sum(1, keepdims=True), rtol=1e-6)
    balanced = classifier(class_weight="balanced").fit(X, y)
    counts = np.unique(y, return_counts=True)[1]
    np.testing.assert_allclose(balanced.class_weight_, N / (3 * counts))
    with pytest.raises(ValueError):
        classifier(class_weight="equal").fit(X, y)


def test_log_probabilities():
    X, y = messy_table(), labels()
    estimator = classifier().fit(X, y)
    np.testing.assert_allclose(np.exp(estimator.predict_log_proba(X)), estimator.predict_proba(X))
    assert np.isfinite(classifier(temperature=1e-3).fit(X, y).predict_log_proba(X)).all()


@pytest.mark.parametrize("make", [sparse.csr_matrix, sparse.csc_array, sparse.coo_array])
def test_sparse_matrices_are_read_as_dense_ones(make, no_shape_checks):
    X, y = np.random.default_rng(0).poisson(0.5, size=(N, 4)).astype(float), labels()
    dense, thin = classifier().fit(X, y), classifier().fit(make(X), y)
    np.testing.assert_array_equal(thin.predict_proba(make(X)), dense.predict_proba(X))
    network = network_of("regression", n_bars=20)
    means = [PFNRegressor(network).fit(x, y).predict(x) for x in (X, make(X))]
    np.testing.assert_array_equal(*means)


@pytest.mark.parametrize("target", ["classification", "regression"])
def test_rows_that_views_leave_out_are_said(target, no_shape_checks):
    x = np.random.default_rng(0).normal(size=(81, 2))
    network = network_of(target, max_context=40, n_bars=20)
    make = PFNClassifier if target == "classification" else PFNRegressor
    y = (x[:, 0] > 0).astype(int)
    message = "Expected at most 80 rows, which this network reads; got 81. Each view uses"
    with pytest.warns(UserWarning, match=message):
        make(network, n_estimators=1).fit(x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(network, n_estimators=1).fit(x[:80], y[:80])


def test_a_regressor_reads_any_table_by_default():
    """More rows than networks over rows take, with text and missing values."""
    rng = np.random.default_rng(0)
    size, kind = rng.normal(size=260), rng.choice(["low", "high"], size=260)
    table = pd.DataFrame({"size": np.where(rng.random(260) < 0.1, np.nan, size), "kind": kind})
    y = 3.0 * (kind == "high") + np.nan_to_num(table["size"])
    estimator = PFNRegressor(n_estimators=1).fit(table[:240], y[:240])
    assert estimator.score(table[240:], y[240:]) > 0.9


def test_random_state_and_pickle():
    X, y = messy_table(), labels()
    estimator = classifier(random_state=np.random.RandomState(3)).fit(X, y)
    same = classifier(random_state=np.random.RandomState(3)).fit(X, y)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(estimator.predict_proba(X), same.predict_proba(X))
    np.testing.assert_array_equal(estimator.predict_proba(X), again.predict_proba(X))
    assert clone(estimator).n_estimators == 2


@pytest.mark.parametrize("names", [[0, 1, 2], ["a", "b", "c"], [1.5, 2.5, 3.5]], ids=str)
def test_a_file_holds_all_but_the_network(names, tmp_path):
    X, y = messy_table(), np.array(names, dtype=object if names[0] == "a" else None)[labels()]
    y = y if names[0] != 1.5 else y.astype(str)
    folder = str(save(network_of(), tmp_path / "network"))
    estimator = classifier(network=folder).fit(X, y)
    file = estimator.save(tmp_path / "fitted")
    assert file.stat().st_size < 20_000
    again = PFNClassifier.load(file)
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))
    assert again.get_params() == estimator.get_params()
    with pytest.raises(ValueError, match="Expected a PFNRegressor"):
        PFNRegressor.load(file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match="Save the estimator again"):
        PFNClassifier.load(file)


def test_a_regressor_in_a_file(tmp_path):
    X, y = messy_table(), np.random.default_rng(2).normal(size=N)
    folder = str(save(network_of("regression", n_bars=20), tmp_path / "network"))
    estimator = PFNRegressor(network=folder).fit(X, y)
    again = PFNRegressor.load(estimator.save(tmp_path / "fitted"))
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))


def test_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="amortized.pretrained.save"):
        classifier().fit(messy_table(), labels()).save(tmp_path / "fitted")


def test_a_file_names_a_folder_given_as_a_path(tmp_path):
    folder = save(network_of("regression", n_bars=20), tmp_path / "network")
    with config_context(enable_metadata_routing=True):
        estimator = PFNRegressor(network=folder).set_fit_request(sample_weight=True)
    assert estimator.__sklearn_tags__().input_tags.allow_nan
    X = messy_table()
    estimator.fit(X, np.arange(N))
    again = PFNRegressor.load(estimator.save(tmp_path / "fitted"))
    assert again.network == str(folder)
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))


@pytest.mark.parametrize("ordered", [False, True])
def test_whole_numbers_are_the_same_categories_beside_missing_values(ordered):
    whole = pd.Series([3, 10, 20] * 7)
    floats = pd.Series([3, 10, None, 20])  # pandas makes floats of these
    kind = pd.CategoricalDtype([3, 10, 20], ordered)
    encoder = TableEncoder()
    numbers = encoder.fit_transform([whole.astype(kind)])[:, 0]
    assert len(set(numbers)) == 3
    expected = [*numbers[:2], np.nan, numbers[2]]
    for query in (floats, floats.astype("category"), floats.astype(object)):
        np.testing.assert_array_equal(encoder.transform([query])[:, 0], expected)
    encoder.fit_transform([floats.astype("category")])
    assert np.isfinite(encoder.transform([whole.astype("category")])).all()


def test_a_category_of_text_that_is_a_whole_number():
    encoder = TableEncoder()
    known = encoder.fit_transform([np.array(["3.0", "4.0", "x"], dtype=object)])
    np.testing.assert_array_equal(encoder.transform([np.array([3.0, 4.0])]), known[:2])


@pytest.mark.parametrize("kind", ["object", "str", "string", "category", "datetime64[s]"])
def test_a_column_of_which_nothing_was_known_is_not_read(kind):
    X, y = messy_table()[["number", "nothing"]], labels()
    estimator = classifier().fit(X, y)
    values = pd.Series(["2020-01-01"] * N, dtype=kind)
    np.testing.assert_array_equal(
        estimator.predict_proba(X.assign(nothing=values)), estimator.predict_proba(X)
    )
    only = classifier().fit(X[["nothing"]], y)
    assert np.isfinite(only.predict_proba(pd.DataFrame({"nothing": values}))).all()


def test_a_fold_without_a_value_of_a_column_is_scored():
    X = messy_table().assign(rare=pd.Series([None] * (N - 1) + ["red"], dtype=object))
    scores = cross_val_score(classifier(n_estimators=1), X, labels(), cv=3, error_score="raise")
    assert np.isfinite(scores).all()


def test_text_of_variable_width():
    words = np.array(["red", "green", "blue"] * 20)
    rows = np.stack((words, words[::-1]), 1)
    text = np.dtypes.StringDType()
    ours = classifier().fit(rows.astype(text), words.astype(text))
    theirs = classifier().fit(rows, words)
    assert ours.classes_.tolist() == theirs.classes_.tolist()
    np.testing.assert_array_equal(ours.predict_proba(rows.astype(text)), theirs.predict_proba(rows))


def test_encoder():
    frame = messy_table()
    columns = [frame[name] for name in frame]
    encoder = TableEncoder()
    numbers = encoder.fit_transform(columns)
    np.testing.assert_allclose(np.nanmedian(numbers, 0), 0, atol=1e-9)
    away = np.where(numbers == 0, np.nan, np.abs(numbers))
    np.testing.assert_allclose(np.nanmedian(away, 0), 1)
    assert encoder.categories[2] == ["blue", "green", "red"]
    assert encoder.categories[4] == ["z", "y", "x"]  # an ordered category keeps its order
    np.testing.assert_array_equal(
        TableEncoder.from_state(encoder.state()).transform(columns), numbers
    )


@pytest.mark.parametrize("outlier", [1e3, -1e9, 1e300, -1.7e308])
def test_an_outlier_leaves_the_rest_of_its_column_as_it_is(outlier):
    column = np.random.default_rng(0).normal(size=101)
    with_outlier = np.append(column, outlier)
    encoder = TableEncoder()
    numbers = encoder.fit_transform([with_outlier]).astype(np.float32)[:, 0]
    assert np.isfinite(numbers).all()
    assert (numbers.argsort() == with_outlier.argsort()).all()  # also the outlier's place
    assert len(np.unique(numbers)) == 102 and np.ptp(numbers[:-1]) > 1
    again = encoder.transform([np.array([outlier, outlier / 1.1])])[:, 0]
    assert abs(again[1]) <= abs(again[0]) < 1e6


def test_dates_in_columns_of_objects_are_times():
    days = [date(2020, 1, 1 + i) for i in range(5)]
    zoned = [datetime(2020, 1, 1 + i, 1, tzinfo=UTC) for i in range(5)]
    for values in (days, zoned, pd.Series(days, dtype="datetime64[s]")):
        encoder = TableEncoder()
        numbers = encoder.fit_transform([pd.Series([*values, None])])
        np.testing.assert_allclose(numbers[:, 0], [-1.333, -0.667, 0, 0.667, 1.333, np.nan], 1e-3)
    assert np.isnan(encoder.transform([pd.Series([None, None])])).all()


@pytest.mark.parametrize("huge", [1e308, 1e-308, -1e200])
def test_huge_magnitudes(huge):
    X, y = np.random.default_rng(0).uniform(-1, 1, size=(N, 3)), labels()
    X[:, 1] *= huge
    assert np.isfinite(classifier().fit(X, y).predict_proba(X)).all()


WRONG = {
    "infinite": (lambda X, y: classifier().fit(np.where(X > 1, np.inf, X), y), "infinity"),
    "infinite frame": (lambda X, y: classifier().fit(pd.DataFrame(X) / 0, y), "infinity"),
    "no rows": (lambda X, y: classifier().fit(pd.DataFrame(X)[:0], y[:0]), "0 sample"),
    "numbers as classes": (lambda X, y: classifier().fit(X, y + 0.5), "Unknown label type"),
    "no y": (lambda X, y: classifier().fit(X, None), "requires y"),
    "lengths": (lambda X, y: classifier().fit(X, y[1:]), "inconsistent numbers of samples"),
    "views": (lambda X, y: classifier(n_estimators=0).fit(X, y), "n_estimators"),
    "temperature": (lambda X, y: classifier(temperature=0.0).fit(X, y), "temperature"),
    "regression network": (
        lambda X, y: classifier(network=network_of("regression")).fit(X, y),
        "classification of tables",
    ),
    "classification network": (
        lambda X, y: PFNRegressor(network=network_of()).fit(X, y),
        "network for regression",
    ),
    "text where numbers were": (
        lambda X, y: classifier().fit(X, y).predict(X.astype(str).astype(object) + "?"),
        "Expected numbers in column 0",
    ),
    "columns": (lambda X, y: classifier().fit(X, y).predict(X[:, :1]), "features"),
    "times where numbers were": (
        lambda X, y: (
            classifier().fit(pd.DataFrame(X), y).predict(pd.DataFrame(X).astype("datetime64[s]"))
        ),
        "Expected numbers in column 0, as in the fitted table; got datetimes",
    ),
    "numbers where times were": (
        lambda X, y: classifier().fit(X.astype("M8[s]"), y).predict(X),
        "Expected datetimes in column 0, as in the fitted table; got numbers",
    ),
    "text where times were": (
        lambda X, y: classifier().fit(X.astype("M8[s]"), y).predict(X.astype(str).astype(object)),
        "Expected datetimes in column 0, as in the fitted table; got text.* pandas.to_datetime",
    ),
    "equal names": (
        lambda X, y: classifier().fit(pd.DataFrame(X, columns=["a", "b", "a"]), y),
        "distinct names of columns; got 'a' twice",
    ),
    "too large for a float": (
        lambda X, y: classifier().fit(np.where(X > 1, 10**400, X.astype(object)), y),
        "Expected numbers in column 0",
    ),
    "a number that signals": (
        lambda X, y: classifier().fit(np.full((N, 2), Decimal("sNaN")), y),
        "Expected numbers in column 0",
    ),
    "lists of lists of lists": (lambda X, y: classifier().fit([[[1]]] * N, y), "dim 3"),
    "complex": (lambda X, y: classifier().fit(pd.DataFrame(X + 1j), y), "Expected numbers"),
    "a missing class": (
        lambda X, y: classifier().fit(X, np.where(y > 1, None, "a")),
        "Expected a class for every row; got None for row",
    ),
    "a class of pandas that is missing": (
        lambda X, y: classifier().fit(X, pd.Series(y, dtype="string").where(y > 0)),
        "Expected a class for every row",
    ),
    "classes of two kinds": (
        lambda X, y: classifier().fit(X, np.where(y > 1, "a", y.astype(object))),
        "Unknown label type: .* got int, str",
    ),
    "classes too large": (
        lambda X, y: classifier().fit(X, y.astype(object) * 10**30),
        "Unknown label type",
    ),
}


@pytest.mark.parametrize("dtype", [bool, int, str])
def test_classes_as_objects(dtype):
    X, y = np.random.default_rng(0).normal(size=(N, 3)), labels(n_classes=2).astype(dtype)
    estimator = classifier().fit(X, y.astype(object))
    assert estimator.classes_.tolist() == sorted(set(y.tolist()))


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(call, message):
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0).normal(size=(N, 3)), labels())


@pytest.mark.parametrize("n_rows", [1, 2])
def test_few_rows(n_rows):
    X, y = np.zeros((n_rows, 2)), np.arange(n_rows)
    proba = classifier().fit(X, y).predict_proba(np.ones((3, 2)))
    assert proba.shape == (3, n_rows)
    np.testing.assert_allclose(proba.sum(1), 1)


def test_regression_of_a_messy_table():
    X = messy_table()
    y = np.random.default_rng(2).normal(size=N) * 100 + 7
    estimator = PFNRegressor(network=network_of("regression", n_bars=20)).fit(X, y)
    predictive = estimator.predict_distribution(X)
    assert predictive.batch_shape == (N,) and predictive.log_prob(torch.tensor(y)).isfinite().all()
    mean, std = estimator.predict(X, return_std=True)
    assert mean.shape == std.shape == (N,)
    quantiles = estimator.predict_quantiles(X, [0.1, 0.9])
    assert (quantiles[:, 0] < quantiles[:, 1]).all()
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(X), mean)


@pytest.fixture
def one_size_of_chunks(monkeypatch):
    """Some checks compare parts of a query to the last digits, which another size may round."""
    monkeypatch.setattr(views, "SMALLEST_CHUNK", LARGEST_CHUNK)


@parametrize_with_checks([PFNClassifier(n_estimators=1)])
def test_scikit_learn_checks_of_the_classifier(
    estimator, check, no_shape_checks, one_size_of_chunks
):
    check(estimator)


@parametrize_with_checks([PFNRegressor(network="tabular-regressor", n_estimators=1)])
def test_scikit_learn_checks_of_the_table_regressor(
    estimator, check, no_shape_checks, one_size_of_chunks
):
    check(estimator)
