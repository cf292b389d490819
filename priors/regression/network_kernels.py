r"""Covariances of infinitely wide random networks (neural network Gaussian processes).

A network with independent weights :math:`N(0, \sigma_w^2 / \mathrm{width})` and biases
:math:`N(0, \sigma_b^2)` tends to a Gaussian process as its layers become wide. With inputs in units
of the lengthscales, :math:`k_0(x, z) = 1 + x^\top z`, and each hidden layer with activation
:math:`\phi` leads to

.. math:: k_{l + 1} = \sigma_b^2 + \sigma_w^2 F(k_l), \qquad
    F(k)(x, z) = E[\phi(f(x)) \phi(f(z))], \quad f \sim GP(0, k),

in closed form: with :math:`\cos \theta = k(x, z) / \sqrt{k(x, x) k(z, z)}`,

.. math::
    F_\mathrm{relu}(k)(x, z) &= \frac{\sqrt{k(x, x) k(z, z)}}{2 \pi}
        (\sin \theta + (\pi - \theta) \cos \theta), \\
    F_\mathrm{erf}(k)(x, z) &= \frac 2 \pi
        \arcsin \frac{2 k(x, z)}{\sqrt{(1 + 2 k(x, x)) (1 + 2 k(z, z))}}.

These functions are not stationary: they are linear (ReLU) or constant (erf) far from the origin.

References:
    Williams, Computing with infinite networks (1997). Cho and Saul, Kernel methods for deep
    learning (2009). Lee et al., Deep neural networks as Gaussian processes (2018),
    arXiv 1711.00165.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Layer = Callable[[Tensor, Tensor, Tensor], Tensor]


def _relu(cross: Tensor, of_x: Tensor, of_z: Tensor) -> Tensor:
    size = (of_x * of_z).sqrt()
    # At 1, where the derivative of the angle is infinite, that of the sum is not.
    inside = 1 - 4 * torch.finfo(cross.dtype).eps
    cosine = (cross / size).clamp(-inside, inside)
    return (
        size / (2 * math.pi) * ((1 - cosine.square()).sqrt() + (math.pi - cosine.acos()) * cosine)
    )


def _erf(cross: Tensor, of_x: Tensor, of_z: Tensor) -> Tensor:
    size = ((1 + 2 * of_x) * (1 + 2 * of_z)).sqrt()
    return 2 / math.pi * (2 * cross / size).asin()


@dataclass(frozen=True)
class NetworkKernel:
    """Covariance of a wide network of one activation.

    Attributes:
        layer: F, of the covariances ``k(x, z)``, ``k(x, x)`` and ``k(z, z)``.
        weight_variance: of the weights after the first layer, times the width, where none is given.

    Example:
        >>> x = torch.tensor([[0.0], [1.0], [-1.0]])
        >>> NETWORK_KERNELS["relu"](x, x, torch.ones(1)).diagonal()
        tensor([1., 2., 2.])
        >>> NETWORK_KERNELS["erf"](x, x, torch.ones(1)).diagonal().round(decimals=3)
        tensor([0.4650, 0.5900, 0.5900])
    """

    layer: Layer
    weight_variance: float

    def __call__(
        self,
        x: Float[Tensor, "*batch n features"],
        z: Float[Tensor, "*batch m features"],
        lengthscale: Float[Tensor, "*batch features"],
        depth: int = 1,
        weight_variance: float | None = None,
        bias_variance: float = 0.0,
    ) -> Float[Tensor, "*batch n m"]:
        """The covariance matrix.

        Args:
            x: inputs.
            z: other inputs.
            lengthscale: of each feature.
            depth: number of hidden layers.
            weight_variance: of the weights after the first layer, times the width.
            bias_variance: of the biases after the first layer.
        """
        variance = self.weight_variance if weight_variance is None else weight_variance
        scale = lengthscale.unsqueeze(-2)
        x, z = x / scale, z / scale
        # The variances at x and at z follow the same recursion as the covariance between them.
        of_x = 1 + x.square().sum(-1).unsqueeze(-1)
        of_z = 1 + z.square().sum(-1).unsqueeze(-2)
        cross = 1 + x @ z.mT
        for _ in range(depth):
            cross, of_x, of_z = (
                bias_variance + variance * self.layer(*three)
                for three in ((cross, of_x, of_z), (of_x, of_x, of_x), (of_z, of_z, of_z))
            )
        return cross


NETWORK_KERNELS: Mapping[str, NetworkKernel] = {
    # With this variance of the weights that of the function is the same in every layer.
    "relu": NetworkKernel(_relu, 2.0),
    "erf": NetworkKernel(_erf, 1.0),
}
