r"""Sensitivity of predictions to the order of context rows; exchangeable rows must have none.

The log score of held-out targets is computed again with the rows in another order and, for
stochastic methods, with the rows in the same order but another seed. If the order does not matter,
both changes are of the same size.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.diagnostics.predictive_trial import PredictiveMethod, predictive
from amortized.diagnostics.trial import batch_seed, batches, method_name
from amortized.plotting import BAND, COLOURS, label_axes, new_axes
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.validation import seed_number, whole_number

NEGLIGIBLE = 1e-3
"""Nats; the rounding error of float32 sums in another order is smaller."""


@dataclass(frozen=True)
class OrderSensitivity:
    """How much the log score changes with the order of rows, and by chance.

    Attributes:
        by_order: mean change of each dataset's log score with the order, in nats,
            ``(n_datasets,)``.
        by_chance: mean change with the rows in the same order and another seed.
        title: what was tested.
    """

    by_order: Float[np.ndarray, " n"]
    by_chance: Float[np.ndarray, " n"]
    title: str

    @property
    def mean(self) -> float:
        """Mean change with the order of rows, in nats."""
        return float(self.by_order.mean())

    @property
    def p_value(self) -> float:
        """p-value of Wilcoxon's signed-rank test that order changes the score more than chance."""
        difference = self.by_order.clip(min=NEGLIGIBLE) - self.by_chance.clip(min=NEGLIGIBLE)
        if not difference.any():
            return 1.0
        return float(stats.wilcoxon(difference, alternative="greater").pvalue)

    def plot(self, ax: Any = None) -> Any:
        """Each dataset's change with the order against its change by chance."""
        ax = new_axes() if ax is None else ax
        low = NEGLIGIBLE / 10
        by_chance, by_order = self.by_chance.clip(min=low), self.by_order.clip(min=low)
        ends = [low, max(by_chance.max(), by_order.max(), 2 * NEGLIGIBLE)]
        ax.plot(ends, ends, color=BAND, linewidth=3, label="order does not matter")
        ax.loglog(by_chance, by_order, ".", color=COLOURS[0], label="datasets")
        title = f"{self.title}: p = {self.p_value:.2g}"
        return label_axes(ax, "change by chance (nats)", "change with the order (nats)", title)

    def __repr__(self) -> str:
        return f"OrderSensitivity({self.title}, {self.mean:.3g} nats, p = {self.p_value:.3g})"


def order_sensitivity(
    prior: Prior,
    method: PredictiveMethod = "auto",
    *,
    n_datasets: int = 200,
    n_context: int = 20,
    n_query: int = 4,
    n_orders: int = 4,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
    **options: Any,
) -> OrderSensitivity:
    """Shuffles the context rows of many datasets and compares the predictions.

    Args:
        prior: prior of the datasets.
        method: as for `PredictiveTrial.run`.
        n_datasets: number of datasets.
        n_context: context rows of each, at least 2.
        n_query: query rows of each.
        n_orders: number of shuffles of each.
        batch_size: number of datasets processed together.
        seed: seed of datasets, shuffles and methods.
        progress: whether a progress bar is shown.
        **options: options of `infer`.

    Example:
        >>> from amortized.priors.regression.linear_regression import LinearRegressionPrior
        >>> prior = LinearRegressionPrior(1)
        >>> order_sensitivity(prior, prior.posterior_predictive, progress=False).mean < 1e-3
        True
    """
    n_context = whole_number("n_context", n_context, 2)
    n_orders = whole_number("n_orders", n_orders, 2)
    n_query = whole_number("n_query", n_query, 1)
    rng, parts = np.random.default_rng(seed_number(seed)), []
    sizes = (n_datasets, n_context, n_query, batch_size)
    for start, batch in batches(prior, *sizes, seed, progress):
        own = batch_seed(seed, start)
        as_given = torch.arange(n_context)
        shuffles = [torch.as_tensor(rng.permutation(n_context)) for _ in range(n_orders)]
        scores: list[Tensor] = []
        for i, order in enumerate([as_given] * (1 + n_orders) + shuffles):
            if 1 < i <= n_orders and torch.equal(scores[0], scores[1]):  # nothing is random
                scores.append(scores[0])
            else:
                scores.append(_score(prior, method, batch, order, batch_seed(own, i), options))
        changes = (torch.stack(scores[1:]) - scores[0]).abs().unflatten(0, (2, n_orders)).mean(1)
        parts.append(changes.numpy())
    by_chance, by_order = np.concatenate(parts, axis=1)
    refuse_nan(f"changes of the log score of {method_name(method)}", by_order + by_chance)
    return OrderSensitivity(by_order, by_chance, f"Order of context for {method_name(method)}")


def _score(
    prior: Prior,
    method: PredictiveMethod,
    batch: TaskBatch,
    order: Tensor,
    seed: int,
    options: dict[str, Any],
) -> Tensor:
    """Mean log score of each dataset's queries, with the context rows in that order."""
    mask = batch.context_mask
    shuffled = replace(
        batch,
        x_context=batch.x_context[:, order],
        y_context=batch.y_context[:, order],
        context_mask=None if mask is None else mask[:, order],
    )
    answer = predictive(prior, method, shuffled, seed, options)
    with torch.no_grad():
        return answer.log_prob(batch.y_query).double().mean(-1).cpu()
