"""Classes as people have them, checked: what every classifier shares."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import column_or_1d
from sklearn.utils.validation import assert_all_finite

from amortized.arrays import without_mask
from amortized.tables.encoding import is_present


def class_labels(y: ArrayLike) -> NDArray[Any]:
    """Classes as an array of one kind, none of them missing.

    Args:
        y: numbers, strings or bools, ``(rows,)``.

    Raises:
        ValueError: if a class is missing, or they are of several kinds.
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
