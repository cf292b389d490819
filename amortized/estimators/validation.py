"""Validation of quantile levels and numbers of draws."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


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


def number_of_draws(n_samples: Any) -> int:
    """Converts a number of draws to an integer.

    Args:
        n_samples: number of draws for each row.

    Raises:
        ValueError: if it is not an integer >= 1.

    Example:
        >>> number_of_draws(3)
        3
    """
    if not isinstance(n_samples, Integral) or n_samples < 1:
        raise ValueError(f"Expected n_samples to be an integer >= 1; got {n_samples!r}.")
    return int(n_samples)
