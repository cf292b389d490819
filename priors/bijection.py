r"""The map from the whole real line, or several of them, to the support of a distribution.

It is torch's `biject_to`, but for intervals, where it is :math:`a + (b - a) \Phi(u)` with the
standard normal distribution function, instead of the logistic one: a uniform prior is then exactly
the standard normal in u, and what lies at an end of the interval has a normal's tail.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from amortized.priors.support import Image

_INTERVALS = type(constraints.interval(0, 1)), type(constraints.half_open_interval(0, 1))


class ProbitTransform(Transform):
    r""":math:`y = a + (b - a) \Phi(u)`, kept inside of the interval by more than rounding.

    torch's `CumulativeDistributionTransform` of a normal rounds onto the ends, in float32 from
    u = -6 on, and programs that check their arguments refuse a latent there.

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


def bijection_to(support: Any) -> Transform:
    """The bijection to a support, such as `amortized.priors.support.support_of` gives.

    Raises:
        NotImplementedError: if there is none, as for discrete supports.

    Example:
        >>> bijection_to(constraints.interval(2.0, 4.0))(torch.zeros(2))
        tensor([3., 3.])
        >>> bijection_to(constraints.positive)(torch.zeros(2))
        tensor([1., 1.])
    """
    if isinstance(support, Image):
        return ComposeTransform([bijection_to(support.base), *support.transform.parts])
    if isinstance(support, constraints.independent):
        return IndependentTransform(
            bijection_to(support.base_constraint), support.reinterpreted_batch_ndims
        )
    if isinstance(support, _INTERVALS):
        return ProbitTransform(support.lower_bound, support.upper_bound)
    return biject_to(support)
