r"""How much of a task's answers can be predicted, and a filter for tasks where nothing can.

A ridge regression on random features learns from the context and answers the query, all tasks at
once. With squared errors against the context mean, d_i = (y_i - mean)^2 - (y_i - prediction_i)^2,
a task counts as predictable when mean(d) / standard error(d) exceeds ``least``: 1.64 is "better
than the mean at 95 %". Labels are compared as one-hot vectors. Only parity and its like hide from
such a model; do not filter rules.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch

_N_RANDOM = 96


class PredictablePrior(Prior):
    """Another prior, without most of its tasks that cannot be predicted.

    More tasks than asked for are drawn and the predictable ones are taken first, in the order of
    drawing; when they are too few, others fill the batch.

    Args:
        prior: the prior to filter; its tasks must be complete sets (no masks).
        least: smallest ratio of gain to standard error that counts as predictable.
        surplus: fraction of additional tasks to choose from.

    Example:
        >>> from amortized.priors.neural_network import NeuralNetworkPrior
        >>> PredictablePrior(NeuralNetworkPrior()).sample(4, 60, 40, seed=0).n_tasks
        4
    """

    def __init__(self, prior: Prior, *, least: float = 1.64, surplus: float = 0.4) -> None:
        if not isinstance(prior, Prior):
            raise ValueError(f"Expected a Prior; got {prior!r}.")
        if not surplus >= 0:
            raise ValueError(f"Expected surplus to be 0 or more; got {surplus!r}.")
        self.prior = prior
        self.least = least
        self.surplus = surplus

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        n_drawn = n_tasks + math.ceil(self.surplus * n_tasks)
        # The seed goes on unchanged, as mixtures rely on it.
        batch = self.prior.sample(
            n_drawn,
            n_context,
            n_query,
            seed=torch.initial_seed(),
            device=torch.get_default_device(),
        )
        if n_context < 8 or n_query < 8:  # too little to judge by
            keep = torch.arange(n_tasks)
        else:
            rejected = (predictability(batch) < self.least).to(torch.uint8)
            keep = rejected.argsort(dim=-1, stable=True)[:n_tasks]
        latents = (
            {name: value[keep] for name, value in batch.latents.items()} if batch.latents else None
        )
        return TaskBatch(
            batch.x_context[keep],
            batch.y_context[keep],
            batch.x_query[keep],
            batch.y_query[keep],
            latents,
        )


def predictability(batch: TaskBatch) -> Float[Tensor, "batch"]:
    """Gain over the context mean in standard errors, for each task.

    Answers that are whole numbers from 0 to at most 63 everywhere count as classes.

    Args:
        batch: tasks with at least two rows of context and of query.
    """
    y = torch.cat([batch.y_context, batch.y_query], 1)
    whole = bool(((y == y.round()) & (y >= 0) & (y < 64)).all())
    answers = (
        torch.nn.functional.one_hot(y.long()).to(y.dtype) if whole else y[..., None].clamp(-4, 4)
    )
    context, query = answers.split([batch.n_context, batch.n_query], 1)
    mean = context.mean(1, keepdim=True)
    basis = _random_features(torch.cat([batch.x_context, batch.x_query], 1), batch.n_context)
    known, asked = basis.split([batch.n_context, batch.n_query], 1)
    gram = known.transpose(1, 2) @ known
    ridge = 0.03 * batch.n_context * torch.eye(gram.shape[-1], dtype=gram.dtype)
    weights = torch.linalg.solve(gram + ridge, known.transpose(1, 2) @ (context - mean))
    gain = (query - mean).square().sum(-1) - (query - mean - asked @ weights).square().sum(-1)
    return gain.mean(-1) / (gain.std(-1) / batch.n_query**0.5).clamp_min(1e-6)


def _random_features(x: Tensor, n_context: int) -> Tensor:
    """Columns, and kinks and bumps of random combinations of one to three columns."""
    n_tasks, n_rows, n_columns = x.shape
    context = x[:, :n_context]
    centre = context.nanmean(1, keepdim=True)
    scale = (context - centre).square().nanmean(1, keepdim=True).sqrt()
    z = ((x - centre) / scale.clamp_min(1e-6)).nan_to_num(0.0, 0.0, 0.0).clamp(-3, 3)
    weights = torch.zeros(n_columns, _N_RANDOM)
    for _ in range(3):
        weights.scatter_add_(0, torch.randint(n_columns, (1, _N_RANDOM)), torch.randn(1, _N_RANDOM))
    a = 1.5 * z @ weights + torch.randn(_N_RANDOM)
    half = _N_RANDOM // 2
    features = torch.cat([z, torch.tanh(a[..., :half]), torch.exp(-a[..., half:].square())], -1)
    return features - features[:, :n_context].mean(1, keepdim=True)
