r"""The Ornstein-Uhlenbeck process as an inference benchmark: two latents, one series.

.. math:: y_{t+1} = y_t + \theta_1 (e^{\theta_2} - y_t) \Delta + 0.5 \sqrt\Delta\, w_t, \quad
    y_0 = 10, \quad \Delta = 0.2

with 25 points, :math:`\theta_1 \sim U(0, 2)` and :math:`\theta_2 \sim U(-2, 2)`. The increments are
normal with means linear in :math:`(\theta_1 e^{\theta_2}, \theta_1)`.

This is the OUP task of Chang et al. (2025), arXiv:2410.15320.
"""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from amortized.priors.program_prior import ProgramPrior
from amortized.priors.simulators.uniform import from_unconstrained, sample_uniform
from amortized.program.likelihood_summary import (
    Inputs,
    LikelihoodSummary,
    Mask,
    Targets,
    gauss_newton_summary,
)

_FIRST, _STEP, _SPREAD = 10.0, 0.2, 0.5 * math.sqrt(0.2)
_SPEED, _LOG_LEVEL = (0.0, 2.0), (-2.0, 2.0)
_TO_SPEED, _TO_LOG_LEVEL = from_unconstrained(_SPEED), from_unconstrained(_LOG_LEVEL)


class OrnsteinUhlenbeckSeries(dist.TorchDistribution):
    """The distribution of a series with a fixed first value.

    Args:
        speed: rate of mean reversion, theta_1.
        level: long-term mean, exp(theta_2).
        n: number of points including the first.
    """

    arg_constraints = {"speed": constraints.nonnegative, "level": constraints.real}
    support = constraints.real_vector

    def __init__(self, speed: Tensor, level: Tensor, n: int) -> None:
        self.speed, self.level = torch.broadcast_tensors(speed, level)
        super().__init__(self.speed.shape, torch.Size([n]), validate_args=False)

    def expand(
        self, batch_shape: Any, _instance: "OrnsteinUhlenbeckSeries | None" = None
    ) -> "OrnsteinUhlenbeckSeries":
        speed, level = self.speed.expand(batch_shape), self.level.expand(batch_shape)
        return OrnsteinUhlenbeckSeries(speed, level, self.event_shape[0])

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=self.speed.dtype, device=self.speed.device)
        value = _FIRST + 0.0 * noise[..., 0]
        points = [value]
        for t in range(1, shape[-1]):
            drift = self.speed * (self.level - value) * _STEP
            value = value + drift + _SPREAD * noise[..., t]
            points.append(value)
        return torch.stack(points, -1)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of the increments; the fixed first value has none."""
        before, after = value[..., :-1], value[..., 1:]
        drift = self.speed.unsqueeze(-1) * (self.level.unsqueeze(-1) - before) * _STEP
        z = (after - before - drift) / _SPREAD
        constant = math.log(_SPREAD) + 0.5 * math.log(2 * math.pi)
        return -0.5 * z.square().sum(-1) - z.shape[-1] * constant


class OrnsteinUhlenbeckPrior(ProgramPrior):
    """The Ornstein-Uhlenbeck process with uniform priors; a dataset is one series."""

    ordered = 25

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one series."""
        speed = sample_uniform("speed", _SPEED, x)
        log_level = sample_uniform("log_level", _LOG_LEVEL, x)
        return pyro.sample("y", OrnsteinUhlenbeckSeries(speed, log_level.exp(), len(x)), obs=y)

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        """Least squares on the increments, expanded around their maximum likelihood estimate."""
        y = y.double()
        before, increments = y[:, :-1], y.diff(dim=-1) / _SPREAD

        def predict(u: Tensor) -> Tensor:
            speed, level = _TO_SPEED(u[:, :1]), _TO_LOG_LEVEL(u[:, 1:]).exp()
            return speed * (level - before.repeat(len(u) // len(before), 1)) * _STEP / _SPREAD

        start = y.new_zeros(len(y), 2)
        summary = gauss_newton_summary(predict, increments, start, prior_sd=1.0)
        return summary.where(mask.all(-1))
