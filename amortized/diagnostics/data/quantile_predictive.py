"""The predictive distribution of a model that predicts quantiles only."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

LEVELS = (0.01, 0.05, *(k / 10 for k in range(1, 10)), 0.95, 0.99)
"""Levels of the quantiles that a model predicts."""


class QuantilePredictive(Distribution):
    r"""A density that is constant between quantiles, with exponential tails beyond them.

    Below the lowest quantile :math:`q_1` of level :math:`p_1` the distribution function is
    :math:`p_1 \exp((y - q_1) / s)` with :math:`s = (q_2 - q_1) / \log(p_2 / p_1)`, the scale at
    which it would pass through the second quantile; likewise above the highest.

    Args:
        quantiles: ``(*batch, levels)`` at `LEVELS`; sorted, where those of a model cross.

    Raises:
        ValueError: if there are not as many as levels, or some are not finite.

    Example:
        >>> normal = torch.distributions.Normal(0.0, 1.0)
        >>> predictive = QuantilePredictive(normal.icdf(torch.tensor(LEVELS))[None])
        >>> [round(predictive.cdf(torch.tensor([y])).item(), 2) for y in (-2.0, 0.0, 1.0)]
        [0.03, 0.5, 0.84]
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real

    def __init__(self, quantiles: Float[Tensor, "*batch levels"]) -> None:
        if quantiles.shape[-1] != len(LEVELS) or not bool(quantiles.isfinite().all()):
            raise ValueError(
                f"Expected finite quantiles (rows, {len(LEVELS)}); got {tuple(quantiles.shape)}."
            )
        q = quantiles.double().sort(-1).values
        # A model may predict equal quantiles; the density stays finite.
        least = 1e-9 + 1e-6 * (q[..., -1:] - q[..., :1])
        steps = torch.arange(len(LEVELS), dtype=q.dtype)
        self.q = q + least * steps
        self.p = torch.tensor(LEVELS, dtype=q.dtype)
        self.low = (self.q[..., 1] - self.q[..., 0]) / math.log(LEVELS[1] / LEVELS[0])
        self.high = (self.q[..., -1] - self.q[..., -2]) / math.log(
            (1 - LEVELS[-2]) / (1 - LEVELS[-1])
        )
        super().__init__(q.shape[:-1], validate_args=False)

    def _bar(self, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Values in float64, and the numbers of the quantiles around each, ``(*values, 2)``."""
        y = value.double().expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        q = self.q.expand(*y.shape, -1).contiguous()
        right = torch.searchsorted(q, y[..., None].contiguous()).clamp(1, len(LEVELS) - 1)
        at = torch.cat((right - 1, right), -1)
        return y, self.p[at], q.gather(-1, at)

    def _with_tails(self, value: Tensor, inside: Tensor, below: Tensor, above: Tensor) -> Tensor:
        inside = torch.where(value < self.q[..., 0], below, inside)
        return torch.where(value > self.q[..., -1], above, inside)

    def cdf(self, value: Float[Tensor, "*values"]) -> Tensor:
        """Distribution function."""
        y, p, q = self._bar(value)
        inside = p[..., 0] + (y - q[..., 0]) / q.diff(dim=-1)[..., 0] * p.diff(dim=-1)[..., 0]
        below = LEVELS[0] * ((y - self.q[..., 0]) / self.low).clamp(max=0).exp()
        above = 1 - (1 - LEVELS[-1]) * ((self.q[..., -1] - y) / self.high).clamp(max=0).exp()
        return self._with_tails(y, inside, below, above)

    def log_prob(self, value: Float[Tensor, "*values"]) -> Tensor:
        """Log density."""
        y, p, q = self._bar(value)
        inside = (p.diff(dim=-1) / q.diff(dim=-1))[..., 0].log()
        below = math.log(LEVELS[0]) - self.low.log() + (y - self.q[..., 0]) / self.low
        above = math.log(1 - LEVELS[-1]) - self.high.log() + (self.q[..., -1] - y) / self.high
        return self._with_tails(y, inside, below, above)

    def icdf(self, value: Float[Tensor, "*values"]) -> Tensor:
        """Quantile function."""
        p = value.double().expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        at = torch.searchsorted(self.p, p.contiguous()).clamp(1, len(LEVELS) - 1)
        q = self.q.expand(*p.shape, -1)
        left, right = (q.gather(-1, i[..., None])[..., 0] for i in (at - 1, at))
        inside = left + (p - self.p[at - 1]) / (self.p[at] - self.p[at - 1]) * (right - left)
        below = self.q[..., 0] + self.low * (p / LEVELS[0]).log()
        above = self.q[..., -1] - self.high * ((1 - p) / (1 - LEVELS[-1])).log()
        inside = torch.where(p < LEVELS[0], below, inside)
        return torch.where(p > LEVELS[-1], above, inside)

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """Mean."""
        middle = (self.q[..., 1:] + self.q[..., :-1]) / 2
        inside = (middle * self.p.diff()).sum(-1)
        below = LEVELS[0] * (self.q[..., 0] - self.low)
        return inside + below + (1 - LEVELS[-1]) * (self.q[..., -1] + self.high)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws ``(*sample_shape, *batch)``."""
        shape = torch.Size(sample_shape) + self.batch_shape
        return self.icdf(torch.rand(shape, dtype=self.q.dtype))
