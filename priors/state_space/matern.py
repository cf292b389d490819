r"""Gaussian processes with Matern covariance as stochastic differential equations.

With :math:`\nu = p + 1/2` and :math:`\lambda = \sqrt{2 \nu} / \ell`, the process and its first p
derivatives form a Markov process. Derivative i is divided by :math:`\lambda^i`, and time is
measured in units of :math:`1 / \lambda`, so the matrices are polynomials times an exponential.

References:
    Kalman filtering and smoothing solutions to temporal Gaussian process regression models
    (Hartikainen and Särkkä, 2010).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.priors.state_space.components import (
    Component,
    Number,
    as_number,
    matrices,
    unit_vector,
)

# Impulse response of each state: exp(-u) times this polynomial of the scaled time u.
_RESPONSES = {
    0: ((1.0,),),
    1: ((0.0, 1.0), (1.0, -1.0)),
    2: ((0.0, 0.0, 0.5), (0.0, 1.0, -0.5), (1.0, -2.0, 0.5)),
}
_HALVES = {"matern12": 0, "matern32": 1, "matern52": 2}


@dataclass(frozen=True, eq=False)
class Matern(Component):
    """A stationary Gaussian process with Matern covariance.

    Attributes:
        kind: "matern12", "matern32" or "matern52".
        lengthscale: lengthscale, in units of time.
        outputscale: standard deviation.

    Example:
        >>> Matern("matern32", 2.0, 1.0).transition(torch.zeros(1))
        tensor([[[1., 0.],
                 [0., 1.]]])
    """

    kind: str
    lengthscale: Number
    outputscale: Number

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind not in _HALVES:
            raise ValueError(f"Expected kind to be one of {sorted(_HALVES)}; got {self.kind!r}.")

    def _rate(self, like: Tensor) -> Tensor:
        """``sqrt(2 nu) / lengthscale``, shaped to broadcast with gaps."""
        lengthscale = as_number(self.lengthscale, like)
        return (math.sqrt(2 * _HALVES[self.kind] + 1) / lengthscale).unsqueeze(-1)

    def transition(self, h: Tensor) -> Tensor:
        rate = self._rate(h)
        u = rate * h  # states are scaled by powers of the rate, so all have one unit
        rows = {
            0: [[torch.ones_like(u)]],
            1: [[1 + u, u], [-u, 1 - u]],
            2: [
                [1 + u + u**2 / 2, u + u**2, u**2 / 2],
                [-(u**2) / 2, 1 + u - u**2, u - u**2 / 2],
                [u**2 / 2 - u, u**2 - 3 * u, 1 - 2 * u + u**2 / 2],
            ],
        }[_HALVES[self.kind]]
        return matrices(rows) * torch.exp(-u)[..., None, None]

    def noise(self, h: Tensor) -> Tensor:
        p = _HALVES[self.kind]
        # The derivative of gammainc takes the logarithm of its argument.
        twice = (2 * self._rate(h) * h).clamp_min(torch.finfo(h.dtype).tiny)
        # Moments of exp(-2 s) over (0, u) are accurate for small gaps, unlike the difference of the
        # stationary covariance and its transition.
        moments = [
            math.factorial(m)
            / 2.0 ** (m + 1)
            * torch.special.gammainc(torch.full_like(twice, m + 1), twice)
            for m in range(2 * p + 1)
        ]
        rows = [
            [
                sum(
                    a * b * moments[i + j]
                    for i, a in enumerate(left)
                    for j, b in enumerate(right)
                    if a * b != 0
                )
                for right in _RESPONSES[p]
            ]
            for left in _RESPONSES[p]
        ]
        return self._diffusion(h) * matrices(rows)

    def _diffusion(self, like: Tensor) -> Tensor:
        """Spectral density of the driving noise in scaled time, which gives ``f`` its scale."""
        p = _HALVES[self.kind]
        scale = as_number(self.outputscale, like)
        density = 2.0 ** (2 * p + 1) * math.factorial(p) ** 2 / math.factorial(2 * p)
        return (density * scale.square())[..., None, None, None]

    def initial_cov(self, like: Tensor) -> Tensor:
        correlation = {
            0: [[1.0]],
            1: [[1.0, 0.0], [0.0, 1.0]],
            2: [[1.0, 0.0, -1 / 3], [0.0, 1 / 3, 0.0], [-1 / 3, 0.0, 1.0]],
        }[_HALVES[self.kind]]
        scale = as_number(self.outputscale, like)
        return scale.square()[..., None, None] * like.new_tensor(correlation)

    def observation(self, like: Tensor) -> Tensor:
        return unit_vector(like, _HALVES[self.kind] + 1)
