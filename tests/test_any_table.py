"""Any table is answered, in finite numbers, or refused in words; hypothesis makes the tables up."""

import functools
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from amortized import PFNClassifier, PFNRegressor, load


def numbers():
    """Any finite numbers; or few of them, so that rows, columns and answers are often equal."""
    return st.one_of(
        st.just(st.floats(allow_nan=False, allow_infinity=False)),
        st.just(st.floats(-1e3, 1e3)),
        st.just(st.integers(-2, 2).map(float)),
        st.floats(allow_nan=False, allow_infinity=False).map(st.just),
    )


@st.composite
def tables_of_numbers(draw):
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    f = draw(st.sampled_from([1, 1, 2, 10]))
    columns = [draw(hnp.arrays(float, n, elements=draw(numbers()))) for _ in range(f)]
    y = draw(hnp.arrays(float, n, elements=draw(numbers())))
    query = draw(hnp.arrays(float, (m, f), elements=draw(numbers())))
    return np.stack(columns, 1), y, query


WORDS = st.one_of(st.sampled_from(["red", "green", "blue"]), st.text(max_size=4))
THINGS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), WORDS, st.dates(), st.just(pd.NA)
)
DATES = st.datetimes(pd.Timestamp("1700-01-01"), pd.Timestamp("2200-01-01"))


@st.composite
def columns(draw, n):
    """A column of a frame: numbers with gaps, words, dates, or anything mixed."""

    def values(strategy):
        return pd.Series(draw(st.lists(strategy, min_size=n, max_size=n)), dtype=object)

    kind = draw(st.sampled_from(["number", "gaps", "word", "category", "mixed", "date", "flag"]))
    if kind == "number":
        return pd.Series(draw(hnp.arrays(float, n, elements=draw(numbers()))))
    if kind == "gaps":
        return values(st.one_of(draw(numbers()), st.just(np.nan))).astype(float)
    if kind == "date":
        return values(st.one_of(DATES, st.none())).astype("datetime64[us]")
    if kind == "flag":
        return values(st.booleans()).astype(bool)
    found = values(THINGS if kind == "mixed" else st.one_of(WORDS, st.none()))
    return found.astype("category") if kind == "category" else found


@st.composite
def mixed_tables(draw):
    """A frame, labels and numbers for its first rows, and all of its rows as the query."""
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    f = draw(st.sampled_from([1, 2, 3, 10]))
    frame = pd.DataFrame({f"c{j}": draw(columns(n + m)) for j in range(f)})
    labels = st.sampled_from([WORDS, st.integers(0, 11), st.booleans()])
    label = draw(st.lists(draw(labels), min_size=n, max_size=n))
    y = draw(hnp.arrays(float, n, elements=draw(numbers())))
    return frame.iloc[:n], np.array(label, dtype=object), y, frame


network = functools.cache(load)


def assert_sound(predictive):
    """Finite numbers, and quantiles that increase."""
    levels = torch.linspace(0.001, 0.999, 21, dtype=torch.float64)[:, None]
    quantiles = predictive.icdf(levels)
    for answer in (predictive.mean, predictive.stddev, quantiles, predictive.entropy()):
        assert answer.isfinite().all()
    assert (quantiles.diff(dim=0) > 0).all() and (predictive.stddev > 0).all()
    assert not predictive.log_prob(quantiles).isnan().any()


@settings(max_examples=100)
@given(tables_of_numbers())
def test_any_table_of_numbers_is_answered_or_too_large(table):
    X, y, query = table
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The target does not vary")
        warnings.filterwarnings("ignore", "The prior of the network does not fit")
        warnings.filterwarnings("ignore", "Expected .* in raw units")
        try:
            estimator = PFNRegressor(network("gp-1d" if X.shape[1] == 1 else "gp")).fit(X, y)
        except ValueError as error:
            assert "Expected numbers of at most 1e+150" in str(error)
            assert max(np.abs(X).max(), np.abs(y).max()) > 1e150
            return
        for rows in (X, query):
            assert_sound(estimator.predict_distribution(rows))


def classify(X, label, y, query):
    estimator = PFNClassifier(network("tabular-classifier"), n_estimators=1).fit(X, label)
    proba = estimator.predict_proba(query)
    assert proba.shape == (len(query), len(set(label)))
    assert (proba >= 0).all() and np.abs(proba.sum(1) - 1).max() < 1e-9
    assert set(estimator.predict(query)) <= set(label)


def regress(X, label, y, query):
    estimator = PFNRegressor(network("tabular-regressor"), n_estimators=1).fit(X, y)
    assert_sound(estimator.predict_distribution(query))


@pytest.mark.parametrize("ask", [classify, regress])
@settings(max_examples=40)
@given(table=mixed_tables())
def test_any_frame_is_answered_or_refused_in_words(ask, table):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The target does not vary")
        warnings.filterwarnings("ignore", "The prior of the network does not fit")
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # of pandas
        try:
            ask(*table)
        except (ValueError, TypeError) as error:
            assert str(error).startswith(("Expected", "Input X contains infinity"))
