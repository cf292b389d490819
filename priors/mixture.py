"""Mixtures of priors: each task of a batch comes from one of the components."""

from collections.abc import Sequence

import torch
from torch import Tensor

from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.seeding import current_seed


class MixturePrior(Prior):
    """A mixture of priors.

    The number of tasks from each component is multinomial, and the tasks are shuffled. All
    components receive the seed of the batch, so that quantities they draw first and in the same way
    (the number of columns of table priors) agree and their tasks fit into one batch. Latents are
    kept if all components that occur have the same latent names, and dropped otherwise.

    Args:
        priors: the components.
        weights: unnormalised probabilities; equal if None.

    Example:
        >>> from amortized.priors.tabular.families.rules import RulePrior
        >>> from amortized.priors.tabular.families.clusters import ClusterPrior
        >>> prior = MixturePrior([RulePrior(), ClusterPrior()], weights=[1, 3])
        >>> prior.sample(8, 40, 10, seed=0).n_tasks
        8
    """

    def __init__(self, priors: Sequence[Prior], weights: Sequence[float] | None = None) -> None:
        priors = tuple(priors)
        if not priors or not all(isinstance(prior, Prior) for prior in priors):
            raise ValueError(f"Expected one Prior or more; got {priors!r}.")
        weights = tuple(weights) if weights is not None else (1.0,) * len(priors)
        if len(weights) != len(priors) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise ValueError(
                f"Expected {len(priors)} weights >= 0 with a positive sum, one for each prior; "
                f"got {weights}."
            )
        units = {prior.units for prior in priors}
        if len(units) > 1:
            raise ValueError(
                "Expected components that are all in raw units or all standardised; got both. "
                "Standardise the tasks of the former."
            )
        self.units = units.pop()
        self.priors = priors
        self.weights = weights

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        seed = current_seed()
        # Counts and order are drawn on the CPU because they determine tensor shapes.
        odds = torch.tensor(self.weights, dtype=torch.float64, device="cpu")
        drawn = torch.multinomial(odds, n_tasks, replacement=True)
        order = torch.randperm(n_tasks, device="cpu")
        device = torch.get_default_device()
        batches = [
            prior.sample(count, n_context, n_query, seed=seed, device=device)
            for prior, count in zip(self.priors, drawn.bincount().tolist(), strict=False)
            if count
        ]
        return _join(batches, order.to(device))


def _join(batches: list[TaskBatch], order: Tensor) -> TaskBatch:
    widths = sorted({batch.n_features for batch in batches})
    if len(widths) > 1:
        raise ValueError(
            f"Expected components with equal numbers of features in a batch; got {widths}. "
            "Give all of them the same n_features, or the same max_features."
        )

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(batch, name) for batch in batches])[order]

    def mask(name: str, like: str) -> Tensor | None:
        if all(getattr(batch, name) is None for batch in batches):
            return None
        full = [
            torch.ones_like(getattr(batch, like), dtype=torch.bool)
            if getattr(batch, name) is None
            else getattr(batch, name)
            for batch in batches
        ]
        return torch.cat(full)[order]

    names = [set(batch.latents or {}) for batch in batches]
    latents = None
    if names[0] and all(other == names[0] for other in names):
        latents = {
            key: torch.cat([(batch.latents or {})[key] for batch in batches])[order]
            for key in (batches[0].latents or {})
        }
    return TaskBatch(
        joined("x_context"),
        joined("y_context"),
        joined("x_query"),
        joined("y_query"),
        latents,
        mask("context_mask", "y_context"),
        mask("query_mask", "y_query"),
    )
