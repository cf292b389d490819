"""Inputs without a cause: correlated, clustered and discrete columns that a function then answers.

A column is a weighted sum of three parts, with weights that differ per task:
    x = common factors (near-collinear columns) + cluster centres (groups of rows) + its own part
and some columns are then bent or cut into a few levels *before* any function reads them, so that
an amount or a category can matter by itself and not only through a smooth number behind it.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import (
    bend,
    draw_integer,
    level_codes,
    log_uniform,
    spread,
    standardise,
)


def heavy_weights(*shape: int) -> Tensor:
    r"""Draw weights :math:`\mathrm{sign}(z)|z|^\gamma`, z normal and gamma in [1, 5] per task.

    With gamma = 1 everything counts a little; with gamma = 5 a few entries dominate. It is a
    smooth road from dense to sparse effects that never leaves a row of weights empty.

    Args:
        *shape: shape of the result, tasks first.

    Example:
        >>> heavy_weights(4, 3, 2).shape
        torch.Size([4, 3, 2])
    """
    z = torch.randn(shape)
    gamma = 1 + 4 * torch.rand(shape[0], *[1] * (len(shape) - 1)).square()
    return z.sign() * z.abs() ** gamma


def draw_inputs(n_tasks: int, n_columns: int, n_rows: int) -> Float[Tensor, "batch columns rows"]:
    """Draw standardised columns, some of them skewed or with few levels.

    Args:
        n_tasks: tasks in the batch.
        n_columns: columns of each.
        n_rows: rows of each.

    Example:
        >>> draw_inputs(2, 3, 50).shape
        torch.Size([2, 3, 50])
    """
    own = torch.randn(n_tasks, n_columns, n_rows)
    # Half of the tasks have columns of bounded, flat shape: erf makes a normal number uniform.
    flat = (torch.rand(n_tasks) < 0.3).nonzero()[:, 0]
    own[flat] = 1.7 * torch.erf(own[flat] / 2**0.5)
    x = own * log_uniform(0.1, 1.0, n_tasks, n_columns, 1)
    x = x + _factors(n_tasks, n_columns, n_rows) * _weight(0.6, n_tasks)
    x = x + _clusters(n_tasks, n_columns, n_rows) * _weight(0.4, n_tasks)
    return shape_some(standardise(x))


def _weight(probability: float, n_tasks: int) -> Tensor:
    return log_uniform(0.1, 2.0, n_tasks, 1, 1) * (torch.rand(n_tasks, 1, 1) < probability)


def _factors(n_tasks: int, n_columns: int, n_rows: int) -> Tensor:
    n_factors = draw_integer(1, 5)
    return heavy_weights(n_tasks, n_columns, n_factors) @ torch.randn(n_tasks, n_factors, n_rows)


def _clusters(n_tasks: int, n_columns: int, n_rows: int) -> Tensor:
    n_clusters = draw_integer(2, 8)
    odds = torch.rand(n_tasks, n_clusters).clamp_min(0.05)
    which = torch.multinomial(odds, n_rows, replacement=True)
    centres = heavy_weights(n_tasks, n_columns, n_clusters)
    return centres.gather(-1, which[:, None].expand(-1, n_columns, -1))


def shape_some(x: Float[Tensor, "batch columns rows"]) -> Float[Tensor, "batch columns rows"]:
    """Bend some of each task's columns, cut some into 2 to 11 levels (in some tasks, all).

    What is shaped here is seen by the functions that follow; the same steps after them would
    leave hardly a target linear in what the table shows.

    Args:
        x: standardised columns; they come out standardised.
    """
    n_tasks, n_columns, n_rows = x.shape
    columns = x.reshape(-1, n_rows).clone()
    bent = (torch.rand(n_tasks, n_columns) < spread(0.4, n_tasks)).flatten().nonzero()[:, 0]
    columns[bent] = bend(columns[bent])
    rate = spread(0.35, n_tasks).maximum((torch.rand(n_tasks, 1) < 0.1).to(x.dtype))
    cut = (torch.rand(n_tasks, n_columns) < rate).flatten().nonzero()[:, 0]
    codes = level_codes(columns[cut], log_uniform(2.0, 12.0, len(cut)).floor())
    columns[cut] = standardise(codes)
    return columns.reshape(x.shape)
