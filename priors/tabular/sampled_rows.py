"""Rows that are no independent draws: repeated measurements, and queries unlike the context.

In half of the tasks rows repeat: a table shows some rows several times, in context and query, with
noise of their own in the answers. In the other half the context and the query are taken from
different sides of a column, or of a weighted sum of columns, from a slight shift of the means to
one range ending where the other begins: what happens when a model is used a year later, or
elsewhere. The relation of answer and inputs stays, so the prior remains exchangeable given them.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from amortized.priors.tabular.columns import log_uniform, standardise
from amortized.priors.tabular.inputs import heavy_weights
from amortized.priors.tabular.structural_causal import StructuralCausalPrior


class SampledRowsPrior(StructuralCausalPrior):
    """Structural causal models with repeated or shifted rows; arguments as there.

    Example:
        >>> prior = SampledRowsPrior("regression", n_features=3)
        >>> prior.sample(2, 50, 10, seed=0).y_query.shape
        torch.Size([2, 10])
    """

    def _arrange(self, columns: Tensor, n_context: int) -> Int[Tensor, "batch rows"]:
        repeats = torch.rand(len(columns), 1) < 0.5
        return torch.where(repeats, _repeated(columns), _shifted(columns))


def _repeated(columns: Tensor) -> Tensor:
    """Rows drawn with replacement from a part of the table."""
    n_tasks, _, n_rows = columns.shape
    n_distinct = (log_uniform(0.1, 1.0, n_tasks, 1) * n_rows).clamp_min(2.0)
    return (torch.rand(n_tasks, n_rows) * n_distinct).long()


def _shifted(columns: Tensor) -> Tensor:
    """Rows in the order of a weighted sum of columns, more or less blurred."""
    n_tasks, n_columns, n_rows = columns.shape
    direction = standardise(heavy_weights(n_tasks, 1, n_columns) @ columns.nan_to_num(0.0))[:, 0]
    blur = log_uniform(0.1, 10.0, n_tasks, 1)
    return (direction + blur * torch.randn(n_tasks, n_rows)).argsort(-1)
