"""Times of series: numbers and calendars, gaps, time zones, and what must be refused."""

import numpy as np
import pandas as pd
import pytest

from amortized.forecasting.series_table import series_table
from amortized.forecasting.time_grid import time_grid


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
        (pd.period_range("2020-01", periods=30, freq="M"), (12.0,)),
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
    stamps = index.to_timestamp() if isinstance(index, pd.PeriodIndex) else index
    expected = pd.date_range(stamps[0], periods=n + 3, freq=stamps.freq)[n:]
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
    ],
)
def test_months_that_are_equally_long_are_months(stamps, period, following):
    grid = time_grid(pd.DatetimeIndex(stamps), len(stamps))
    assert grid.periods == (period,)
    assert grid.future(2).tolist() == [pd.Timestamp(each) for each in following]


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
