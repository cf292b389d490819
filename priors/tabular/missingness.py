"""Missing cells: completely at random, at random given another column, or because of the value.

MCAR  P(missing) = r
MAR   P(missing) = sigmoid(logit(r) + slope * another, fully observed column)
MNAR  P(missing) = sigmoid(logit(r) + slope * the value itself)

References:
    Rubin, Inference and missing data, Biometrika 1976.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import standardise


def drop_cells(
    x: Float[Tensor, "batch columns rows"], probability: float
) -> Float[Tensor, "batch columns rows"]:
    """Replaces cells by NaN in a fraction of the tasks.

    Each such task has one of the three mechanisms, a fraction of affected columns, and rates
    below a half that are mostly small (a uniform number squared).

    Args:
        x: complete columns.
        probability: probability that a task has missing cells.

    Example:
        >>> x = drop_cells(torch.randn(4, 3, 100), probability=0.0)
        >>> bool(x.isnan().any())
        False
    """
    tasks = (torch.rand(len(x)) < probability).nonzero()[:, 0]
    part = x[tasks]
    n_tasks, n_columns, n_rows = part.shape
    rate = 0.5 * torch.rand(n_tasks, n_columns, 1).square().clamp(1e-4, 1 - 1e-4)
    affected = torch.rand(n_tasks, n_columns) < torch.rand(n_tasks, 1)
    driver = torch.randint(n_columns, (n_tasks,))
    kind = torch.randint(3, (n_tasks, 1, 1))
    # Under MAR the cause is observed, so the column that determines missingness is complete.
    at_random = kind[:, 0] == 1
    affected &= ~(at_random & (torch.arange(n_columns) == driver[:, None]))
    seen = part[torch.arange(n_tasks), driver][:, None].expand_as(part)
    cause = standardise(torch.where(kind == 1, seen, part)) * (kind > 0)
    slope = 3 * torch.rand(n_tasks, 1, 1) * torch.randn(n_tasks, n_columns, 1).sign()
    missing = torch.rand_like(part) < torch.sigmoid(torch.logit(rate) + slope * cause)
    x = x.clone()
    x[tasks] = part.masked_fill(missing & affected[..., None], torch.nan)
    return x
