"""Exogenous inputs: correlated, clustered and discrete columns on which a target function acts.

A column is a weighted sum of three parts, with weights that differ per task:
    x = common factors (near-collinear columns) + cluster centres (groups of rows) + its own part
Some columns are then transformed or cut into a few levels *before* any function reads them, so that
an amount or a category affects the target itself and not only through an underlying smooth value.
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
    r"""Draws weights :math:`\mathrm{sign}(z)|z|^\gamma`, z normal and gamma in [1, 5] per task.

    With gamma = 1 all effects are small; with gamma = 5 a few dominate. This interpolates between
    dense and sparse effects without ever making all weights of a row zero.

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
    """Draws standardised columns, some of them skewed or with few levels.

    Args:
        n_tasks: tasks in the batch.
        n_columns: columns per task.
        n_rows: rows per task.

    Example:
        >>> draw_inputs(2, 3, 50).shape
        torch.Size([2, 3, 50])
    """
    own = torch.randn(n_tasks, n_columns, n_rows)
    # Half of the tasks have columns with flat, bounded distributions: erf makes a normal uniform.
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
    """Transforms some of each task's columns, and cuts some (or all) into 2 to 11 levels.

    The functions applied later see the transformed columns; transforming after them instead would
    leave hardly any target linear in the observed columns.

    Args:
        x: standardised columns; the result is standardised as well.
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
