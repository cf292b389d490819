"""NaN in what a diagnostic judges: it is counted and said, never ranked or averaged."""

from typing import Any

import numpy as np
import torch


def refuse_nan(what: str, values: Any) -> None:
    """Raises where values have a NaN.

    Args:
        what: the values are, as in ``"draws of 'mu'"``; for the message.
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
            "or the density that returned it: nothing can be said of such an answer."
        )
