r"""The map from the whole real line, or several of them, to the support of a distribution.

It is torch's `biject_to`, but for intervals, where it is :math:`a + (b - a) \Phi(u)` with the
standard normal distribution function, instead of the logistic one: a uniform prior is then exactly
the standard normal in u, and what lies at an end of the interval has a normal's tail.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import AffineTransform, ComposeTransform, biject_to, constraints
from torch.distributions.transforms import IndependentTransform, Transform

_INTERVALS = type(constraints.interval(0, 1)), type(constraints.half_open_interval(0, 1))


class ProbitTransform(Transform):
    r""":math:`y = \Phi(u)`, kept off 0 and 1 by rounding.

    Example:
        >>> import torch
        >>> ProbitTransform()(torch.tensor([-1.96, 0.0, 1.96])).round(decimals=3)
        tensor([0.0250, 0.5000, 0.9750])
    """

    domain = constraints.real
    codomain = constraints.unit_interval
    bijective = True
    sign = +1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ProbitTransform)

    def _call(self, x: Tensor) -> Tensor:
        return _inside(torch.special.ndtr(x))

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.special.ndtri(_inside(y))

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return -0.5 * (x.square() + math.log(2 * math.pi))


def _inside(level: Tensor) -> Tensor:
    """A level of the distribution function, neither 0 nor 1."""
    finite = torch.finfo(level.dtype)
    return level.clamp(finite.tiny, 1 - finite.eps)


def bijection_to(support: Any) -> Transform:
    """The bijection to a support, such as ``fn.support`` of a distribution ``fn``.

    Raises:
        NotImplementedError: if there is none, as for discrete supports.

    Example:
        >>> bijection_to(constraints.interval(2.0, 4.0))(torch.zeros(2))
        tensor([3., 3.])
        >>> bijection_to(constraints.positive)(torch.zeros(2))
        tensor([1., 1.])
    """
    # torch registers no bijection for mixtures.
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return bijection_to(support.base_constraint)
    if isinstance(support, constraints.independent):
        return IndependentTransform(
            bijection_to(support.base_constraint), support.reinterpreted_batch_ndims
        )
    if isinstance(support, _INTERVALS):
        low, width = support.lower_bound, support.upper_bound - support.lower_bound
        return ComposeTransform([ProbitTransform(), AffineTransform(low, width)])
    return biject_to(support)
