"""One series or many, as users give them, on their grids of equal steps."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amortized.arrays import as_tensor
from amortized.forecasting.times.time_grid import TimeGrid, time_grid

FEWEST = 3
_LARGEST = 1e100  # squares of larger values overflow


@dataclass(frozen=True)
class SeriesTable:
    """Series of equal steps.

    Attributes:
        values: values of each series, up to its last row; NaN where missing.
        grids: grids of each series.
        single: whether one series was given by itself.
        names: names of the columns, if they have some.
        listed: whether they were given as a list, each with times of its own.
    """

    values: list[NDArray[np.float64]]
    grids: list[TimeGrid]
    single: bool
    names: Any = None
    listed: bool = False


def series_table(y: Any, t: Any = None, *, counts: bool = False) -> SeriesTable:
    """Read series.

    Args:
        y: one series, ``(n,)``; several of equal length as columns, ``(n, n_series)``; a pandas
            series or frame, whose index is read; or a list of series of any lengths.
        t: times of the rows, as for `time_grid`; None takes the index, or one step after the other.
        counts: whether values must be counts.

    Raises:
        ValueError: if an index has several levels, or its numbers are not in equal steps; if a
            value is infinite or too large, a series has fewer than three values, or
            counts are negative or not whole.
    """
    if isinstance(y, list | tuple) and len(y) and not _is_number(y[0]):
        if t is not None and len(t) != len(y):
            raise ValueError(f"Expected t as a list of {len(y)} times, one each; got {len(t)}.")
        times = [None] * len(y) if t is None else t
        tables = [series_table(one, at, counts=counts) for one, at in zip(y, times, strict=True)]
        values = [v for table in tables for v in table.values]
        grids = [grid for table in tables for grid in table.grids]
        return SeriesTable(values, grids, False, listed=True)
    names = getattr(y, "columns", None)
    if t is None:
        t = _own_times(y)
    data = as_tensor(y, "y", allow_nan=True).detach().cpu().numpy()
    if data.ndim not in (1, 2) or data.shape[0] < 1 or data.size == 0:
        raise ValueError(
            f"Expected y of shape (n,) or (n, n_series), or a list of series; got {data.shape}."
        )
    grid = time_grid(t, len(data))
    columns = data[grid.order].reshape(len(data), -1).T
    values = [_checked(_placed(column, grid), counts) for column in columns]
    return SeriesTable(values, [grid] * len(values), data.ndim == 1, names)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or value is None or np.ndim(value) == 0


def row_labels(data: Any) -> Any:
    """The index of something of pandas, and None of anything else."""
    index = getattr(data, "index", None)
    return index if hasattr(index, "nlevels") else None


def _own_times(y: Any) -> Any:
    """The index of a series or a frame, if its meaning is clear."""
    index = row_labels(y)
    if index is None:
        return None
    if index.nlevels > 1:
        raise ValueError(
            f"Expected an index of one level; got {index.nlevels}. Give each series as a column, "
            "as by y.unstack(0), or as a member of a list."
        )
    labels = np.asarray(index)
    if labels.dtype.kind not in "iuf" or len(labels) < 2:
        return index
    # What is left after rows were dropped may be times, or row numbers that mean nothing.
    apart = np.diff(labels.astype(np.float64))
    if not apart.min() > 0 or np.ptp(apart) > 1e-6 * apart.min():
        raise ValueError(
            "Expected an index of dates, or of numbers in equal steps; got steps between "
            f"{apart.min():g} and {apart.max():g}. Give t=y.index if these are times, or "
            "t=np.arange(n) if the rows follow one another."
        )
    return index


def _placed(column: NDArray[np.float64], grid: TimeGrid) -> NDArray[np.float64]:
    full = np.full(int(grid.place[-1]) + 1, np.nan)
    full[grid.place] = column
    return full


def _checked(values: NDArray[np.float64], counts: bool) -> NDArray[np.float64]:
    known = values[~np.isnan(values)]
    if len(known) < FEWEST:
        raise ValueError(
            f"Expected at least {FEWEST} values in each series; got {len(known)} that are not "
            "missing."
        )
    if np.abs(known).max() > _LARGEST:
        raise ValueError(
            f"Expected values up to {_LARGEST:g} in size; got {np.abs(known).max():g}. Divide the "
            "series by a power of ten."
        )
    if counts and ((known < 0).any() or (known != np.round(known)).any()):
        wrong = known[(known < 0) | (known != np.round(known))][0]
        raise ValueError(
            f"Expected counts, which are whole and not negative; got {wrong:g}. Give counts=False "
            "for values of other kinds."
        )
    return values[int(np.flatnonzero(~np.isnan(values))[0]) :]  # it begins with its first value
