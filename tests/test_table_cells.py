"""Columns of a table are read as what they are, and never compared with those of another kind."""

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from amortized.estimators import PFNClassifier, PFNDensity, PFNImputer, PFNRegressor
from amortized.tables.encoding import TableEncoder

N = 12
DAYS = pd.date_range("2020-01-01", periods=N)
COLUMNS = {
    "numbers": np.arange(N) * 1.5,
    "datetimes": pd.Series(DAYS),
    "datetimes with a time zone": pd.Series(DAYS.tz_localize("Europe/Berlin")),
    "timedeltas": pd.Series(DAYS - DAYS[0]),
    "text": pd.Series(["red", "green", "blue"] * 4),
}
AS_OBJECTS = {
    "datetimes": [
        np.array([d.date() for d in DAYS], dtype=object),
        np.array([d.to_pydatetime() for d in DAYS], dtype=object),
        DAYS.to_numpy("datetime64[ns]"),
        DAYS.to_numpy("datetime64[s]"),
        np.array(list(DAYS.to_numpy("datetime64[s]")), dtype=object),
    ],
    "datetimes with a time zone": [
        pd.Series(DAYS.tz_localize("Europe/Berlin").tz_convert("UTC")),
        np.array(list(DAYS.tz_localize("Europe/Berlin")), dtype=object),
    ],
    "timedeltas": [
        np.array([timedelta(k) for k in range(N)], dtype=object),
        (DAYS - DAYS[0]).to_numpy("timedelta64[h]"),
    ],
}


@pytest.mark.parametrize("fitted", COLUMNS)
@pytest.mark.parametrize("came", COLUMNS)
def test_a_column_of_another_kind_is_refused_by_its_name(fitted, came):
    encoder = TableEncoder()
    expected = encoder.fit_transform([pd.Series(COLUMNS[fitted], name="when")])
    asked = [pd.Series(COLUMNS[came], name="when")]
    if fitted == came:
        np.testing.assert_array_equal(encoder.transform(asked), expected)
        return
    found = "could not convert" if (fitted, came) == ("numbers", "text") else came
    message = rf"Expected {fitted} in column 0 \('when'\), as in the fitted table; got {found}"
    with pytest.raises(ValueError, match=message):
        encoder.transform(asked)
    with pytest.raises(ValueError, match=message):  # as of partial_fit
        encoder.read(asked, encoder.numbers([COLUMNS[fitted]]))


@pytest.mark.parametrize("kind", AS_OBJECTS)
def test_a_kind_has_several_types_with_the_same_values(kind):
    encoder = TableEncoder()
    expected = encoder.fit_transform([COLUMNS[kind]])
    for column in AS_OBJECTS[kind]:
        np.testing.assert_allclose(encoder.transform([column]), expected, atol=1e-12)


def test_time_zones_are_all_or_none():
    mixed = np.array([datetime(2020, 1, 1), datetime(2020, 1, 2, tzinfo=UTC)], dtype=object)
    with pytest.raises(ValueError, match="all have a time zone, or none, in column 0; got both"):
        TableEncoder().fit_transform([mixed])


def test_codes_may_be_numbers_and_a_missing_column_has_no_kind():
    encoder = TableEncoder()
    encoder.fit_transform([pd.Series([1, 2, 3]).astype("category")])
    assert np.isnan(encoder.transform([np.array([2.0, 7.0])])[:, 0]).tolist() == [False, True]
    for kind in ("datetimes", "text"):
        encoder.fit_transform([COLUMNS[kind]])
        assert np.isnan(encoder.transform([np.full(2, np.nan, dtype=object)])).all()


def test_a_file_of_an_older_version_tells_times_not_apart():
    encoder = TableEncoder()
    expected = encoder.fit_transform([COLUMNS["timedeltas"]])
    state = encoder.state()
    del state["kinds"]
    older = TableEncoder.from_state(state | {"times": [True]})
    np.testing.assert_array_equal(older.transform([COLUMNS["timedeltas"]]), expected)
    with pytest.raises(ValueError, match="Expected times in column 0.*; got numbers"):
        older.transform([COLUMNS["numbers"]])


@pytest.mark.parametrize("estimator", [PFNClassifier, PFNRegressor, PFNDensity, PFNImputer])
def test_estimators_refuse_durations_for_dates(estimator):
    X = pd.DataFrame({"x": np.arange(N) % 5.0, "when": COLUMNS["datetimes"]})
    fitted = estimator(n_estimators=1).fit(X, np.arange(N) % 2)
    asked = X.assign(when=COLUMNS["timedeltas"])
    asked.loc[0, "x"] = np.nan
    ask = next(
        getattr(fitted, n) for n in ("predict", "transform", "score_samples") if hasattr(fitted, n)
    )
    with pytest.raises(ValueError, match="Expected datetimes in column .* got timedeltas"):
        ask(asked)


@pytest.mark.parametrize("kind", ["datetimes", "datetimes with a time zone", "timedeltas"])
def test_drawn_times_are_of_the_fitted_kind(kind):
    X = pd.DataFrame({"when": COLUMNS[kind]})
    drawn = PFNDensity(n_orders=1).fit(X).sample(20)[:, 0]
    first, last = X["when"].iloc[0], X["when"].iloc[-1]
    reach = 10 * (last - first)
    assert (
        all(first - reach < pd.to_datetime(d) < last + reach for d in drawn)
        if (kind != "timedeltas")
        else all(isinstance(d, timedelta) and abs(d - first) < reach for d in drawn)
    )


def test_missing_dates_of_numpy_are_missing():
    when = DAYS.to_numpy("datetime64[ns]").copy()
    when[3] = np.datetime64("NaT")
    with pytest.raises(ValueError, match="got times"):
        PFNImputer().fit_transform(when[:, None])
    assert PFNImputer().fit_transform(when[:3, None])[0, 0] == datetime(2020, 1, 1)
    assert isinstance(when[0].astype("datetime64[D]").astype(object), date)
