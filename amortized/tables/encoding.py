"""Tables as people have them, made into numbers: what every estimator over tables shares.

A column is one of
    numbers      integers, floats, bools, and objects that are all numbers: as they are
    times        datetimes and timedeltas, and objects that are all dates: days
    categories   strings, categoricals and any other objects: a number each, in sorted order (in
                 their own order if it is an ordered categorical)
Missing values (NaN, None, NaT, pandas.NA) stay missing; so do categories that the fitted table
did not have. Columns that do not vary are left out: they say nothing.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from numbers import Number
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator

from amortized.arrays import check_array, validate_data, without_mask

Numbers = NDArray[np.float64]
MAX_COLUMNS = 100  # what an estimator shows a network of a wider table
# In a column's units (see TableEncoder) from here on values are pulled in: float32 would otherwise
# keep nothing of the column beside an outlier.
FAR = 100.0
LARGEST_SQUARED = 1e150  # the square of a larger number, or of a smaller scale, is none


def validated_columns(estimator: BaseEstimator, X: Any, *, reset: bool) -> list[Any]:
    """Check a table against the estimator's names and number of features; return its columns.

    Args:
        estimator: gets, or has, ``n_features_in_`` and ``feature_names_in_``.
        X: a DataFrame, a sparse matrix, or anything that numpy makes a matrix of numbers or
            objects of.
        reset: whether this is the table the estimator is fitted to.

    Raises:
        ValueError: if the table is empty, holds infinite numbers, or differs from the fitted one.
    """
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        if 0 in X.shape:
            raise ValueError(
                f"Found a table with {X.shape[0]} sample(s) and {X.shape[1]} feature(s) "
                f"(shape={X.shape}) while a minimum of 1 is required of both."
            )
        if not X.columns.is_unique:
            twice = X.columns[X.columns.duplicated()][0]
            raise ValueError(f"Expected distinct names of columns; got {twice!r} twice. Rename it.")
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        return [X.iloc[:, j] for j in range(X.shape[1])]
    array = _objects_of_lists(without_mask(X.toarray() if issparse(X) else X))
    if getattr(getattr(array, "dtype", None), "kind", "f") in "OUSmM":
        array = check_array(array, dtype=None, ensure_all_finite=False)
        validate_data(estimator, array, skip_check_array=True, reset=reset)
    else:
        with np.errstate(all="ignore"):  # the largest floats overflow where they are looked at
            array = validate_data(
                estimator, array, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset
            )
    return list(array.T)


def _objects_of_lists(X: Any) -> Any:
    """What holds more than numbers as an array of objects, which no number is made of."""
    if getattr(getattr(X, "dtype", None), "kind", "O") == "T":  # text of variable width
        return X.astype(object)
    if not isinstance(X, list | tuple) or np.asarray(X).dtype.kind in "biufc":
        return X
    return np.asarray(X, dtype=object)


class TableEncoder:
    r"""Makes numbers of a table's columns; fitted to one table, used on others.

    A column's values are counted from its median, in units of the median distance of those values
    that differ from it: no outlier changes either. More than a hundred units out, a value z is
    pulled in to :math:`\pm 100 (1 + \log(|z| / 100))`, which keeps the order.

    Attributes:
        categories: for each column its categories as text, or None for numbers and times.
        times: for each column whether it holds times.
        ordered: for each column whether its categories have an order of their own.
        kept: numbers of the columns that vary.
        unordered: for each column of the numbers whether it holds categories without an order.
        centre: a quarter of the median of each kept column.
        unit: a quarter of its unit.

    Example:
        >>> encoder = TableEncoder()
        >>> table = [np.array([1.0, 2.0, 3.0]), np.array(["b", "a", None], dtype=object)]
        >>> encoder.fit_transform(table)
        array([[-1.,  1.],
               [ 0., -1.],
               [ 1., nan]])
    """

    def fit_transform(self, columns: Sequence[Any]) -> Numbers:
        """Learn the categories, centres and units of a table; return it as numbers.

        Args:
            columns: arrays or pandas columns of equal length.

        Returns:
            ``(rows, kept columns)``; one column of zeros if none varies.
        """
        return self.fit_numbers(self.read(columns))

    def read(self, columns: Sequence[Any], seen: Numbers | None = None) -> Numbers:
        """Learn what kinds of columns there are; return their numbers and codes, without units.

        Args:
            columns: arrays or pandas columns of equal length.
            seen: what this returned for earlier rows, ``(earlier rows, columns)``. Categories that
                are new among these rows move the codes of the earlier ones.

        Returns:
            The earlier rows, if any, and these, ``(rows, columns)``.

        Raises:
            ValueError: if a column's values are of another kind than the earlier ones.
        """
        if seen is None:
            n = len(columns)
            self.times, self.ordered = [False] * n, [False] * n
            self.categories: list[list[str] | None] = [None] * n
            seen = np.empty((0, n))
        seen = seen.copy()
        for j, column in enumerate(columns):
            if np.isnan(seen[:, j]).all():  # nothing is known of it so far
                self.times[j] = _holds_times(column)
                self.categories[j] = None if self.times[j] else _categories(column)
                self.ordered[j] = bool(getattr(column.dtype, "ordered", False))
            elif (known := self.categories[j]) is not None:
                found = self._with_new(known, column, j)
                place = np.searchsorted(found, known) if found != known else np.arange(len(known))
                is_known = ~np.isnan(seen[:, j])
                seen[is_known, j] = place[seen[is_known, j].astype(np.intp)]
                self.categories[j] = found
        return np.concatenate((seen, self._numbers(columns, range(len(columns)))))

    def _with_new(self, known: list[str], column: Any, position: int) -> list[str]:
        """The categories of a column, those of further rows among them."""
        before, values = set(known), [value for value in objects_of(column) if value is not None]
        texts = {_text(value) for value in values if str(value) not in before} - before
        if texts and self.ordered[position]:
            raise ValueError(
                f"Expected the ordered categories {known} in column {position}; got "
                f"{sorted(texts)}. Name all of them in the first call."
            )
        return sorted({*known, *texts}) if texts else known

    def fit_numbers(self, numbers: Numbers) -> Numbers:
        """Learn the centres and units of what `read` returned; return it in these.

        Args:
            numbers: ``(rows, columns)``.

        Returns:
            ``(rows, kept columns)``; one column of zeros if none varies.
        """
        self.kept = np.flatnonzero([_varies(column) for column in numbers.T])
        unordered = [
            self.categories[j] is not None and not self.ordered[j] for j in self.kept.tolist()
        ]
        self.unordered = np.array(unordered or [False])
        # A quarter of each: sums and differences of the largest floats do not overflow then.
        found = [centre_and_unit(column[~np.isnan(column)] / 4) for column in numbers.T[self.kept]]
        self.centre, self.unit = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return self._scaled(numbers[:, self.kept])

    def transform(self, columns: Sequence[Any]) -> Numbers:
        """A table like the fitted one as numbers; columns that are not kept are not read."""
        return self._scaled(self._numbers(columns, self.kept.tolist()))

    def _scaled(self, numbers: Numbers) -> Numbers:
        if not len(self.kept):
            return np.zeros((len(numbers), 1))
        with np.errstate(over="ignore"):
            z = (numbers / 4 - self.centre) / self.unit
        size = np.clip(np.abs(z), FAR, np.finfo(np.float64).max)
        return np.where(size > FAR, np.sign(z) * FAR * (1 + np.log(size / FAR)), z)

    def _numbers(self, columns: Sequence[Any], positions: Sequence[int]) -> Numbers:
        encoded = [
            _as_numbers(columns[j], j, self.times[j])
            if (known := self.categories[j]) is None
            else _codes(columns[j], known)
            for j in positions
        ]
        return np.stack(encoded, axis=1) if encoded else np.empty((len(columns[0]), 0))

    def numbers(self, columns: Sequence[Any]) -> Numbers:
        """Rows of a table like the fitted one as `read` returns them; new categories are missing.

        Args:
            columns: arrays or pandas columns of equal length.
        """
        return self._numbers(columns, range(len(columns)))

    def plain(self, numbers: Numbers) -> NDArray[Any]:
        """What `read` returned, with the codes of categories without an order as text again.

        Args:
            numbers: ``(rows, columns)``.

        Returns:
            Floats, or objects where there is such a column, missing values of which are None.
        """
        unordered = [
            j
            for j, known in enumerate(self.categories)
            if known is not None and not self.ordered[j]
        ]
        if not unordered:
            return numbers
        return self._texts(numbers.astype(object), unordered)

    def named(self, table: NDArray[Any]) -> NDArray[Any]:
        """What `plain` returned, with ordered categories and times as such again.

        Args:
            table: ``(rows, columns)``, none of them missing.

        Returns:
            Floats, or objects where a column holds categories or times.
        """
        ordered = [j for j, is_ordered in enumerate(self.ordered) if is_ordered]
        if not ordered and not any(self.times):
            return table
        table = self._texts(table.astype(object), ordered)
        for j in np.flatnonzero(self.times):
            microseconds = np.round(table[:, j].astype(np.float64) * 86_400e6).astype("int64")
            table[:, j] = microseconds.astype("datetime64[us]").astype(object)
        return table

    def _texts(self, table: NDArray[Any], positions: Sequence[int]) -> NDArray[Any]:
        for j in positions:
            known = self.categories[j] or [""]
            codes = np.clip(table[:, j].astype(np.float64), 0, len(known) - 1)
            table[:, j] = [None if np.isnan(code) else known[int(code)] for code in codes]
        return table

    def state(self) -> dict[str, Any]:
        """All that was learned, as lists and numbers."""
        return {
            "categories": self.categories,
            "times": self.times,
            "ordered": self.ordered,
            "unordered": self.unordered.tolist(),
            "kept": self.kept.tolist(),
            "centre": self.centre.tolist(),
            "unit": self.unit.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TableEncoder":
        """The encoder that had this ``state()``."""
        encoder = cls()
        encoder.categories, encoder.times = list(state["categories"]), list(state["times"])
        encoder.ordered = list(state.get("ordered", ()))  # older files do not say it
        encoder.unordered = np.asarray(state["unordered"], dtype=bool)
        encoder.kept = np.asarray(state["kept"], dtype=np.intp)
        encoder.centre = np.asarray(state["centre"], dtype=np.float64)
        encoder.unit = np.asarray(state["unit"], dtype=np.float64)
        return encoder


def centre_and_unit(values: Numbers) -> tuple[float, float]:
    """Their median, and the median distance from it of those that differ; 1 if none does.

    Args:
        values: ``(rows,)``, none of them missing.
    """
    centre = np.median(values)
    away = np.abs(values - centre)
    return float(centre), float(np.median(away[away > 0])) if away.any() else 1.0


def _varies(column: Numbers) -> bool:
    known = column[~np.isnan(column)]
    # Whether a value is missing is news as well.
    return bool(known.size and (np.any(known != known[0]) or known.size < column.size))


def _holds_times(column: Any) -> bool:
    kind = getattr(column.dtype, "kind", "O")
    if kind != "O" or hasattr(column.dtype, "ordered"):
        return kind in "mM"
    values = [value for value in objects_of(column) if value is not None]
    return bool(values) and all(isinstance(value, date) for value in values)


def objects_of(column: Any) -> NDArray[Any]:
    """The column's values as Python objects, missing ones as None."""
    values = np.array(column.astype(object), dtype=object)
    present = np.array([is_present(value) for value in values], dtype=bool)
    values[~present] = None
    return values


def is_present(value: Any) -> bool:
    """Whether a value is none of NaN, None, NaT and pandas.NA."""
    if value is None:
        return False
    try:
        return bool(value == value)  # NaN and NaT differ from themselves
    except (TypeError, ValueError, ArithmeticError):
        # pandas.NA has no truth value; neither has an array, but that is a value, as is a
        # decimal number that signals.
        return type(value).__name__ != "NAType"


def _categories(column: Any) -> list[str] | None:
    """The categories of a column in their order, or None for numbers and times."""
    ordered = getattr(column.dtype, "ordered", None)
    if ordered:
        return [_text(category) for category in column.dtype.categories]
    if ordered is None and getattr(column.dtype, "kind", "O") in "biufMm":
        return None
    values = [value for value in objects_of(column) if value is not None]
    if ordered is None and all(isinstance(value, Number | np.bool_) for value in values):
        return None
    return sorted({_text(value) for value in values})


def _text(category: Any) -> str:
    """A category as text; 3.0 is 3, as a missing value makes floats of a column of integers."""
    whole = isinstance(category, float | np.floating) and category.is_integer()
    return str(int(category) if whole else category)


def _codes(column: Any, categories: list[str]) -> Numbers:
    code = {category: float(k) for k, category in enumerate(categories)}

    def number(value: Any) -> float:
        # The fitted table may have had "3.0" as text.
        return np.nan if value is None else code.get(_text(value), code.get(str(value), np.nan))

    return np.array([number(value) for value in objects_of(column)])


def _as_numbers(column: Any, position: int, times: bool) -> Numbers:
    """Numbers, or times as days; the position is for the error."""
    held = _holds_times(column)
    if held != times and any(value is not None for value in objects_of(column)):
        found = "times" if held else "numbers" if _categories(column) is None else "text"
        raise ValueError(
            f"Expected {'times' if times else 'numbers'} in column {position}, as in the fitted "
            f"table; got {found}. Convert them{', as by pandas.to_datetime' if times else ''}."
        )
    return _days(column) if held else _floats(column, position)


def _days(column: Any) -> Numbers:
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if column.dtype == object:
        column = np.array([_naive(value) for value in objects_of(column)], dtype="datetime64[us]")
    times = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)
    return np.where(np.isnat(times), np.nan, times.astype("int64") / _ticks_a_day(times.dtype))


def _naive(value: date | None) -> date | None:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def _floats(column: Any, position: int) -> Numbers:
    try:
        if getattr(column.dtype, "kind", "O") == "O" or hasattr(column, "iloc"):
            objects = objects_of(column)
            values = np.array([np.nan if value is None else float(value) for value in objects])
        else:
            values = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as reason:
        raise ValueError(
            f"Expected numbers in column {position}, as in the fitted table; got {reason}. "
            "Convert them, or replace them by NaN for missing values."
        ) from reason
    if np.isinf(values).any():
        raise ValueError(
            f"Expected finite numbers or missing values; column {position} contains infinity. "
            "Replace infinity by a number, or by NaN for a missing value."
        )
    return values


def _ticks_a_day(dtype: np.dtype[Any]) -> float:
    unit, count = np.datetime_data(dtype)
    return float(np.timedelta64(1, "D") / np.timedelta64(count, cast(Any, unit)))


def in_canonical_order(
    x: NDArray[np.floating], target: NDArray[Any], weight: Numbers | None
) -> tuple[NDArray[np.floating], NDArray[Any], Numbers | None]:
    """A table's rows in an order that depends on what they hold alone: theirs cannot matter.

    Args:
        x: numbers, ``(rows, columns)``.
        target: the answers, ``(rows,)``.
        weight: of the rows, ``(rows,)``, or None.
    """
    order = np.lexsort((target, *x.T[::-1]))
    return x[order], target[order], None if weight is None else weight[order]


def location_and_scale(values: NDArray[Any]) -> tuple[Any, Any]:
    """Mean and standard deviation over rows; where nothing varies, 1 or more than rounding.

    Args:
        values: ``(rows,)`` or ``(rows, columns)``.
    """
    mean = values.mean(axis=0)
    scale = values.std(axis=0)
    # What rounding leaves of a constant is no variation.
    rounding = 10 * np.finfo(np.float64).eps * np.abs(mean)
    varies = scale > np.maximum(rounding, 1 / LARGEST_SQUARED)
    return mean, np.where(varies, scale, np.maximum(rounding, 1.0))


def refuse_extremes(values: Numbers, name: str) -> None:
    """Raises a ValueError where squares would overflow; the name is for the error."""
    largest = np.abs(values).max()
    if largest > LARGEST_SQUARED:
        raise ValueError(
            f"Expected numbers of at most {LARGEST_SQUARED} in {name}; got {largest}. Change its "
            "units."
        )
