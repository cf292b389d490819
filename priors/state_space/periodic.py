"""Periodic components as sums of resonators, one for each harmonic.

References:
    Explicit link between periodic covariance functions and state space models (Solin and
    Särkkä, 2014).
    Forecasting, structural time series models and the Kalman filter (Harvey, 1989).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.priors.state_space.components import (
    Component,
    Number,
    as_number,
    block_diagonal,
    matrices,
    unit_vector,
    variance,
)


@dataclass(frozen=True, eq=False)
class Periodic(Component):
    r"""A periodic Gaussian process, :math:`s^2 \exp(-2 \sin^2(\pi (t - t') / p) / \ell^2)`.

    Its Fourier series is truncated after ``n_harmonics``, each an undamped resonator.

    Attributes:
        period: period, in units of time.
        lengthscale: dimensionless lengthscale; shorter ones need more harmonics.
        outputscale: standard deviation.
        n_harmonics: number of harmonics; 12 are exact to 1e-11 for lengthscales above 1, and 24 for
            lengthscales above 0.5.
    """

    period: Number
    lengthscale: Number
    outputscale: Number = 1.0
    n_harmonics: int = 12

    def weights(self, like: Tensor) -> Tensor:
        r"""Variance of each harmonic, ``(*batch, n_harmonics + 1)``."""
        lengthscale = as_number(self.lengthscale, like)
        scale = as_number(self.outputscale, like)
        weights = _scaled_bessel(lengthscale**-2, self.n_harmonics)
        return scale.square().unsqueeze(-1) * weights

    def transition(self, h: Tensor) -> Tensor:
        period = as_number(self.period, h)
        return _rotations(h, period, range(self.n_harmonics + 1))

    def noise(self, h: Tensor) -> Tensor:
        return torch.zeros_like(self.transition(h))

    def initial_cov(self, like: Tensor) -> Tensor:
        return torch.diag_embed(self.weights(like).repeat_interleave(2, -1))

    def observation(self, like: Tensor) -> Tensor:
        return unit_vector(like, 2).repeat(self.n_harmonics + 1)

    @property
    def is_noiseless(self) -> bool:
        return True


@dataclass(frozen=True, eq=False)
class Seasonal(Component):
    """A seasonal pattern of a few harmonics, whose coefficients may be random walks.

    Attributes:
        period: period, in units of time.
        n_harmonics: number of harmonics; half the number of steps per period allows any pattern.
        scale: standard deviation of the pattern at the first time.
        drift: standard deviation of its change per unit of time; 0 for a fixed pattern.
    """

    period: Number
    n_harmonics: int
    scale: Number
    drift: Number = 0.0

    def transition(self, h: Tensor) -> Tensor:
        period = as_number(self.period, h)
        return _rotations(h, period, range(1, self.n_harmonics + 1))

    def noise(self, h: Tensor) -> Tensor:
        return self._spread(variance(self.drift, h) * h, h)

    def initial_cov(self, like: Tensor) -> Tensor:
        return self._spread(variance(self.scale, like), like)[..., 0, :, :]

    def _spread(self, variance: Tensor, like: Tensor) -> Tensor:
        eye = torch.eye(2 * self.n_harmonics, dtype=like.dtype, device=like.device)
        return variance[..., None, None] / self.n_harmonics * eye

    def observation(self, like: Tensor) -> Tensor:
        return unit_vector(like, 2).repeat(self.n_harmonics)

    @property
    def is_noiseless(self) -> bool:
        return not isinstance(self.drift, Tensor) and self.drift == 0


def _rotations(h: Tensor, period: Tensor, harmonics: Sequence[int]) -> Tensor:
    """Block-diagonal rotation matrices of the harmonics over a gap."""
    order = torch.as_tensor(list(harmonics), dtype=h.dtype, device=h.device)
    turn = torch.remainder(h / period.unsqueeze(-1), 1.0)  # accurate late in a long series
    angle = 2 * math.pi * turn.unsqueeze(-1) * order
    cos, sin = angle.cos(), angle.sin()
    return block_diagonal(matrices([[cos, sin], [-sin, cos]]).unbind(-3))


def _scaled_bessel(x: Tensor, n: int) -> Tensor:
    r"""``exp(-x) (I_0, 2 I_1, ..., 2 I_n)(x)``, which add up to nearly 1."""
    # Ratios I_k / I_{k-1} from their continued fraction, evaluated backwards, cannot overflow.
    ratio, ratios = torch.zeros_like(x), []
    for order in range(2 * n + 40, 0, -1):
        ratio = x / (2 * order + x * ratio)
        ratios.append(ratio)
    relative = 2 * torch.stack(ratios[::-1], -1).cumprod(-1)
    total = 1 + relative.sum(-1, keepdim=True)  # exp(x) / I_0
    return torch.cat((torch.ones_like(total), relative[..., :n]), -1) / total
