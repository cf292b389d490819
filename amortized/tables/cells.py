"""Kinds of columns of a table, and the conversion of their cells to numbers.

Values of different kinds are never compared: a datetime is not a duration, and a time
in a time zone is not the same as one without.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from numbers import Number
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
NUMBERS, TEXT, DATETIMES, ZONED, TIMEDELTAS = (
    "numbers",
    "text",
    "datetimes",
    "datetimes with a time zone",
    "timedeltas",
)
ANY_TIMES = "times"  # from files of an older version, which do not say which
TIMES = (DATETIMES, ZONED, TIMEDELTAS, ANY_TIMES)
_CONVERSIONS = {
    DATETIMES: "pandas.to_datetime, or dt.tz_localize(None) where they have a time zone",
    ZONED: "dt.tz_localize('UTC')",
    TIMEDELTAS: "pandas.to_timedelta",
}


def objects_of(column: Any) -> NDArray[Any]:
    """The column's values as Python objects, with None for missing values."""
    if getattr(column.dtype, "kind", "O") in "mM" and isinstance(column, np.ndarray):
        column = column.astype(f"{column.dtype.kind}8[us]")  # nanoseconds would become integers
    values = np.array(column.astype(object), dtype=object)
    present = np.array([is_present(value) for value in values], dtype=bool)
    values[~present] = None
    return values


def is_present(value: Any) -> bool:
    """Whether a value differs from NaN, None, NaT and pandas.NA."""
    if value is None:
        return False
    try:
        return bool(value == value)  # NaN and NaT are not equal to themselves
    except (TypeError, ValueError, ArithmeticError):
        # pandas.NA has no truth value; arrays and signalling decimals have none either, but are
        # values.
        return type(value).__name__ != "NAType"


def kind_of(column: Any, position: int) -> str | None:
    """The kind of a column, or None for objects that are all missing.

    Args:
        column: an array or a pandas column.
        position: of the column, for the error.

    Raises:
        ValueError: if only some of its datetimes have a time zone.

    Example:
        >>> kind_of(np.array([timedelta(1), None], dtype=object), 0)
        'timedeltas'
    """
    kind = getattr(column.dtype, "kind", "O")
    if hasattr(column.dtype, "ordered"):
        return TEXT
    if kind == "M":
        return DATETIMES if getattr(column.dtype, "tz", None) is None else ZONED
    if kind == "m" or kind in "biuf":
        return TIMEDELTAS if kind == "m" else NUMBERS
    values = [value for value in objects_of(column) if value is not None]
    if all(isinstance(value, Number | np.bool_) for value in values):
        return NUMBERS if values else None
    if all(isinstance(value, timedelta | np.timedelta64) for value in values):
        return TIMEDELTAS
    if not all(isinstance(value, date | np.datetime64) for value in values):
        return TEXT
    zoned = {getattr(value, "tzinfo", None) is not None for value in values}
    if len(zoned) > 1:
        raise ValueError(
            f"Expected datetimes that all have a time zone, or none, in {_named(column, position)}"
            f"; got both. Convert them, as by {_CONVERSIONS[ZONED]}."
        )
    return ZONED if zoned.pop() else DATETIMES


def refuse_other_kind(
    fitted: str, categories: Sequence[str] | None, column: Any, position: int
) -> None:
    """Raises an error for a column that cannot be compared with the fitted one.

    Categories may be numbers as text; text where numbers were is read, or refused, as numbers.

    Args:
        fitted: kind of the fitted column.
        categories: its categories, or None.
        column: the new column.
        position: of the column.

    Raises:
        ValueError: with the kinds of both.
    """
    came = kind_of(column, position)
    if came in (None, fitted) or (came in TIMES and fitted == ANY_TIMES):
        return
    values = [value for value in objects_of(column) if value is not None]
    if not values or (fitted, came) == (NUMBERS, TEXT):
        return
    if fitted == TEXT and _may_be_among(categories or (), came, values):
        return
    how = f", as by {_CONVERSIONS[fitted]}" if fitted in _CONVERSIONS else ""
    raise ValueError(
        f"Expected {fitted} in {_named(column, position)}, as in the fitted table; got {came}. "
        f"Convert them{how}, or fit again."
    )


def _may_be_among(categories: Sequence[str], came: str, values: list[Any]) -> bool:
    """Whether values of another kind are categories, or numbers where some categories are."""
    if not categories or (came == NUMBERS and any(map(_is_number, categories))):
        return True
    known = set(categories)
    return any(text_of(value) in known or str(value) in known for value in values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _named(column: Any, position: int) -> str:
    name = getattr(column, "name", None)
    return f"column {position} ({name!r})" if isinstance(name, str) else f"column {position}"


def categories_of(column: Any) -> list[str]:
    """The categories of a column of text, sorted, or in their own order if they have one."""
    if getattr(column.dtype, "ordered", None):
        return [text_of(category) for category in column.dtype.categories]
    return sorted({text_of(value) for value in objects_of(column) if value is not None})


def text_of(category: Any) -> str:
    """A category as text, with "3" for 3.0, because missing values turn integers into floats."""
    whole = isinstance(category, float | np.floating) and category.is_integer()
    return str(int(category) if whole else category)


def codes(column: Any, categories: list[str]) -> Numbers:
    """The code of each category; unknown ones are missing."""
    code = {category: float(k) for k, category in enumerate(categories)}

    def number(value: Any) -> float:
        # The training table may have contained "3.0" as text.
        return np.nan if value is None else code.get(text_of(value), code.get(str(value), np.nan))

    return np.array([number(value) for value in objects_of(column)])


def days(column: Any) -> Numbers:
    """Times as days; with a time zone, in universal time."""
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if column.dtype == object:
        values = [_naive(value) for value in objects_of(column)]
        durations = any(isinstance(value, timedelta | np.timedelta64) for value in values)
        column = np.array(values, dtype="timedelta64[us]" if durations else "datetime64[us]")
    times = np.asarray(column.to_numpy() if hasattr(column, "to_numpy") else column)
    return np.where(np.isnat(times), np.nan, times.astype("int64") / _ticks_a_day(times.dtype))


def _naive(value: Any) -> Any:
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


def _ticks_a_day(dtype: np.dtype[Any]) -> float:
    unit, count = np.datetime_data(dtype)
    return float(np.timedelta64(1, "D") / np.timedelta64(count, cast(Any, unit)))


def times_of(number_of_days: Numbers, kind: str) -> NDArray[Any]:
    """The inverse of `days`, as Python objects, to the microsecond.

    Example:
        >>> times_of(np.array([0.5]), TIMEDELTAS)
        array([datetime.timedelta(seconds=43200)], dtype=object)
    """
    unit = "timedelta64[us]" if kind == TIMEDELTAS else "datetime64[us]"
    times = np.round(number_of_days * 86_400e6).astype("int64").astype(unit).astype(object)
    if kind == ZONED:
        times = np.array([time.replace(tzinfo=UTC) for time in times], dtype=object)
    return times


def floats(column: Any, position: int) -> Numbers:
    """Numbers, or text that can be read as such, as floats.

    Args:
        column: an array or a pandas column.
        position: of the column, for the error.

    Raises:
        ValueError: if a cell is no finite number.
    """
    try:
        if getattr(column.dtype, "kind", "O") == "O" or hasattr(column, "iloc"):
            objects = objects_of(column)
            values = np.array([np.nan if value is None else float(value) for value in objects])
        else:
            values = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as reason:
        raise ValueError(
            f"Expected numbers in {_named(column, position)}, as in the fitted table; got {reason}."
            " Convert them, or replace them by NaN for missing values."
        ) from reason
    if np.isinf(values).any():
        raise ValueError(
            f"Expected finite numbers or missing values; {_named(column, position)} contains "
            "infinity. Replace infinity by a number, or by NaN for a missing value."
        )
    return values
