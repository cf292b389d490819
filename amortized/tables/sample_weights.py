"""Weights of rows: what they mean to an estimator that learns from rows, not from sums over them.

A weight says how often its row was seen.
    zero            the row is left out
    whole numbers   the row is repeated: fitting with weights equals fitting the repeated rows
    any others      only their ratios count: each view of the table draws as many rows as have a
                    weight by systematic resampling, so that a row comes w times on average, and
                    never more than one time off; views differ in the draw
Whole numbers that would repeat rows to more than ``MAX_REPEATED`` count as ratios as well.
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
    """Which rows stand for the weighted table, and the weights by which they are still drawn.

    Args:
        sample_weight: not negative, ``(n_rows,)``; None weighs all rows alike.
        n_rows: rows of the table.

    Returns:
        Row numbers, repeated ones included; and their weights, None if all are alike.

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
            "Expected finite sample_weight, zero or more; got "
            f"{weight[~((weight >= 0) & np.isfinite(weight))][0]}."
        )
    if not weight.any():
        raise ValueError("Expected a sample_weight above zero; got zero for every row.")
    return weight


def counted(
    columns: list[Any], target: NDArray[Any], sample_weight: ArrayLike | None
) -> tuple[list[Any], NDArray[Any], NDArray[np.float64] | None]:
    """The rows of a table that have a weight, and their weights.

    Args:
        columns: arrays or pandas columns.
        target: the answers.
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
    """A table whose rows stand for the weighted one, and the weights that remain.

    Args:
        x: the table as numbers, ``(rows, columns)``.
        target: the answers, ``(rows,)``.
        weight: as for `weighted_rows`.
    """
    if weight is None:
        return x, target, None
    rows, weight = weighted_rows(weight, len(target))
    return x[rows], target[rows], weight


def resampled(weight: NDArray[np.float64], random_state: np.random.RandomState) -> NDArray[np.intp]:
    """As many rows as there are weights, each as often as its weight says, in ascending order.

    Args:
        weight: above zero, ``(rows,)``.
        random_state: shuffles the rows, as weights that alternate would be in step with the evenly
            spaced positions, and draws the one number that moves these.

    Example:
        >>> resampled(np.array([3.0, 0.5, 0.5]), np.random.RandomState(0))
        array([0, 0, 2])
    """
    order = random_state.permutation(len(weight))
    share = torch.as_tensor(weight[order] / weight.max())[None]
    position = torch.as_tensor([[1 - random_state.uniform()]])
    return np.sort(order[systematic_resample(share, position)[0].numpy()])
