r"""Stationary autoregressions, with a prior on their partial autocorrelations.

.. math:: y_t = m + \sum_{k \le p} w_k (y_{t-k} - m) + \sigma \epsilon_t

A series is stationary if and only if all partial autocorrelations :math:`r_k` lie in (-1, 1), so a
prior on them is a prior on stationary series. Levinson's recursion gives the coefficients,

.. math:: w^{(k)} = (w^{(k-1)} - r_k \, \mathrm{flip}(w^{(k-1)}), r_k),

and also the distribution of :math:`y_k` given the first k values, so that simulations start from
the stationary distribution without burn-in.

References:
    On parametrizing stationary autoregressions by partial autocorrelations (Barndorff-Nielsen and
    Schou, 1973).
    AR-Net: a simple auto-regressive neural network for time-series (Triebe et al., 2019).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.prior import Prior, split
from amortized.priors.task import TaskBatch
from amortized.validation import number_between, whole_number


def levinson(partial: Float[Tensor, "*batch order"]) -> list[Float[Tensor, "*batch _"]]:
    """Coefficients of all orders 0, 1, ... from partial autocorrelations.

    Example:
        >>> levinson(torch.tensor([0.5, -0.4]))[-1]
        tensor([ 0.7000, -0.4000])
    """
    orders = [partial[..., :0]]
    for k in range(partial.shape[-1]):
        r, before = partial[..., k : k + 1], orders[-1]
        orders.append(torch.cat((before - r * before.flip(-1), r), -1))
    return orders


def partial_autocorrelations(
    coefficients: Float[Tensor, "*batch order"],
) -> Float[Tensor, "*batch order"]:
    """The inverse of `levinson`; the series is stationary if all are in (-1, 1).

    Example:
        >>> partial_autocorrelations(torch.tensor([0.7, -0.4]))
        tensor([ 0.5000, -0.4000])
    """
    w, partial = coefficients, []
    for k in range(coefficients.shape[-1] - 1, -1, -1):
        r, rest = w[..., k : k + 1], w[..., :k]
        partial.append(r)
        w = (rest + r * rest.flip(-1)) / (1 - r.square())
    return torch.cat(partial[::-1], -1)


class AutoregressivePrior(Prior):
    """Stationary autoregressions of random order with mostly zero partial autocorrelations.

    The order is uniform from 1 to ``max_order``. A partial autocorrelation is zero with probability
    ``sparsity`` and otherwise uniform in (-1, 1); the last one is never zero. Mean and log
    standard deviation of the series are standard normal. Rows are times 0, 1, 2, ...; the query
    follows the context.

    Args:
        max_order: highest order.
        sparsity: probability that a partial autocorrelation is zero.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> batch = AutoregressivePrior(max_order=5).sample(3, 50, 10, seed=0)
        >>> tuple(batch.y_query.shape), tuple(batch.latents["coefficients"].shape)
        ((3, 10), (3, 5))
    """

    def __init__(self, max_order: int = 10, sparsity: float = 0.5) -> None:
        self.max_order = whole_number("max_order", max_order)
        self.sparsity = number_between("sparsity", sparsity, 0, 1, least=True)

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        order = torch.randint(1, self.max_order + 1, (n_tasks, 1))
        lag = torch.arange(1, self.max_order + 1)
        there = (torch.rand(n_tasks, self.max_order) >= self.sparsity) | (lag == order)
        partial = (2 * torch.rand(n_tasks, self.max_order) - 1) * (there & (lag <= order))
        mean, scale = torch.randn(n_tasks, 1), torch.randn(n_tasks, 1).exp()
        n = n_context + n_query
        y = mean + scale * at_rest(partial, torch.randn(n_tasks, n))
        x = torch.arange(n, dtype=y.dtype)[None, :, None].repeat(n_tasks, 1, 1)
        latents = {"coefficients": levinson(partial)[-1], "mean": mean[:, 0], "scale": scale[:, 0]}
        return split(x, y, n_context, latents)


def at_rest(
    partial: Float[Tensor, "*batch order"], white: Float[Tensor, "*batch n"]
) -> Float[Tensor, "*batch n"]:
    """The stationary series of variance 1 driven by independent standard normal innovations."""
    orders, p = levinson(partial), partial.shape[-1]
    # Variance of y_k given the k values before it.
    variance = torch.cat((torch.ones_like(partial[..., :1]), (1 - partial.square())), -1).cumprod(
        -1
    )
    y = [white[..., 0]]
    for t in range(1, white.shape[-1]):
        k = min(t, p)
        past = torch.stack(y[-1 : -k - 1 : -1], -1)
        mean = (orders[k] * past).sum(-1)
        y.append(mean + variance[..., k].sqrt() * white[..., t])
    return torch.stack(y, -1)
