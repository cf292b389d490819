"""Bijections from the real line to intervals and to angles."""

import math

import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.transforms import Transform


class Circle(constraints.Constraint):
    """Angles in radians, equal modulo 2 pi; a latent is drawn between -pi and pi."""

    def check(self, value: Tensor) -> Tensor:
        return value.isfinite()


class ProbitTransform(Transform):
    r""":math:`y = a + (b - a) \Phi(u)`, kept inside the open interval despite rounding.

    torch's `CumulativeDistributionTransform` of a normal rounds to the ends, in float32 for u below
    -6, where programs that check their arguments reject the latent.

    Args:
        low: a, the lower end.
        high: b, the upper end.

    Example:
        >>> import torch
        >>> ProbitTransform(0.0, 2.0)(torch.tensor([-1.96, 0.0, 1.96])).round(decimals=3)
        tensor([0.0500, 1.0000, 1.9500])
    """

    domain = constraints.real
    bijective = True
    sign = +1

    def __init__(self, low: Tensor | float, high: Tensor | float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.codomain = constraints.interval(low, high)

    def _ends(self, like: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (
            torch.as_tensor(end, dtype=like.dtype, device=like.device)
            for end in (self.low, self.high)
        )
        return low, high

    def _call(self, x: Tensor) -> Tensor:
        low, high = self._ends(x)
        finite = torch.finfo(x.dtype)
        least, most = (
            end + side * (finite.eps * end.abs() + finite.tiny)
            for end, side in ((low, 1), (high, -1))
        )
        # torch's ndtr is 0 below -8.3, where this is still accurate.
        level = 0.5 * torch.erfc(-x * math.sqrt(0.5))
        return (low + (high - low) * level).clamp(least, most)

    def _inverse(self, y: Tensor) -> Tensor:
        low, high = self._ends(y)
        finite = torch.finfo(y.dtype)
        level = ((y - low) / (high - low)).clamp(finite.tiny, 1 - finite.eps)
        return torch.special.ndtri(level)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        low, high = self._ends(x)
        return (high - low).log() - 0.5 * (x.square() + math.log(2 * math.pi))


class CircleTransform(ProbitTransform):
    """From the real line to angles between -pi and pi."""

    def __init__(self) -> None:
        super().__init__(-math.pi, math.pi)

    def _inverse(self, y: Tensor) -> Tensor:
        return super()._inverse((y + math.pi) % (2 * math.pi) - math.pi)
