r"""A moving target observed by a range finder and a bearing sensor, both at the origin.

The state ``(x, v_x, y, v_y)`` moves as

    state_t ~ N(A state_{t-1}, G G'),    two equal axes with A = [[1, .6321], [0, .3679]],
                                         G = (.1, .2)': noise of rank 2 in four dimensions,

from ``state_0 ~ N((1, 0, 1, 0), I)``. With r the true distance, the range is a mixture of a normal
reading N(r, .1 (r + 1)) with weight .7, an early echo Exp(1) with weight .2 and noise U(0, 10) with
weight .1, clipped to [0, 10]. The bearing is atan2(x, y) + N(0, .1), wrapped to [-pi, pi). The
second argument of N is a standard deviation here.

The clipped range has atoms at 0 and 10: its density is relative to Lebesgue measure plus a unit
mass at each end. Without the atoms the posterior would not be that of this program.

References:
    Distribution Transformers: fast approximate Bayesian inference with on-the-fly prior
    adaptation (Whittle et al., 2025), the filtering experiment.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.priors.state_space.state_space_model import LinearGaussianModel, StateSpaceModel

_MAX_RANGE = 10.0
_WEIGHTS = (0.7, 0.2, 0.1)  # normal, exponential, uniform
_BEARING_SD = 0.1


@dataclass(frozen=True, eq=False)
class SensorFusion(StateSpaceModel):
    """The sensor-fusion program; observations are ``(range, bearing)``.

    Attributes:
        dtype: dtype of states and observations.
        device: device of states and observations.

    Example:
        >>> states, y = SensorFusion().simulate(n_series=8, n_steps=50, seed=0)
        >>> tuple(states.shape), tuple(y.shape)
        ((8, 50, 4), (8, 50, 2))
    """

    dtype: torch.dtype = torch.float32
    device: torch.device | str = "cpu"

    def motion(self) -> LinearGaussianModel:
        """The linear-Gaussian dynamics of the state, with positions observed without noise."""
        axis = self._tensor([[1.0, 0.6321], [0.0, 0.3679]])
        push = self._tensor([[0.1], [0.2]])
        eye = torch.eye(4, dtype=self.dtype, device=self.device)
        return LinearGaussianModel(
            transition=torch.block_diag(axis, axis),
            transition_cov=torch.block_diag(push @ push.mT, push @ push.mT),
            observation=eye[::2],
            observation_cov=0 * eye[:2, :2],
            initial_mean=self._tensor([1.0, 0.0, 1.0, 0.0]),
            initial_cov=eye,
        )

    def sample_initial(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return self._tensor([1.0, 0.0, 1.0, 0.0]) + self._white(*shape, 4, generator=generator)

    def sample_transition(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        position, velocity = state[..., ::2], state[..., 1::2]
        push = self._white(*state.shape[:2], 2, generator=generator)
        moved = torch.stack(
            (position + 0.6321 * velocity + 0.1 * push, 0.3679 * velocity + 0.2 * push), -1
        )
        return moved.flatten(-2)

    def sample_observation(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        white = self._white(*state.shape[:2], 2, generator=generator)
        which, late = torch.rand(
            2, *state.shape[:2], generator=generator, dtype=self.dtype, device=self.device
        )
        return reading(state, white, which, late)

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        distance, bearing = true_range_and_bearing(state).unbind(-1)
        log_range = self._log_range(y[..., 0], distance)
        # The wrapped normal; further turns have densities below exp(-900).
        turns = 2 * math.pi * torch.arange(-1, 2, dtype=self.dtype, device=self.device)
        off = (wrap(y[..., 1] - bearing)[..., None] + turns) / _BEARING_SD
        log_bearing = (-0.5 * off**2).logsumexp(-1) - math.log(_BEARING_SD * (2 * math.pi) ** 0.5)
        return torch.where(y[..., 0].isnan(), 0.0, log_range) + torch.where(
            y[..., 1].isnan(), 0.0, log_bearing
        )

    def _log_range(self, reading: Tensor, distance: Tensor) -> Tensor:
        """Log density of the clipped mixture; at 0 and 10 the log mass of the atom."""
        sd = 0.1 * (distance + 1)
        normal, echo, noise = _WEIGHTS
        z = (reading - distance) / sd
        inside = normal * (-0.5 * z**2).exp() / (sd * (2 * math.pi) ** 0.5)
        inside = inside + echo * (-reading).exp() + noise / _MAX_RANGE
        below = normal * torch.special.ndtr(-distance / sd)
        above = normal * torch.special.ndtr((distance - _MAX_RANGE) / sd)
        density = torch.where(reading <= 0, below, inside)
        density = torch.where(reading >= _MAX_RANGE, above + echo * math.exp(-_MAX_RANGE), density)
        possible = (reading >= 0) & (reading <= _MAX_RANGE)
        return torch.where(possible, density, 0.0).log()

    def _tensor(self, values: list[float] | list[list[float]]) -> Tensor:
        return torch.tensor(values, dtype=self.dtype, device=self.device)

    def _white(self, *shape: int, generator: torch.Generator) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=self.dtype, device=self.device)


def reading(state: Tensor, white: Tensor, which: Tensor, late: Tensor) -> Tensor:
    """Range and bearing of a state as a function of random numbers, ``(..., 2)``.

    Args:
        state: ``(..., 4)``.
        white: standard normal, ``(..., 2)``.
        which: uniform, selects the component of the range, ``(...)``.
        late: uniform, the value within that component, ``(...)``.
    """
    distance, bearing = true_range_and_bearing(state).unbind(-1)
    normal = distance + 0.1 * (distance + 1) * white[..., 0]
    echo = -torch.log1p(-late)  # both use the same uniform, because only one is selected
    measured = torch.where(which < _WEIGHTS[0], normal, echo)
    measured = torch.where(which >= _WEIGHTS[0] + _WEIGHTS[1], _MAX_RANGE * late, measured)
    turned = wrap(bearing + _BEARING_SD * white[..., 1])
    return torch.stack((measured.clamp(0, _MAX_RANGE), turned), -1)


def true_range_and_bearing(state: Tensor) -> Tensor:
    """Distance and ``atan2(x, y)`` of the target, ``(..., 4) -> (..., 2)``."""
    x, y = state[..., 0], state[..., 2]
    return torch.stack((torch.hypot(x, y), torch.atan2(x, y)), -1)


def wrap(angle: Tensor) -> Tensor:
    """Wraps an angle to [-pi, pi)."""
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi
