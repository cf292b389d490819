"""Covariance functions of Gaussian processes, on scaled distances.

All take inputs of shape ``(..., n, features)`` and ``(..., m, features)`` and lengthscales
``(..., features)`` (one a feature: automatic relevance determination) and return correlations
``(..., n, m)`` that are 1 at distance zero.
"""

import math
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def _distance(x: Tensor, z: Tensor, lengthscale: Tensor) -> Tensor:
    """Euclidean distance of inputs measured in lengthscales."""
    scale = lengthscale.unsqueeze(-2)
    # The matrix-multiplication form of cdist loses the small distances that matter most here.
    return torch.cdist(x / scale, z / scale, compute_mode="donot_use_mm_for_euclid_dist")


def rbf(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Squared exponential :math:`\exp(-r^2/2)`."""
    return torch.exp(-0.5 * _distance(x, z, lengthscale).square())


def matern12(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Matern-1/2 (exponential) :math:`\exp(-r)`."""
    return torch.exp(-_distance(x, z, lengthscale))


def matern32(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Matern-3/2 :math:`(1 + \sqrt3 r)\exp(-\sqrt3 r)`."""
    r = math.sqrt(3) * _distance(x, z, lengthscale)
    return (1 + r) * torch.exp(-r)


def matern52(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Matern-5/2 :math:`(1 + \sqrt5 r + 5r^2/3)\exp(-\sqrt5 r)`."""
    r = math.sqrt(5) * _distance(x, z, lengthscale)
    return (1 + r + r.square() / 3) * torch.exp(-r)


def periodic(
    x: Float[Tensor, "*batch n features"],
    z: Float[Tensor, "*batch m features"],
    lengthscale: Float[Tensor, "*batch features"],
    period: Float[Tensor, "*batch features"],
) -> Float[Tensor, "*batch n m"]:
    r"""Periodic :math:`\exp(-2\sum_j \sin^2(\pi(x_j - z_j)/p_j)/\ell_j^2)`."""

    # sin^2(a - b) needs only sines and cosines of each input, so a distance of points on circles
    # does it: |(cos 2a, sin 2a) - (cos 2b, sin 2b)|^2 = 4 sin^2(a - b).
    def on_circles(inputs: Tensor) -> Tensor:
        angle = 2 * math.pi * inputs / period.unsqueeze(-2)
        scale = lengthscale.unsqueeze(-2)
        return torch.cat((angle.cos() / scale, angle.sin() / scale), dim=-1)

    distance = torch.cdist(
        on_circles(x), on_circles(z), compute_mode="donot_use_mm_for_euclid_dist"
    )
    return torch.exp(-0.5 * distance.square())


KERNELS: Mapping[str, Callable[..., Tensor]] = {
    "rbf": rbf,
    "matern12": matern12,
    "matern32": matern32,
    "matern52": matern52,
    "periodic": periodic,
}
