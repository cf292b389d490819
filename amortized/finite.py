"""NaN in the inputs of a diagnostic is reported, never ranked or averaged."""

from typing import Any

import numpy as np
import torch


def refuse_nan(what: str, values: Any) -> None:
    """Raises an error if values contain NaN.

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
    missing = values.isnan() if isinstance(values, torch.Tensor) else np.isnan(values)
    if n_missing := int(missing.sum()):
        size = values.numel() if isinstance(values, torch.Tensor) else np.size(values)
        raise ValueError(
            f"Expected {what} without NaN; got {n_missing:,} NaN of {size:,}. Look for the method "
            "or the density that returned it: such an answer cannot be assessed."
        )
