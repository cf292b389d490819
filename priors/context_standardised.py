"""Tasks of another prior with targets standardised by each task's own context."""

from dataclasses import replace

import torch

from amortized.priors.prior import Prior
from amortized.priors.tabular.targets import standardise_by_context
from amortized.priors.task import TaskBatch
from amortized.seeding import current_seed


class ContextStandardised(Prior):
    """A prior whose targets have mean 0 and standard deviation 1 over the context.

    Args:
        prior: draws the tasks in its own units; its tasks must not be masked.

    Example:
        >>> from amortized.priors.regression.linear_regression import LinearRegressionPrior
        >>> batch = ContextStandardised(LinearRegressionPrior(2)).sample(3, 20, 5, seed=0)
        >>> batch.y_context.std(-1, correction=0)
        tensor([1., 1., 1.])
    """

    units = "standardised"

    def __init__(self, prior: Prior) -> None:
        self.prior = prior

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        seed, device = current_seed(), torch.get_default_device()
        batch = self.prior.sample(n_tasks, n_context, n_query, seed=seed, device=device)
        if batch.context_mask is not None or batch.query_mask is not None:
            raise ValueError("Expected tasks without masked rows; got masked ones.")
        y = standardise_by_context(torch.cat((batch.y_context, batch.y_query), 1), n_context)
        return replace(batch, y_context=y[:, :n_context], y_query=y[:, n_context:])
