"""Rows that are not independent draws: repeated measurements, and covariate shift.

In half of the tasks some rows are repeated in context and query, with independent noise in their
targets. In the other half context and query come from different sides of a column, or of a weighted
sum of columns, from a slight shift of the means to disjoint ranges, as when a model is used at
another time or place. The relation of target and inputs does not change.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from amortized.priors.tabular.columns import log_uniform, standardise
from amortized.priors.tabular.families.structural_causal import StructuralCausalPrior
from amortized.priors.tabular.inputs import heavy_weights


class SampledRowsPrior(StructuralCausalPrior):
    """Structural causal models with repeated or shifted rows; arguments as there."""

    def _arrange(self, columns: Tensor, n_context: int) -> Int[Tensor, "batch rows"]:
        repeats = torch.rand(len(columns), 1) < 0.5
        return torch.where(repeats, _repeated(columns), _shifted(columns))


def _repeated(columns: Tensor) -> Tensor:
    """Rows drawn with replacement from a part of the table."""
    n_tasks, _, n_rows = columns.shape
    n_distinct = (log_uniform(0.1, 1.0, n_tasks, 1) * n_rows).clamp_min(2.0)
    return (torch.rand(n_tasks, n_rows) * n_distinct).long()


def _shifted(columns: Tensor) -> Tensor:
    """Rows ordered by a weighted sum of columns plus noise."""
    n_tasks, n_columns, n_rows = columns.shape
    direction = standardise(heavy_weights(n_tasks, 1, n_columns) @ columns.nan_to_num(0.0))[:, 0]
    blur = log_uniform(0.1, 10.0, n_tasks, 1)
    return (direction + blur * torch.randn(n_tasks, n_rows)).argsort(-1)
