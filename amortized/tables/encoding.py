"""Conversion of tables of any types to numbers, shared by all estimators over tables.

A column is one of
    numbers      integers, floats, booleans, and objects that are all numbers: unchanged
    times        datetimes, with a time zone or without, timedeltas, and objects that are all such:
                 in days; the kinds are not mixed
    categories   strings, categoricals and any other objects: a code for each, in sorted order
                 (in their own order for an ordered categorical)
Missing values (NaN, None, NaT, pandas.NA) remain missing; categories that did not occur in training
become missing. Constant columns are removed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator
from sklearn.utils import Tags

from amortized.arrays import LARGEST_SQUARED, check_array, validate_data, without_mask
from amortized.tables.cells import (
    ANY_TIMES,
    NUMBERS,
    TEXT,
    TIMES,
    categories_of,
    codes,
    days,
    floats,
    kind_of,
    objects_of,
    refuse_other_kind,
    text_of,
    times_of,
)

Numbers = NDArray[np.float64]
MAX_COLUMNS = 100  # columns of a wider table that an estimator passes to a network
# Larger values, in a column's units (see TableEncoder), are compressed, because float32 could not
# resolve the other values of a column with an outlier.
FAR = 100.0


def with_tables(tags: Tags, reads: bool = True) -> Tags:
    """Tags of an estimator that reads any table: missing values, categories, strings, sparse ones.

    Args:
        tags: tags of the base class, which are changed.
        reads: whether it reads such tables, or dense numbers only.
    """
    for name in ("allow_nan", "categorical", "string", "sparse"):
        setattr(tags.input_tags, name, reads)
    return tags


def validated_columns(estimator: BaseEstimator, X: Any, *, reset: bool) -> list[Any]:
    """Checks a table against the estimator's feature names and returns its columns.

    Args:
        estimator: ``n_features_in_`` and ``feature_names_in_`` are set or compared.
        X: a DataFrame, a sparse matrix, or anything that numpy converts to a matrix of numbers or
            objects.
        reset: whether this is the training table.

    Raises:
        ValueError: if the table is empty, contains infinite numbers, or differs from the training
            table.
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
        with np.errstate(all="ignore"):  # checks of the largest floats overflow
            array = validate_data(
                estimator, array, dtype=np.float64, ensure_all_finite="allow-nan", reset=reset
            )
    return list(array.T)


def _objects_of_lists(X: Any) -> Any:
    """Converts data that contain more than numbers to an array of objects."""
    if getattr(getattr(X, "dtype", None), "kind", "O") == "T":  # text of variable width
        return X.astype(object)
    if not isinstance(X, list | tuple) or np.asarray(X).dtype.kind in "biufc":
        return X
    return np.asarray(X, dtype=object)


class TableEncoder:
    r"""Converts the columns of a table to numbers; fitted to one table and applied to others.

    Values are centred at the column's median and divided by the median distance of values that
    differ from it, neither of which depends on outliers. A value z beyond 100 units is compressed
    to :math:`\pm 100 (1 + \log(|z| / 100))`, which preserves the order.

    Attributes:
        categories: categories of each column as text, or None for numbers and times.
        kinds: kind of each column: "numbers", "text", "datetimes", "datetimes with a time zone" or
            "timedeltas".
        ordered: whether the categories of each column have an order.
        kept: indices of the columns that vary.
        unordered: whether each column of the result is categorical without an order.
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
        """Learns the categories, centres and units of a table, and converts it to numbers.

        Args:
            columns: arrays or pandas columns of equal length.

        Returns:
            ``(rows, kept columns)``; one column of zeros if none varies.
        """
        return self.fit_numbers(self.read(columns))

    def read(self, columns: Sequence[Any], seen: Numbers | None = None) -> Numbers:
        """Learns the types of the columns, and converts them to numbers and codes without scaling.

        Args:
            columns: arrays or pandas columns of equal length.
            seen: the result for earlier rows, ``(earlier rows, columns)``. New categories change
                the codes of earlier ones.

        Returns:
            The earlier rows, if any, followed by the new ones, ``(rows, columns)``.

        Raises:
            ValueError: if the type of a column differs from that of earlier rows.
        """
        if seen is None:
            n = len(columns)
            self.kinds, self.ordered = [NUMBERS] * n, [False] * n
            self.categories: list[list[str] | None] = [None] * n
            seen = np.empty((0, n))
        seen = seen.copy()
        for j, column in enumerate(columns):
            if np.isnan(seen[:, j]).all():  # no value is known so far
                self.kinds[j] = kind_of(column, j) or NUMBERS
                self.categories[j] = categories_of(column) if self.kinds[j] == TEXT else None
                self.ordered[j] = bool(getattr(column.dtype, "ordered", False))
            elif (known := self.categories[j]) is not None:
                refuse_other_kind(self.kinds[j], known, column, j)
                found = self._with_new(known, column, j)
                place = np.searchsorted(found, known) if found != known else np.arange(len(known))
                is_known = ~np.isnan(seen[:, j])
                seen[is_known, j] = place[seen[is_known, j].astype(np.intp)]
                self.categories[j] = found
        return np.concatenate((seen, self._numbers(columns, range(len(columns)))))

    def _with_new(self, known: list[str], column: Any, position: int) -> list[str]:
        """The categories of a column, including those of new rows."""
        before, values = set(known), [value for value in objects_of(column) if value is not None]
        texts = {text_of(value) for value in values if str(value) not in before} - before
        if texts and self.ordered[position]:
            raise ValueError(
                f"Expected the ordered categories {known} in column {position}; got "
                f"{sorted(texts)}. Name all of them in the first call."
            )
        return sorted({*known, *texts}) if texts else known

    def fit_numbers(self, numbers: Numbers) -> Numbers:
        """Learns the centres and units of numbers from `read`, and scales them.

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
        # A quarter of each, so that sums and differences of the largest floats do not overflow.
        found = [centre_and_unit(column[~np.isnan(column)] / 4) for column in numbers.T[self.kept]]
        self.centre, self.unit = np.array(found, dtype=np.float64).reshape(-1, 2).T
        return self._scaled(numbers[:, self.kept])

    def transform(self, columns: Sequence[Any]) -> Numbers:
        """Converts a table to numbers; columns that are not kept are ignored."""
        return self._scaled(self._numbers(columns, self.kept.tolist()))

    def _scaled(self, numbers: Numbers) -> Numbers:
        if not len(self.kept):
            return np.zeros((len(numbers), 1))
        with np.errstate(over="ignore"):
            z = (numbers / 4 - self.centre) / self.unit
        size = np.clip(np.abs(z), FAR, np.finfo(np.float64).max)
        return np.where(size > FAR, np.sign(z) * FAR * (1 + np.log(size / FAR)), z)

    def _numbers(self, columns: Sequence[Any], positions: Sequence[int]) -> Numbers:
        encoded = [self._column(columns[j], j) for j in positions]
        return np.stack(encoded, axis=1) if encoded else np.empty((len(columns[0]), 0))

    def _column(self, column: Any, position: int) -> Numbers:
        kind, known = self.kinds[position], self.categories[position]
        refuse_other_kind(kind, known, column, position)
        if known is not None:
            return codes(column, known)
        return days(column) if kind in TIMES else floats(column, position)

    @property
    def times(self) -> list[bool]:
        """Whether each column contains times."""
        return [kind in TIMES for kind in self.kinds]

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
            table[:, j] = times_of(table[:, j].astype(np.float64), self.kinds[j])
        return table

    def _texts(self, table: NDArray[Any], positions: Sequence[int]) -> NDArray[Any]:
        for j in positions:
            known = self.categories[j] or [""]
            codes = np.clip(table[:, j].astype(np.float64), 0, len(known) - 1)
            table[:, j] = [None if np.isnan(code) else known[int(code)] for code in codes]
        return table

    def state(self) -> dict[str, Any]:
        """The fitted state, as lists and numbers."""
        return {
            "categories": self.categories,
            "kinds": self.kinds,
            "ordered": self.ordered,
            "unordered": self.unordered.tolist(),
            "kept": self.kept.tolist(),
            "centre": self.centre.tolist(),
            "unit": self.unit.tolist(),
        }

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "TableEncoder":
        """The encoder with this ``state()``."""
        encoder = cls()
        encoder.categories, kinds = list(state["categories"]), state.get("kinds")
        if kinds is None:  # an older file
            kinds = [
                TEXT if known is not None else ANY_TIMES if times else NUMBERS
                for known, times in zip(encoder.categories, state["times"], strict=True)
            ]
        encoder.kinds = list(kinds)
        encoder.ordered = list(state.get("ordered", ()))  # missing in older files
        encoder.unordered = np.asarray(state["unordered"], dtype=bool)
        encoder.kept = np.asarray(state["kept"], dtype=np.intp)
        encoder.centre = np.asarray(state["centre"], dtype=np.float64)
        encoder.unit = np.asarray(state["unit"], dtype=np.float64)
        return encoder


def centre_and_unit(values: Numbers) -> tuple[float, float]:
    """The median, and the median distance of values that differ from it; 1 if none does.

    Args:
        values: ``(rows,)``, without missing values.
    """
    centre = np.median(values)
    away = np.abs(values - centre)
    return float(centre), float(np.median(away[away > 0])) if away.any() else 1.0


def _varies(column: Numbers) -> bool:
    known = column[~np.isnan(column)]
    # Missingness counts as variation.
    return bool(known.size and (np.any(known != known[0]) or known.size < column.size))


def in_canonical_order(
    x: NDArray[np.floating], target: NDArray[Any], weight: Numbers | None
) -> tuple[NDArray[np.floating], NDArray[Any], Numbers | None]:
    """Sorts rows by their contents, so that results do not depend on the given order.

    Args:
        x: numbers, ``(rows, columns)``.
        target: targets, ``(rows,)``.
        weight: weights of the rows, ``(rows,)``, or None.
    """
    order = np.lexsort((target, *x.T[::-1]))
    return x[order], target[order], None if weight is None else weight[order]


def location_and_scale(values: NDArray[Any]) -> tuple[Any, Any]:
    """Mean and standard deviation over rows; the latter is 1 or more if nothing varies.

    Args:
        values: ``(rows,)`` or ``(rows, columns)``.
    """
    mean = values.mean(axis=0)
    scale = values.std(axis=0)
    # Rounding errors of a constant do not count as variation.
    rounding = 10 * np.finfo(np.float64).eps * np.abs(mean)
    varies = scale > np.maximum(rounding, 1 / LARGEST_SQUARED)
    return mean, np.where(varies, scale, np.maximum(rounding, 1.0))


def refuse_extremes(values: Numbers, name: str) -> None:
    """Raises a ValueError if squares would overflow; the name is used in the message."""
    largest = np.abs(values).max()
    if largest > LARGEST_SQUARED:
        raise ValueError(
            f"Expected numbers of at most {LARGEST_SQUARED} in {name}; got {largest}. Change its "
            "units."
        )
