"""Validation of class labels, shared by all classifiers."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.validation import assert_all_finite

from amortized.arrays import without_mask
from amortized.tables.cells import is_present


def class_labels(y: ArrayLike) -> NDArray[Any]:
    """Converts class labels to an array of one type without missing values.

    Args:
        y: numbers, strings or booleans, ``(rows,)``.

    Raises:
        ValueError: if a label is missing, or the labels are of mixed types.
    """
    y = without_mask(y)
    if isinstance(y, np.ndarray) and y.dtype.kind == "T":  # text of variable width
        y = y.astype(object)
    target: NDArray[Any] = column_or_1d(y, warn=True)
    if target.dtype.kind == "f":
        assert_all_finite(target, input_name="y")
    if target.dtype != object:
        return target
    values = target.tolist()
    missing = [row for row, value in enumerate(values) if not is_present(value)]
    if missing:
        raise ValueError(
            f"Expected a class for every row; got {values[missing[0]]!r} for row {missing[0]}, as "
            "if y contains NaN. Leave such rows out of X and y."
        )
    if all(isinstance(value, bool | np.bool_) for value in values):
        return target.astype(np.bool_)
    if all(isinstance(value, Integral) and abs(int(value)) < 2**63 for value in values):
        return target.astype(np.int64)
    if all(isinstance(value, str) for value in values):
        return target
    names = sorted({type(value).__name__ for value in values})
    raise ValueError(
        f"Unknown label type: expected classes that are all text or all whole numbers; got "
        f"{', '.join(names)}. Convert them, as by y.astype(str)."
    )


def all_classes(
    labels: NDArray[Any], named: ArrayLike | None, known: NDArray[Any] | None
) -> NDArray[Any]:
    """The sorted classes of an estimator that supports ``partial_fit``.

    Args:
        labels: classes of the new rows.
        named: all possible classes; None uses the known classes, or else those of the new rows.
        known: classes of a fitted estimator; None if it is not fitted.

    Raises:
        ValueError: if a new row has an unknown class, or ``named`` differs from ``known``.

    Example:
        >>> all_classes(np.array(["b", "b"]), ["b", "a"], None).tolist()
        ['a', 'b']
    """
    classes = np.unique(class_labels(named)) if named is not None else known
    if classes is None:
        return np.unique(labels)
    if known is not None and not np.array_equal(classes, known):
        raise ValueError(
            f"Expected the classes that were named at first, {known.tolist()}; got "
            f"{classes.tolist()}. Fit a new estimator to tell others apart."
        )
    found = set(labels.tolist()) - set(classes.tolist())
    if found:
        raise ValueError(
            f"Expected classes among {classes.tolist()}; got {sorted(found, key=str)}. Name all "
            "classes in the first call: partial_fit(X, y, classes)."
        )
    return classes
