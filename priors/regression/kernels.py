"""Covariance functions of Gaussian processes, on scaled distances.

All take inputs of shape ``(..., n, features)`` and ``(..., m, features)`` and lengthscales
``(..., features)`` (one per feature: automatic relevance determination) and return correlations
``(..., n, m)`` that are 1 at distance zero.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

Kernel = Callable[..., Tensor]


def _distance(x: Tensor, z: Tensor) -> Tensor:
    """Euclidean distance."""
    # The matrix-multiplication form of cdist is inaccurate for small distances, which matter most.
    return torch.cdist(x, z, compute_mode="donot_use_mm_for_euclid_dist")


def _radial(correlation: Callable[[Tensor], Tensor]) -> Kernel:
    """The kernel with this correlation as a function of distance in units of the lengthscale."""

    def kernel(
        x: Float[Tensor, "*batch n features"],
        z: Float[Tensor, "*batch m features"],
        lengthscale: Float[Tensor, "*batch features"],
    ) -> Float[Tensor, "*batch n m"]:
        scale = lengthscale.unsqueeze(-2)
        return correlation(_distance(x / scale, z / scale))

    return kernel


def _matern32(r: Tensor) -> Tensor:
    return (1 + math.sqrt(3) * r) * torch.exp(-math.sqrt(3) * r)


def _matern52(r: Tensor) -> Tensor:
    r = math.sqrt(5) * r
    return (1 + r + r.square() / 3) * torch.exp(-r)


rbf = _radial(lambda r: torch.exp(-0.5 * r.square()))
r"""Squared exponential, :math:`\exp(-r^2/2)`."""

matern12 = _radial(lambda r: torch.exp(-r))
r"""Matern-1/2 (exponential), :math:`\exp(-r)`."""

matern32 = _radial(_matern32)
r"""Matern-3/2, :math:`(1 + \sqrt3 r)\exp(-\sqrt3 r)`."""

matern52 = _radial(_matern52)
r"""Matern-5/2, :math:`(1 + \sqrt5 r + 5r^2/3)\exp(-\sqrt5 r)`."""


def periodic(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
    period: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Periodic :math:`\exp(-2\sum_j \sin^2(\pi(x_j - z_j)/p_j)/\ell_j^2)`."""

    # A distance between points on circles gives the kernel, because
    # |(cos 2a, sin 2a) - (cos 2b, sin 2b)|^2 = 4 sin^2(a - b).
    def on_circles(inputs: Tensor) -> Tensor:
        angle = 2 * math.pi * inputs / period.unsqueeze(-2)
        scale = lengthscale.unsqueeze(-2)
        return torch.cat((angle.cos() / scale, angle.sin() / scale), dim=-1)

    return torch.exp(-0.5 * _distance(on_circles(x), on_circles(z)).square())


KERNELS: Mapping[str, Kernel] = {
    "rbf": rbf,
    "matern12": matern12,
    "matern32": matern32,
    "matern52": matern52,
    "periodic": periodic,
}
