"""Tables as people have them, made into numbers: what every estimator over tables shares.

A column is one of
    numbers      integers, floats, bools, and objects that are all numbers: as they are
    times        datetimes and timedeltas: days
    categories   strings, categoricals and any other objects: a number each, in sorted order (in
                 their own order if it is an ordered categorical)
Missing values (NaN, None, NaT, pandas.NA) stay missing; so do categories that the fitted table
did not have. Columns that do not vary are left out: they say nothing.
"""

from collections.abc import Sequence
from numbers import Number
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, validate_data

Numbers = NDArray[np.float64]
MAX_COLUMNS = 100  # what an estimator shows a network of a wider table


def validated_columns(estimator: BaseEstimator, X: Any, *, reset: bool) -> list[Any]:
    """Check a table against the estimator's names and number of features; return its columns.

    Args:
        estimator: gets, or has, ``n_features_in_`` and ``feature_names_in_``.
        X: a DataFrame, or anything that numpy makes a matrix of numbers or objects of.
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
        validate_data(estimator, X, skip_check_array=True, reset=reset)
        return [X.iloc[:, j] for j in range(X.shape[1])]
    array = X if hasattr(X, "dtype") else np.asarray(X) if _is_ragged_or_text(X) else X
    if getattr(getattr(array, "dtype", None), "kind", "f") in "OUS":
        array = check_array(array, dtype=None, ensure_all_finite=False)
        validate_data(estimator, array, skip_check_array=True, reset=reset)
    else:
        array = validate_data(
            estimator, array, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset
        )
    return list(array.T)


def _is_ragged_or_text(X: Any) -> bool:
    """Whether a list holds text or objects, which must not be read as numbers by force."""
    return (
        isinstance(X, list | tuple)
        and np.asarray(X, dtype=object).ravel().size > 0
        and any(
            isinstance(value, str) or value is None for value in np.asarray(X, dtype=object).ravel()
        )
    )


class TableEncoder:
    """Makes numbers of a table's columns, standardised ones; fitted to one table, used on others.

    Attributes:
        categories: for each column its categories as text, or None for numbers and times.
        kept: numbers of the columns that vary.
        centre: of the kept columns.
        scale: of the kept columns.

    Example:
        >>> encoder = TableEncoder()
        >>> table = [np.array([1.0, 2.0, 3.0]), np.array(["b", "a", None], dtype=object)]
        >>> encoder.fit_transform(table).round(2)
        array([[-1.22,  1.  ],
               [ 0.  , -1.  ],
               [ 1.22,   nan]])
    """

    def fit_transform(self, columns: Sequence[Any]) -> Numbers:
        """Learn the categories, centres and scales of a table; return it as numbers.

        Args:
            columns: arrays or pandas columns of equal length.

        Returns:
            ``(rows, kept columns)``; one column of zeros if none varies.
        """
        self.categories: list[list[str] | None] = [_categories(column) for column in columns]
        numbers = self._numbers(columns)
        self.kept = np.flatnonzero([_varies(column) for column in numbers.T])
        numbers = numbers[:, self.kept]
        # Halved before they are added or subtracted: the largest floats do not overflow then.
        most = np.nanmax(np.abs(numbers), axis=0, initial=0.0)
        self.unit = np.where(most > 0, most, 1.0)
        numbers = numbers / self.unit
        self.centre = np.nanmean(numbers, axis=0) if len(self.kept) else np.zeros(0)
        scale = np.nanstd(numbers, axis=0) if len(self.kept) else np.zeros(0)
        self.scale = np.where(scale > 0, scale, 1.0)
        return self._standardised(numbers)

    def transform(self, columns: Sequence[Any]) -> Numbers:
        """A table like the fitted one as numbers."""
        return self._standardised(self._numbers(columns)[:, self.kept] / self.unit)

    def _standardised(self, numbers: Numbers) -> Numbers:
        if not len(self.kept):
            return np.zeros((len(numbers), 1))
        return (numbers - self.centre) / self.scale

    def _numbers(self, columns: Sequence[Any]) -> Numbers:
        encoded = [
            _as_numbers(column, j) if known is None else _codes(column, known)
            for j, (column, known) in enumerate(zip(columns, self.categories, strict=True))
        ]
        return np.stack(encoded, axis=1)

    def state(self) -> dict[str, Any]:
        """All that was learned, as lists and numbers."""
        return {
            "categories": self.categories,
            "kept": self.kept.tolist(),
            "unit": self.unit.tolist(),
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TableEncoder":
        """The encoder that had this ``state()``."""
        encoder = cls()
        encoder.categories = state["categories"]
        encoder.kept = np.asarray(state["kept"], dtype=np.intp)
        for name in ("unit", "centre", "scale"):
            setattr(encoder, name, np.asarray(state[name], dtype=np.float64))
        return encoder


def _varies(column: Numbers) -> bool:
    known = column[~np.isnan(column)]
    # Whether a value is missing is news as well.
    return bool(known.size and (np.any(known != known[0]) or known.size < column.size))


def _is_time(column: Any) -> bool:
    return getattr(column.dtype, "kind", "O") in "Mm"


def _objects(column: Any) -> NDArray[Any]:
    """The column's values as Python objects, missing ones as None."""
    values = np.array(column.astype(object), dtype=object)
    present = np.array([_is_present(value) for value in values], dtype=bool)
    values[~present] = None
    return values


def _is_present(value: Any) -> bool:
    if value is None:
        return False
    try:
        return bool(value == value)  # NaN and NaT differ from themselves
    except (TypeError, ValueError):
        # pandas.NA has no truth value; neither has an array, but that is a value.
        return type(value).__name__ != "NAType"


def _categories(column: Any) -> list[str] | None:
    """The categories of a column in their order, or None for numbers and times."""
    ordered = getattr(column.dtype, "ordered", None)
    if ordered:
        return [str(category) for category in column.dtype.categories]
    if ordered is None and getattr(column.dtype, "kind", "O") in "biufMm":
        return None
    values = [value for value in _objects(column) if value is not None]
    if ordered is None and all(isinstance(value, Number | np.bool_) for value in values):
        return None
    return sorted({str(value) for value in values})


def _codes(column: Any, categories: list[str]) -> Numbers:
    code = {category: float(k) for k, category in enumerate(categories)}
    return np.array(
        [np.nan if value is None else code.get(str(value), np.nan) for value in _objects(column)]
    )


def _as_numbers(column: Any, position: int) -> Numbers:
    """Numbers and times as floats; the position is for the error."""
    if _is_time(column):
        if getattr(column.dtype, "tz", None) is not None:
            column = column.dt.tz_convert(None)
        times = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)
        missing = np.isnat(times)
        return np.where(missing, np.nan, times.astype("int64") / _ticks_a_day(times.dtype))
    try:
        if getattr(column.dtype, "kind", "O") == "O" or hasattr(column, "iloc"):
            objects = _objects(column)
            values = np.array([np.nan if value is None else float(value) for value in objects])
        else:
            values = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError) as reason:
        raise ValueError(
            f"Expected numbers in column {position}, as in the fitted table; got {reason}."
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


def strongest_columns(x: NDArray[np.floating], target: Numbers, most: int) -> NDArray[np.intp]:
    """The columns that depend most on the target, one at a time; all of them if there are few.

    Ranked by the largest absolute correlation of the column's ranks, or of their distance from
    the middle, with a column of the target; missing values take the middle rank.

    Args:
        x: numbers, ``(rows, columns)``.
        target: ``(rows, outputs)``: the answers, or an indicator of each class.
        most: how many columns to keep.

    Returns:
        Column numbers in ascending order.
    """
    if x.shape[1] <= most:
        return np.arange(x.shape[1])
    missing = np.isnan(x)
    ranks = np.where(missing, 0.0, x.argsort(0).argsort(0) / max(len(x) - 1, 1) - 0.5)
    strength = np.zeros(x.shape[1])
    target = target - target.mean(0)
    target = target / np.maximum(np.linalg.norm(target, axis=0), 1e-12)
    for feature in (ranks, np.abs(ranks), missing.astype(np.float64)):
        feature = feature - feature.mean(0)
        norm = np.maximum(np.linalg.norm(feature, axis=0), 1e-12)
        strength = np.maximum(strength, np.abs(feature.T @ target).max(1) / norm)
    return np.sort(np.argsort(-strength, kind="stable")[:most])
