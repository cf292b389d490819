"""Conversion of users' arrays to tensors, with errors for anything that would lose information.

Conversions by numpy or torch may drop what they cannot represent, such as the mask of a masked
array or an imaginary part. Others fail with obscure errors, for example with gradients or bfloat16.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from typing import Any

import numpy as np
import sklearn.utils
import sklearn.utils.validation
import torch
from sklearn.utils import column_or_1d
from torch import Tensor

_WIDE = (torch.float32, torch.float64)
LARGEST_SQUARED = 1e150  # squares of larger numbers overflow
_LARGEST_SINGLE = 1e18  # in single precision


def as_tensor(
    data: Any, name: str, *, allow_nan: bool = False, dtype: torch.dtype | None = torch.float64
) -> Tensor:
    """Converts finite real numbers to a tensor, without sharing memory that the caller may change.

    Args:
        data: a tensor, an array, or sequences of numbers.
        name: name of the data in messages.
        allow_nan: whether values may be missing, as NaN or masked.
        dtype: dtype of the result; None keeps float32 and converts everything else to float64.

    Raises:
        ValueError: if the data are not numbers, not finite, or too large to be squared.

    Example:
        >>> as_tensor(np.ma.array([1.0, 2.0], mask=[False, True]), "y")
        Traceback (most recent call last):
        ...
        ValueError: Expected y to be finite; got 1 value that is NaN, infinite or masked. ...
    """
    try:
        tensor = as_values(data, name)
        wide = tensor.dtype if tensor.dtype in _WIDE else torch.float64
        tensor = tensor.to(dtype or wide, copy=True)
    except (TypeError, ValueError, RuntimeError, OverflowError) as reason:
        if str(reason).startswith("Expected"):
            raise
        raise ValueError(f"Expected {name} to be an array of numbers; got {reason}.") from reason
    finite = torch.isfinite(tensor) | (tensor.isnan() if allow_nan else False)
    if not finite.all():
        n = int((~finite).sum())
        what = "value that is" if n == 1 else "values that are"
        raise ValueError(
            f"Expected {name} to be finite; got {n} {what} NaN, infinite or masked. Leave such "
            "rows out."
        )
    largest = LARGEST_SQUARED if tensor.dtype is torch.float64 else _LARGEST_SINGLE
    if bool((tensor.abs() > largest).any()):
        raise ValueError(
            f"Expected numbers of at most {largest} in {name}; got "
            f"{tensor.abs().nan_to_num(0.0).max().item()}. Change its units."
        )
    return tensor


def as_values(data: Any, name: str) -> Tensor:
    """Converts real numbers to a tensor that keeps its gradient and may contain NaN.

    Args:
        data: as for `as_tensor`.
        name: name of the data in messages.

    Raises:
        ValueError: if the data are not numbers.
    """
    if isinstance(data, Tensor):
        if data.is_complex() or data.layout is not torch.strided or data.is_quantized:
            raise ValueError(
                f"Expected {name} as a dense tensor of real numbers; got {data.dtype} in layout "
                f"{data.layout}. Take the part you need, or its to_dense()."
            )
        if data.is_meta:
            raise ValueError(f"Expected {name} with numbers; got a tensor on the meta device.")
        return data
    array = np.asarray(without_mask(data))
    if array.dtype.kind == "O":
        others = {type(v).__name__ for v in array.flat if not _is_number(v)}
        if others:
            raise ValueError(f"Expected {name} to be an array of numbers; got {sorted(others)}.")
        with _only_numbers(array, None):
            array = array.astype(np.float64)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"Expected {name} to be an array of real numbers; got {array.dtype}.")
    if array.dtype.kind == "f" and array.itemsize not in (4, 8):
        array = array.astype(np.float64)
    # In native byte order, the only one that torch reads.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) or type(value).__name__ == "Decimal"


def without_mask(data: Any) -> Any:
    """Converts data for scikit-learn: tensors to arrays, and masked entries to NaN.

    Args:
        data: the user's data; returned unchanged if neither a tensor nor masked.

    Raises:
        ValueError: if masked entries cannot be NaN, as for strings, or if the data are records or
            complex numbers, of which a part would be dropped.
    """
    if isinstance(data, Tensor):
        values = as_values(data, "a tensor").detach().cpu()
        return (values.float() if values.dtype is torch.bfloat16 else values).numpy()
    if isinstance(data, list | tuple) and any(map(_has_mask, data)):
        data = np.ma.array([np.ma.asarray(member) for member in data])
    kind = getattr(getattr(data, "dtype", None), "kind", "")
    if kind == "V":
        raise ValueError(f"Expected numbers; got records of {data.dtype}. Give their fields.")
    if kind == "c":  # the message expected by scikit-learn's estimator checks
        raise ValueError("Complex data not supported. Give the part you need.")
    if not isinstance(data, np.ma.MaskedArray):
        return data
    if not np.ma.is_masked(data):
        return data.data
    if data.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected masked entries among numbers only; got a masked array of {data.dtype}. "
            "Replace them by a category of their own."
        )
    return np.where(np.ma.getmaskarray(data), np.nan, data.data)


def _has_mask(member: Any) -> bool:
    if isinstance(member, list | tuple):
        return any(map(_has_mask, member))
    return isinstance(member, np.ma.MaskedArray)


def validate_data(estimator: Any, X: Any, y: Any = "no_validation", **options: Any) -> Any:
    """`sklearn.utils.validation.validate_data` that also accepts tensors and masked arrays."""
    if options.get("y_numeric") and y is not None:
        # Checked here because scikit-learn looks for NaN before it converts None to NaN.
        y = without_mask(y)
        several = options.get("multi_output") and number_of_outputs(y) > 1
        y = check_array(
            y if several else column_or_1d(y, warn=True), ensure_2d=False, input_name="y"
        )
    y = y if isinstance(y, str) else without_mask(y)
    with _only_numbers(X, options.get("dtype")):
        return sklearn.utils.validation.validate_data(estimator, without_mask(X), y, **options)


def number_of_outputs(y: Any) -> int:
    """Columns of targets, 1 where there are none, of anything that numpy makes an array of.

    Example:
        >>> number_of_outputs([[1.0, 2.0]]), number_of_outputs([1.0, 2.0])
        (2, 1)
    """
    shape = np.asarray(y).shape
    return int(shape[1]) if len(shape) == 2 else 1


def check_array(array: Any, *, dtype: Any = np.float64, **options: Any) -> Any:
    """`sklearn.utils.check_array` that also accepts tensors and masked arrays."""
    with _only_numbers(array, dtype):
        return sklearn.utils.check_array(without_mask(array), dtype=dtype, **options)


@contextmanager
def _only_numbers(array: Any, wanted: Any) -> Iterator[None]:
    """Raises an error for values that a conversion to the dtype would misread or fail at."""
    kind = getattr(getattr(array, "dtype", None), "kind", "")
    if wanted is np.float64 and kind in tuple("mM"):
        raise ValueError(f"Expected numbers; got {array.dtype}. Convert them, as to days.")
    try:
        yield
    except OverflowError as reason:
        raise ValueError(f"Expected numbers that a float can hold; got {reason}.") from reason


def refuse_nan(what: str, values: Any) -> None:
    """Raises an error if inputs of a diagnostic contain NaN, which must not be ranked or averaged.

    Args:
        what: description of the values in the message, such as ``"draws of 'mu'"``.
        values: array or tensor.

    Raises:
        ValueError: with the number of NaN.

    Example:
        >>> refuse_nan("draws of 'mu'", np.array([1.0, np.nan]))
        Traceback (most recent call last):
        ...
        ValueError: Expected draws of 'mu' without NaN; got 1 NaN of 2. Look for ...
    """
    missing = values.isnan() if isinstance(values, Tensor) else np.isnan(values)
    if n_missing := int(missing.sum()):
        size = values.numel() if isinstance(values, Tensor) else np.size(values)
        raise ValueError(
            f"Expected {what} without NaN; got {n_missing:,} NaN of {size:,}. Look for the method "
            "or the density that returned it: such an answer cannot be assessed."
        )
