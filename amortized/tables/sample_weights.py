"""Sample weights for estimators whose loss is not a sum over rows.

A weight is the number of times that its row was observed.
    zero            the row is left out
    integers        the row is repeated: fitting with weights equals fitting the repeated rows
    others          only ratios matter: each view of the table draws rows by systematic resampling,
                    so that a row occurs w times on average, rounded up or down; draws differ
                    between views
Integers that would give more than ``MAX_REPEATED`` rows are treated as ratios as well.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from amortized.sampling.steps.resampling import systematic_resample

MAX_REPEATED = 100_000


def weighted_rows(
    sample_weight: ArrayLike | None, n_rows: int
) -> tuple[NDArray[np.intp], NDArray[np.float64] | None]:
    """The rows that represent a weighted table, and the weights with which they are drawn.

    Args:
        sample_weight: non-negative weights, ``(n_rows,)``; None for equal weights.
        n_rows: number of rows of the table.

    Returns:
        Row indices, with repetitions; and their weights, None if all are equal.

    Raises:
        ValueError: if a weight is negative or not finite, all are zero, or their number is wrong.

    Example:
        >>> weighted_rows([2, 0, 1], 3)
        (array([0, 0, 2]), None)
        >>> weighted_rows([2.5, 0.0, 1.0], 3)
        (array([0, 2]), array([2.5, 1. ]))
    """
    if sample_weight is None:
        return np.arange(n_rows), None
    weight = _checked(sample_weight, n_rows)
    rows = np.flatnonzero(weight)
    weight = weight[rows]
    most = max(n_rows, MAX_REPEATED)
    if (weight == np.floor(weight)).all() and weight.max() <= most and weight.sum() <= most:
        return np.repeat(rows, weight.astype(np.intp)), None
    return rows, None if np.ptp(weight) == 0 else weight


def _checked(sample_weight: ArrayLike, n_rows: int) -> NDArray[np.float64]:
    try:
        weight = np.asarray(sample_weight, dtype=np.float64)
    except (TypeError, ValueError) as reason:
        raise ValueError(f"Expected numbers as sample_weight; got {reason}.") from reason
    if weight.shape != (n_rows,):
        raise ValueError(
            f"Expected a sample_weight for each of {n_rows} rows; got shape {weight.shape}."
        )
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(
            "Expected finite non-negative sample_weight; got "
            f"{weight[~((weight >= 0) & np.isfinite(weight))][0]}."
        )
    if not weight.any():
        raise ValueError("Expected a sample_weight above zero; got zero for every row.")
    return weight


def counted(
    columns: list[Any], target: NDArray[Any], sample_weight: ArrayLike | None
) -> tuple[list[Any], NDArray[Any], NDArray[np.float64] | None]:
    """The rows of a table with positive weight, and their weights.

    Args:
        columns: arrays or pandas columns.
        target: the targets.
        sample_weight: as for `weighted_rows`.
    """
    if sample_weight is None:
        return columns, target, None
    weight = _checked(sample_weight, len(target))
    rows = np.flatnonzero(weight)
    taken = [column.iloc[rows] if hasattr(column, "iloc") else column[rows] for column in columns]
    return taken, target[rows], weight[rows]


def repeated(
    x: NDArray[np.float64], target: NDArray[Any], weight: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], NDArray[Any], NDArray[np.float64] | None]:
    """A table with repeated rows that represents the weighted one, and remaining weights.

    Args:
        x: the table as numbers, ``(rows, columns)``.
        target: targets, ``(rows,)``.
        weight: as for `weighted_rows`.
    """
    if weight is None:
        return x, target, None
    rows, weight = weighted_rows(weight, len(target))
    return x[rows], target[rows], weight


def resampled(weight: NDArray[np.float64], random_state: np.random.RandomState) -> NDArray[np.intp]:
    """Systematic resampling of rows by weight; returns sorted indices, as many as weights.

    Args:
        weight: positive weights, ``(rows,)``.
        random_state: random state for shuffling, so that periodic weights do not interfere with the
            evenly spaced positions, and for their offset.

    Example:
        >>> resampled(np.array([3.0, 0.5, 0.5]), np.random.RandomState(0))
        array([0, 0, 2])
    """
    order = random_state.permutation(len(weight))
    share = torch.as_tensor(weight[order] / weight.max())[None]
    position = torch.as_tensor([[1 - random_state.uniform()]])
    return np.sort(order[systematic_resample(share, position)[0].numpy()])
