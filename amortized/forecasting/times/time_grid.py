"""Times of a series as numbers of equal steps, with the periods that their calendar suggests."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DAY = 86_400
# Seconds of a step, and the periods of its day, week or year in steps.
_PERIODS = {
    900: (96.0, 672.0),
    1800: (48.0, 336.0),
    3600: (24.0, 168.0),
    _DAY: (7.0,),
    7 * _DAY: (52.0,),
}
_SHORTEST_MONTH = 25 * _DAY
_TOLERANCE = 1e-6  # of a step
_MOST_STEPS = 10_000_000


@dataclass(frozen=True)
class TimeGrid:
    """Where the rows of a series stand.

    Attributes:
        order: order of the rows in time, ``(n,)``.
        place: number of each row's step, in that order, from 0, ``(n,)``.
        periods: in steps; (1.0,) if the calendar suggests none.
        future: the times of the next h steps, of the kind of the times given.
    """

    order: NDArray[np.intp]
    place: NDArray[np.intp]
    periods: tuple[float, ...]
    future: Callable[[int], Any]


def time_grid(t: Any, n: int) -> TimeGrid:
    """The grid of times.

    Args:
        t: numbers, dates (NumPy's or pandas's, with a time zone or not), or a pandas index of
            them; None is one step after the other.
        n: number of rows.

    Raises:
        ValueError: if times are missing or come twice, or are no multiples of one step.

    Example:
        >>> time_grid([0.0, 0.5, 2.0], 3).place
        array([0, 1, 4])
    """
    if t is None:
        place = np.arange(n)
        return TimeGrid(place, place, (1.0,), partial(_steps_after, n - 1, 1))
    if len(t) != n:
        raise ValueError(f"Expected {n} times, one for each value; got {len(t)}.")
    kind = np.asarray(t).dtype.kind
    if kind in "iuf":
        whole = np.int64 if kind in "iu" else np.float64
        return _of_numbers(np.asarray(t, dtype=whole))
    if kind not in "MO":
        raise ValueError(f"Expected times as numbers or dates; got {np.asarray(t).dtype}.")
    return _of_dates(t)


def _refuse_repeated(sorted_times: Any) -> None:
    again = np.flatnonzero(sorted_times[1:] == sorted_times[:-1])
    if len(again):
        raise ValueError(
            f"Expected distinct times; got {len(again)} that come twice, such as "
            f"{sorted_times[again[0]]}. Aggregate them first, as by groupby(level=0).mean()."
        )


def _of_numbers(t: NDArray[Any]) -> TimeGrid:
    if not np.isfinite(t).all():
        raise ValueError("Expected finite times; some are NaN or infinite. Leave these rows out.")
    order = np.argsort(t, kind="stable")
    t = t[order]
    _refuse_repeated(t)
    step = np.diff(t).min() if len(t) > 1 else 1
    place = _places((t - t[0]) / step)
    return TimeGrid(order, place, (1.0,), partial(_steps_after, t[-1], step))


def _places(x: NDArray[np.float64]) -> NDArray[np.intp]:
    """Whole numbers of steps."""
    whole = np.round(x)
    off = np.abs(x - whole)
    if off.max() > max(_TOLERANCE, 1e-12 * float(np.abs(x).max())):
        raise ValueError(
            "Expected times that are multiples of one step, the smallest difference; got some "
            f"between, such as {x[int(off.argmax())]:.4g} steps after the first. Put the series on "
            "a regular grid, as by resample, or give t=np.arange(n) if the steps count as equal."
        )
    if np.abs(whole).max() > _MOST_STEPS:
        raise ValueError(
            f"Expected times within {_MOST_STEPS:,} of the smallest steps between them; got "
            f"{np.abs(whole).max():.4g}. Leave out the times that are far away, or give the steps "
            "as t=np.arange(n)."
        )
    return whole.astype(np.intp)


def _of_dates(t: Any) -> TimeGrid:
    import pandas  # type: ignore[import-untyped]

    if isinstance(t, pandas.PeriodIndex):
        grid = _of_dates(t.to_timestamp())
        return replace(grid, future=partial(_periods_after, grid.future, t.freq))
    try:
        index = pandas.DatetimeIndex(pandas.Index(t))
    except (TypeError, ValueError) as reason:
        raise ValueError(
            f"Expected times as numbers or dates; got {reason}. Give t=np.arange(n) if the rows "
            "follow one another."
        ) from reason
    if index.hasnans:
        raise ValueError("Expected dates without NaT. Leave these rows out.")
    order = np.argsort(index.asi8, kind="stable")
    index = index[order]
    _refuse_repeated(index)
    wall = index.tz_localize(None)  # clock times: a day has 24 hours of them
    clock, world = _seconds(wall), _seconds(index)
    step = float(np.diff(world).min()) if len(index) > 1 else float(_DAY)
    if step >= _SHORTEST_MONTH and (_same_day(wall) or not _multiples(clock, step)):
        return _of_months(order, index, wall)
    if getattr(t, "freqstr", None) == "B" or _skips_weekends(wall, clock):
        days = wall.values.astype("datetime64[D]")
        place = np.busday_count(days[0], days).astype(np.intp)
        return TimeGrid(order, place, (5.0,), partial(_business_days, index[-1]))
    local = index.tz is not None and _multiples(clock, _DAY)
    if local and len(index) > 1:
        step = float(np.diff(clock).min())
    seconds = clock if local else world
    place = _places((seconds - seconds[0]) / step)
    periods = _PERIODS.get(round(step), (1.0,))
    return TimeGrid(order, place, periods, partial(_next, index[-1], step, local))


def _seconds(index: Any) -> NDArray[np.float64]:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[index.unit]
    return (index.asi8 - index.asi8[0]) / per_second


def _multiples(seconds: NDArray[np.float64], step: float) -> bool:
    x = seconds / step
    return bool(np.abs(x - np.round(x)).max() < _TOLERANCE)


def _same_day(wall: Any) -> bool:
    """Whether all dates are the same day of a month, or the last, as months of 31 days are too."""
    return len(set(wall.day)) == 1 or bool(wall.is_month_end.all())


def _skips_weekends(wall: Any, clock: NDArray[np.float64]) -> bool:
    """Whether these are business days, of at least two weeks."""
    apart = np.diff(clock)
    return (
        len(wall) >= 8
        and float(apart.min()) == _DAY
        and bool((wall.day_of_week < 5).all())
        and _multiples(clock, _DAY)
    )


def _of_months(order: NDArray[np.intp], index: Any, wall: Any) -> TimeGrid:
    """One row a month at most; days within the month do not count."""
    month = np.asarray(wall.year * 12 + wall.month, dtype=np.intp)
    apart = np.diff(month)
    if len(apart) and apart.min() < 1:
        raise ValueError(
            "Expected times that are multiples of one step, or at most one in a month; got two in "
            f"{wall[int(apart.argmin())]:%Y-%m} at other distances. Put the series on a regular "
            "grid, as by resample."
        )
    step = math.gcd(*apart.tolist()) if len(apart) else 1
    begin, day_in = wall[-1].replace(day=1), _day_in_month(wall)
    future = partial(_months_after, begin, step, day_in, index.tz)
    period = 12 / step
    periods = (period,) if period >= 2 and period == int(period) else (1.0,)
    return TimeGrid(order, (month - month[0]) // step, periods, future)


def _day_in_month(wall: Any) -> Callable[[Any], Any]:
    """From the first of a month to the day on which its row stands."""
    from pandas import offsets

    latest = int(wall.day.max())
    kinds = [offsets.MonthEnd()]
    if int(wall.day.min()) < latest:
        kinds += [offsets.BMonthEnd(), offsets.BMonthBegin()]
    for kind in kinds:
        if all(map(kind.is_on_offset, wall)):
            return kind.rollforward
    # The 30th is the 28th or 29th in February.
    usual = bool(((wall.day == latest) | wall.is_month_end).all())
    day = latest if usual else wall[-1].day
    return partial(_at_day, day)


def _at_day(day: int, first: Any) -> Any:
    return first.replace(day=min(day, first.days_in_month))


# Bound by `partial` to functions of h: unlike closures, these can be pickled with a forecaster.
def _steps_after(last: Any, step: Any, h: int) -> NDArray[Any]:
    return last + step * np.arange(1, h + 1)


def _periods_after(dates: Callable[[int], Any], freq: Any, h: int) -> Any:
    import pandas

    return pandas.PeriodIndex(dates(h), freq=freq)


def _months_after(begin: Any, step: int, day_in: Callable[[Any], Any], zone: Any, h: int) -> Any:
    import pandas

    months = [begin + pandas.DateOffset(months=step * k) for k in range(1, h + 1)]
    return _in_zone(pandas.DatetimeIndex([day_in(each) for each in months]), zone)


def _business_days(last: Any, h: int) -> Any:
    import pandas

    return pandas.date_range(last, periods=h + 1, freq="B")[1:]


def _next(last: Any, step: float, local: bool, h: int) -> Any:
    import pandas

    ahead = pandas.to_timedelta(step * np.arange(1, h + 1), unit="s").as_unit(last.unit)
    if not local:
        return last + ahead
    return _in_zone(last.tz_localize(None) + ahead, last.tz)


def _in_zone(wall: Any, zone: Any) -> Any:
    """Clock times in their zone; the first of two that are the same, the next if there is none."""
    summer = np.ones(len(wall), dtype=bool)
    return wall.tz_localize(zone, ambiguous=summer, nonexistent="shift_forward")
