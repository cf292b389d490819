r"""One measurement of a moving target: the latent is the state, the data are range and bearing.

The observation of `SensorFusion` as a separate program, so that a network can learn to update any
prior of the state; between observations the state is predicted exactly.

The likelihood summary ignores outliers: at the measured point the error is normal, with standard
deviation .1 (r + 1) along the line of sight and .1 r across it. The network has to learn that three
ranges in ten are echoes or noise.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from amortized.priors.program_prior import ProgramPrior
from amortized.priors.state_space.sensor_fusion import SensorFusion, reading
from amortized.program.likelihood_summary import Inputs, LikelihoodSummary, Mask, Targets

_BEARING_SD, _LEAST_RANGE = 0.1, 0.1


class SensorReading(dist.TorchDistribution):
    """The distribution of ``(range, bearing)`` given the state.

    Args:
        state: ``(*batch, 4)``.
    """

    arg_constraints = {"state": constraints.real_vector}
    support = constraints.real_vector

    def __init__(self, state: Float[Tensor, "*batch 4"]) -> None:
        self.state = state
        super().__init__(state.shape[:-1], torch.Size([2]), validate_args=False)

    def expand(self, batch_shape: Any, _instance: "SensorReading | None" = None) -> "SensorReading":
        return SensorReading(self.state.expand(*batch_shape, 4))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = torch.Size(sample_shape) + self.batch_shape
        dtype, device = self.state.dtype, self.state.device
        which, late = torch.rand((2, *shape), dtype=dtype, device=device).unbind(0)
        white = torch.randn((*shape, 2), dtype=dtype, device=device)
        return reading(self.state.expand(*shape, 4), white, which, late)

    def log_prob(self, value: Tensor) -> Tensor:
        sensors = SensorFusion(self.state.dtype, self.state.device)
        return sensors.log_observation(value, self.state, 0)


class SensorReadingPrior(ProgramPrior):
    """``state ~ N((1, 0, 1, 0), I)`` and one reading of it; a dataset is ``(range, bearing)``."""

    ordered = 2

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one reading."""
        mean = torch.eye(4, dtype=x.dtype, device=x.device)[::2].sum(0)
        state = pyro.sample("state", dist.Normal(mean, 1.0).to_event(1))
        return pyro.sample("y", SensorReading(state), obs=y)

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        """The observed point, with the errors along and across the line of sight."""
        distance, bearing = y[:, 0], y[:, 1]
        along = torch.stack((bearing.sin(), bearing.cos()), -1)  # bearing is atan2(x, y)
        across = torch.stack((bearing.cos(), -bearing.sin()), -1)
        sds = 0.1 * (distance + 1), _BEARING_SD * distance.clamp_min(_LEAST_RANGE)
        rows = torch.stack((along / sds[0][:, None], across / sds[1][:, None]), 1)
        rows = rows.where(mask.all(-1)[:, None, None], 0.0)
        value = (rows @ (distance.unsqueeze(-1) * along).unsqueeze(-1)).squeeze(-1)
        matrix = y.new_zeros(len(y), 2, 4)
        matrix[:, :, ::2] = rows
        return LikelihoodSummary(value, matrix)
