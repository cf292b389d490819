"""Times of series: numbers and calendars, gaps, time zones, and what must be refused."""

import pickle

import numpy as np
import pandas as pd
import pytest

from amortized.forecasting.times.series_table import series_table
from amortized.forecasting.times.time_grid import time_grid


@pytest.mark.parametrize(
    ("index", "periods"),
    [
        (pd.date_range("2020-01-01", periods=30, freq="MS"), (12.0,)),
        (pd.date_range("2020-01-31", periods=30, freq="ME"), (12.0,)),
        (pd.date_range("2020-03-31", periods=30, freq="QE"), (4.0,)),
        (pd.date_range("1990-01-01", periods=30, freq="YS"), (1.0,)),
        (pd.date_range("2020-01-05", periods=30, freq="W"), (52.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="D"), (7.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="B"), (5.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="h"), (24.0, 168.0)),
        (pd.date_range("2020-01-01", periods=30, freq="30min"), (48.0, 336.0)),
        (pd.date_range("2020-01-01", periods=30, freq="BME"), (12.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="BMS"), (12.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="QE-NOV"), (4.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="MS", tz="Europe/Paris"), (12.0,)),
        (pd.period_range("2020-01", periods=30, freq="M"), (12.0,)),
        (pd.period_range("2020-01", periods=30, freq="Q"), (4.0,)),
        (pd.period_range("2020-01-01", periods=30, freq="W"), (52.0,)),
        (pd.date_range("1500-01-01", periods=30, freq="D", unit="s"), (7.0,)),
        (pd.date_range("2020-01-01", periods=30, freq="D", tz="Europe/Paris"), (7.0,)),
        (pd.date_range("2020-10-24", periods=80, freq="h", tz="Europe/Paris"), (24.0, 168.0)),
        (pd.date_range("2020-10-20", periods=30, freq="D", tz="America/New_York"), (7.0,)),
    ],
)
def test_calendars(index, periods):
    n = len(index)
    grid = time_grid(index, n)
    assert grid.place.tolist() == list(range(n)) and grid.periods == periods
    ahead = grid.future(3)
    span = pd.period_range if isinstance(index, pd.PeriodIndex) else pd.date_range
    expected = span(index[0], periods=n + 3, freq=index.freq)[n:]
    assert list(ahead) == list(expected)
    kept = np.r_[0:5, 8:n]  # gaps leave the steps where they were
    assert time_grid(index[kept], len(kept)).place.tolist() == kept.tolist()
    mixed = np.random.default_rng(0).permutation(n)
    assert mixed[time_grid(index[mixed], n).order].tolist() == list(range(n))


@pytest.mark.parametrize(
    ("stamps", "period", "following"),
    [
        (["2021-07-01", "2021-08-01", "2021-09-01"], 12.0, ["2021-10-01", "2021-11-01"]),
        (["2020-12-31", "2021-01-31"], 12.0, ["2021-02-28", "2021-03-31"]),
        (["2021-07-01", "2021-10-01", "2022-01-01"], 4.0, ["2022-04-01", "2022-07-01"]),
        (["2021-01-01", "2022-01-01", "2023-01-01"], 1.0, ["2024-01-01", "2025-01-01"]),
        (["2020-12-30", "2021-01-30", "2021-02-28"], 12.0, ["2021-03-30", "2021-04-30"]),
        (["2021-02-01", "2021-03-01", "2021-04-01"], 12.0, ["2021-05-01", "2021-06-01"]),
    ],
)
def test_months_that_are_equally_long_are_months(stamps, period, following):
    grid = time_grid(pd.DatetimeIndex(stamps), len(stamps))
    assert grid.periods == (period,)
    assert grid.future(2).tolist() == [pd.Timestamp(each) for each in following]


@pytest.mark.parametrize(
    ("last", "following"),
    [  # the clock is set on 28 March and on 31 October
        ("2021-03-27", ["2021-03-28 00:00+01:00", "2021-03-29 00:00+02:00"]),
        ("2021-03-27 02:30", ["2021-03-28 03:00+02:00", "2021-03-29 02:30+02:00"]),
        ("2021-10-30 02:30", ["2021-10-31 02:30+02:00", "2021-11-01 02:30+01:00"]),
    ],
)
def test_days_to_come_keep_their_hour_when_the_clock_is_set(last, following):
    index = pd.date_range(end=last, periods=20, freq="D", tz="Europe/Paris")
    assert time_grid(index, 20).future(2).tolist() == [pd.Timestamp(each) for each in following]


def test_business_days_of_less_than_two_weeks():
    index = pd.bdate_range("2020-01-06", periods=5)
    assert time_grid(index, 5).future(1)[0] == pd.Timestamp("2020-01-13")


def test_large_whole_numbers_are_exact():
    t = 1_600_000_000_000_000_000 + 10 * np.arange(5)
    assert time_grid(t, 5).future(2).tolist() == [int(t[-1]) + 10, int(t[-1]) + 20]


@pytest.mark.parametrize(
    ("index", "following"),
    [
        (pd.RangeIndex(5), 5),
        (pd.Index(np.arange(1990, 1995)), 1995),
        (pd.Index(0.5 * np.arange(5)), 2.5),
        (pd.Index([f"2020-01-0{i}" for i in range(1, 6)]), pd.Timestamp("2020-01-06")),
        (pd.Index(pd.date_range("2020-01-01", periods=5).date), pd.Timestamp("2020-01-06")),
    ],
)
def test_an_index_in_equal_steps_goes_on(index, following):
    assert series_table(pd.Series(np.arange(5.0), index)).grids[0].future(1)[0] == following


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 1, 2, 5], "steps between 1 and 3. Give t=y.index if"),
        ([3, 1, 2, 4], "numbers in equal steps"),
        ([0, 1, 0, 1], "numbers in equal steps"),
        (["a", "b", "c", "d"], "Give t=np.arange"),
        (pd.MultiIndex.from_product([["a", "b"], [1, 2]]), "one level; got 2.*unstack"),
        (pd.to_timedelta([1, 2, 3, 4], unit="h"), "times as numbers or dates"),
    ],
)
def test_an_index_of_unclear_meaning_is_refused(index, message):
    with pytest.raises(ValueError, match=message):
        series_table(pd.Series(np.arange(4.0), index))


def test_numbers():
    grid = time_grid([10, 30, 20, 60], 4)
    assert grid.place.tolist() == [0, 1, 2, 5] and grid.order.tolist() == [0, 2, 1, 3]
    assert grid.future(2).tolist() == [70.0, 80.0]
    assert time_grid(None, 3).future(2).tolist() == [3, 4]
    assert time_grid(1e9 + 0.25 * np.arange(50), 50).place.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("t", "message"),
    [
        ([1.0, 2.0, 2.0], "come twice, such as 2.0"),
        ([1.0, 2.0, np.nan], "finite times"),
        ([0.0, 1.0, 2.4], "multiples of one step"),
        (["a", "b", "c"], "times as numbers or dates"),
        ([1.0, 2.0], "Expected 3 times"),
        (pd.to_datetime(["2020-01-01", "2020-01-01", "2020-01-03"]), "come twice"),
        (pd.to_datetime(["2020-01-01", None, "2020-01-03"]), "without NaT"),
        (
            pd.DatetimeIndex(["2020-01-01 00:00", "2020-01-02 00:00", "2020-01-03 07:00"]),
            "multiples of one",
        ),
    ],
)
def test_wrong_times(t, message):
    with pytest.raises(ValueError, match=message):
        time_grid(t, 3)


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        ([1.0, 2.0], {}, "at least 3 values"),
        ([1.0, np.nan, np.nan, 2.0], {}, "at least 3 values"),
        ([1.0, np.inf, 2.0], {}, "Expected y to be finite"),
        (["a", "b", "c"], {}, "numbers"),
        (np.zeros((4, 2, 2)), {}, "shape"),
        ([1.0, 1e120, 3.0], {}, "up to 1e\\+100"),
        ([1.0, -2.0, 3.0], {"counts": True}, "Expected counts.*got -2"),
        ([1.0, 2.5, 3.0], {"counts": True}, "Expected counts.*got 2.5"),
        ([[1.0, 2.0, 3.0], [1.0]], {}, "at least 3 values"),
    ],
)
def test_wrong_series(y, options, message):
    with pytest.raises(ValueError, match=message):
        series_table(y, **options)


def test_series_of_any_shape():
    frame = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [4.0, np.nan, 6, 7]})
    table = series_table(frame)
    assert list(table.names) == ["a", "b"] and not table.single
    np.testing.assert_array_equal(table.values[1], [4, np.nan, 6, 7])
    assert [len(v) for v in series_table([[1, 2, 3], np.arange(5.0)]).values] == [3, 5]
    assert series_table(np.ma.array([1.0, 2, 3, 4], mask=[0, 1, 0, 0])).values[0][1:2] != 2
    assert len(series_table([np.nan, 1.0, 2.0, 3.0]).values[0]) == 3  # from its first value on


@pytest.mark.parametrize(
    "t",
    [
        None,
        [0.0, 0.5, 1.0, 2.0],
        pd.date_range("2020-01-31", periods=4, freq="ME"),
        pd.date_range("2020-01-15", periods=4, freq="MS") + pd.Timedelta(days=4),
        pd.date_range("2020-01-01", periods=4, freq="h", tz="Europe/Berlin"),
        pd.period_range("2020-01", periods=4, freq="M"),
        pd.bdate_range("2020-01-01", periods=4),
    ],
)
def test_a_grid_is_pickled(t):
    grid = time_grid(t, 4)
    again = pickle.loads(pickle.dumps(grid))
    assert list(again.future(3)) == list(grid.future(3))
