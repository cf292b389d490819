r"""Martingale posteriors: the posterior of any functional of the data, from predictives only.

The uncertainty about the mean, a quantile or a coefficient of a population is that about the rows
not yet seen. Predictive resampling therefore draws these rows, each given all rows before it, and
computes the functional of the completed data:

.. math:: z_i \sim p(\cdot \mid z_1, \ldots, z_{i-1}), \quad i = n+1, \ldots, N, \qquad
    \theta = \theta(z_1, \ldots, z_N).

If p is an exact Bayesian predictive, the distribution of theta tends to its Bayesian posterior as N
grows; for finite N its variance is about (N - n) / N of the posterior variance. Inputs are
resampled from the earlier ones (Polya's urn), which is the Bayesian bootstrap.

References:
    Fong, Holmes and Walker, Martingale posterior distributions (2023), arXiv 2103.15671.
    Nagler and Ruegamer, Uncertainty quantification for prior-data fitted networks using martingale
    posteriors (2025), arXiv 2505.11325.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.seeding import seeded
from amortized.uncertainty.growing_context import GrowingContext, Predict, number_type
from amortized.validation import whole_number


def martingale_posterior(
    predict: Predict,
    x: Float[Tensor, "n features"] | ArrayLike,
    y: Float[Tensor, " n"] | ArrayLike,
    functional: Callable[[Tensor, Tensor], Tensor],
    *,
    n_draws: int = 500,
    n_future: int = 500,
    refresh: int = 1,
    seed: int = 0,
) -> Float[Tensor, "draws ..."]:
    """Draws from the martingale posterior of a functional.

    Args:
        predict: a PFN, or a function ``(x_context, y_context, x_query)`` to the predictive.
        x: inputs of the dataset; without features for a sample of y alone.
        y: its targets.
        functional: maps all rows ``(n_draws, N, features)`` and ``(n_draws, N)`` to
            ``(n_draws, ...)``, such as ``lambda x, y: y.mean(1)``.
        n_draws: number of independent completions.
        n_future: rows of each completion, N - n; a PFN must have been trained for all N.
        refresh: number of rows after which a PFN encodes the context again, as in `joint_log_prob`.
        seed: seed of the completions.

    Example:
        >>> import torch
        >>> def normal_mean(x, y, z):  # y ~ N(theta, 1) and theta ~ N(0, 1)
        ...     n = y.shape[1]
        ...     mean = (y.sum(1, keepdim=True) / (n + 1)).expand(z.shape[:2])
        ...     return torch.distributions.Normal(mean, (1 + 1 / (n + 1)) ** 0.5)
        >>> y = torch.full((8,), 0.9)
        >>> draws = martingale_posterior(normal_mean, y[:, None], y, lambda x, y: y.mean(1))
        >>> round(draws.mean().item(), 1), round(draws.std().item(), 1)  # exact: 0.8 and 1/3
        (0.8, 0.3)
    """
    n_draws, n_future = whole_number("n_draws", n_draws), whole_number("n_future", n_future)
    dtype = number_type(predict)
    x, y = as_tensor(x, "x", dtype=dtype), as_tensor(y, "y", dtype=dtype)
    if x.ndim != 2 or y.shape != x.shape[:1] or len(y) < 1:
        raise ValueError(
            f"Expected one dataset, x (n, features) and y (n,) with n >= 1; got {tuple(x.shape)} "
            f"and {tuple(y.shape)}."
        )
    context = GrowingContext(predict, x[None], y[None], n_future, refresh, n_draws)
    every = torch.arange(n_draws)
    with seeded(seed):
        for _ in range(n_future):
            chosen = torch.randint(context.n, (n_draws,))
            new = context.x[every, chosen].unsqueeze(1)
            context.append(new, context.predictive(new).sample())
    return functional(context.x, context.y)
