"""The joint distribution of a series under a linear-Gaussian state-space model, for programs."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

from amortized.priors.state_space.covariances import covariance_root
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman import kalman_filter


class SeriesLaw(TorchDistribution):
    """The distribution of a series of scalars, with the evidence of a Kalman filter as density.

    Args:
        model: model of one series; its matrices may change with time.
        order: ``order[i]`` is the row of the i-th observation in time, ``(n,)``.
        dtype: dtype of the series; the evidence is computed in the dtype of the model.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}
    support = constraints.real_vector
    integrates_missing = True  # the filter passes over NaN

    def __init__(self, model: LinearGaussianModel, order: Tensor, dtype: torch.dtype) -> None:
        self.model, self.order, self.dtype = model, order, dtype
        super().__init__(torch.Size(), order.shape, validate_args=False)

    def log_prob(self, value: Float[Tensor, " n"]) -> Tensor:
        in_time = value.gather(-1, self.order).to(self.model.observation.dtype)
        return kalman_filter(self.model, in_time[None, :, None]).log_evidence[0].to(self.dtype)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape, model = torch.Size(sample_shape), self.model
        start, steps = covariance_root(model.initial_cov), covariance_root(model.transition_cov[0])
        white = torch.randn(*shape, *self.event_shape, start.shape[-1], dtype=start.dtype)
        state, states = white[..., 0, :] @ start.mT, []
        for t in range(len(self.order)):
            if t > 0:
                state = state @ model.transition[0, t].mT + white[..., t, :] @ steps[t].mT
            states.append(state)
        noise = torch.randn(*shape, *self.event_shape, dtype=start.dtype)
        mean = torch.stack(states, -2) @ model.observation[0]
        offset = 0.0 if model.observation_offset is None else model.observation_offset[0]
        y = mean + offset + model.observation_cov[0, 0].sqrt() * noise
        return y.gather(-1, self.order.argsort(-1).expand(y.shape)).to(self.dtype)
