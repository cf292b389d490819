"""Validation of numbers that users give: counts and quantile levels."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Converts a count to an integer.

    Args:
        name: name of the argument, for the error.
        value: the count.
        least: smallest value allowed.

    Raises:
        ValueError: if it is not a whole number, or is too small.

    Example:
        >>> whole_number("n_samples", 3.0)
        3
    """
    try:
        if int(value) == value and value >= least:
            return int(value)
    except (TypeError, ValueError, OverflowError):  # text, None, NaN and infinity
        pass
    raise ValueError(f"Expected {name} to be an integer >= {least}; got {value!r}.")


def quantile_levels(q: Any) -> Float[Tensor, " levels"]:
    """Converts quantile levels to float64.

    Args:
        q: one level or a list of levels.

    Raises:
        ValueError: if a level does not lie strictly between 0 and 1.

    Example:
        >>> quantile_levels(0.5)
        tensor([0.5], dtype=torch.float64)
    """
    levels = torch.as_tensor(np.atleast_1d(np.asarray(q, dtype=np.float64)))
    if levels.ndim != 1 or not bool(((levels > 0) & (levels < 1)).all()):
        raise ValueError(f"Expected a list of levels strictly between 0 and 1; got {q!r}.")
    return levels
