r"""Predictability of a task's targets, and a filter for tasks in which little can be predicted.

A ridge regression on random features is fitted to the context and predicts the query, for all tasks
at once. Predictability is its R2 on the query,
R2 = 1 - sum (y - prediction)^2 / sum (y - context mean)^2,
with labels as one-hot vectors. A filter with a fixed threshold would remove all hard tasks. Here a
task is kept with probability min(1, R2 / easy), so that hard tasks become rarer but do not
disappear. Such a model cannot predict parity and similar rules, so rule priors must not be
filtered.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.seeding import current_seed
from amortized.validation import number_between

_N_RANDOM = 64
# Numbers of context and query rows that are used: enough to judge by, and cheap.
_MOST_ROWS = 256


class PredictablePrior(Prior):
    """Another prior with fewer unpredictable tasks.

    More tasks than requested are drawn. The accepted ones are taken in the order of drawing; if
    they are too few, the most predictable of the rejected ones fill the batch.

    Args:
        prior: the prior to filter; its tasks must not be masked.
        easy: predictability at and above which every task is accepted.
        surplus: additional tasks to choose from, as a fraction of the number requested.

    Example:
        >>> from amortized.priors.tabular.families.neural_network import NeuralNetworkPrior
        >>> PredictablePrior(NeuralNetworkPrior()).sample(4, 60, 40, seed=0).n_tasks
        4
    """

    def __init__(self, prior: Prior, *, easy: float = 0.5, surplus: float = 1.0) -> None:
        if not isinstance(prior, Prior):
            raise ValueError(f"Expected a Prior; got {prior!r}.")
        number_between("easy", easy, 0, 1, most=True)
        number_between("surplus", surplus, 0, math.inf, least=True)
        self.prior = prior
        self.units = prior.units
        self.easy = easy
        self.surplus = surplus

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        # The seed is passed on unchanged, because the components of a mixture must share it.
        seed, device = current_seed(), torch.get_default_device()
        n_drawn = n_tasks + math.ceil(self.surplus * n_tasks)
        batch = self.prior.sample(n_drawn, n_context, n_query, seed=seed, device=device)
        if n_context < 8 or n_query < 8:  # too few rows to judge by
            return _take(batch, torch.arange(n_tasks))
        r2 = predictability(batch)
        accepted = torch.rand(n_drawn) * self.easy < r2
        first = torch.where(accepted, torch.arange(n_drawn), n_drawn + 1 - r2.clamp(-1, 1))
        return _take(batch, first.argsort()[:n_tasks])


def _take(batch: TaskBatch, tasks: Tensor) -> TaskBatch:
    latents = {name: value[tasks] for name, value in (batch.latents or {}).items()}
    return TaskBatch(
        batch.x_context[tasks],
        batch.y_context[tasks],
        batch.x_query[tasks],
        batch.y_query[tasks],
        latents or None,
    )


def predictability(batch: TaskBatch) -> Float[Tensor, " batch"]:
    """R2 of a ridge regression on random features from the context to the query, for each task.

    Targets that are integers from 0 to at most 63 in all tasks count as classes. Numbers
    beyond 4 standard deviations are clipped, so that a single outlier does not dominate.

    Args:
        batch: tasks with at least two context rows and two query rows.
    """
    n_context, n_query = min(batch.n_context, _MOST_ROWS), min(batch.n_query, _MOST_ROWS)
    y = torch.cat([batch.y_context[:, :n_context], batch.y_query[:, :n_query]], 1)
    x = torch.cat([batch.x_context[:, :n_context], batch.x_query[:, :n_query]], 1)
    whole = bool(((y == y.round()) & (y >= 0) & (y < 64)).all())
    answers = (
        torch.nn.functional.one_hot(y.long()).to(y.dtype) if whole else y[..., None].clamp(-4, 4)
    )
    answers = answers - answers[:, :n_context].mean(1, keepdim=True)
    context, query = answers[:, :n_context], answers[:, n_context:]
    basis = _random_features(x, n_context)
    known, asked = basis[:, :n_context], basis[:, n_context:]
    ridge = 0.03 * n_context * torch.eye(basis.shape[-1], dtype=basis.dtype)
    moments = known.transpose(1, 2) @ known + ridge
    weights = torch.cholesky_solve(
        known.transpose(1, 2) @ context, torch.linalg.cholesky_ex(moments).L
    )
    left = (query - asked @ weights).square().sum((1, 2))
    return 1 - left / query.square().sum((1, 2)).clamp_min(1e-6)


def _random_features(x: Tensor, n_context: int) -> Tensor:
    """The columns, and linear and bump functions of random combinations of one to three columns."""
    n_columns = x.shape[-1]
    context = x[:, :n_context]
    centre = context.nanmean(1, keepdim=True)
    scale = (context - centre).square().nanmean(1, keepdim=True).sqrt()
    z = ((x - centre) / scale.clamp_min(1e-6)).nan_to_num(0.0, 0.0, 0.0).clamp(-3, 3)
    weights = torch.zeros(n_columns, _N_RANDOM)
    for _ in range(3):
        weights.scatter_add_(0, torch.randint(n_columns, (1, _N_RANDOM)), torch.randn(1, _N_RANDOM))
    a = 1.5 * z @ weights + torch.randn(_N_RANDOM)
    slopes, bumps = a.chunk(2, -1)
    features = torch.cat([z, torch.tanh(slopes), torch.exp(-bumps.square())], -1)
    return features - features[:, :n_context].mean(1, keepdim=True)
