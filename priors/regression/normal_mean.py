"""The mean of a normal with known standard deviation: one latent, linear-Gaussian observations.

Under a Gaussian-mixture prior the posterior is again a mixture, in closed form
(`GaussianMixture.update`), so this problem is the first test of an amortised posterior.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior
from amortized.validation import number_between


class NormalMeanPrior(ProgramPrior):
    """``mean ~ N(0, 2^2)`` and ``y_i ~ N(mean, noise^2)``.

    Args:
        noise: standard deviation of an observation.

    Example:
        >>> NormalMeanPrior().sample(3, 5, 0, seed=0).y_context.shape
        torch.Size([3, 5])
    """

    def __init__(self, noise: float = 1.0) -> None:
        super().__init__()
        self.noise = number_between("noise", noise, 0, math.inf)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one dataset."""
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
        return pyro.sample("y", dist.Normal(mean, self.noise).expand([len(x)]).to_event(1), obs=y)

    def linear_observation(
        self, y: Float[Tensor, "batch n"], mask: Bool[Tensor, "batch n"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The data as z = H u + N(0, 1): z ``(batch, 1)`` and H ``(batch, 1, 1)``."""
        mask = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
        n = mask.sum(-1, keepdim=True).to(y.dtype)
        root = n.sqrt() / self.noise
        value = y.where(mask, 0.0).sum(-1, keepdim=True) / (n.clamp_min(1).sqrt() * self.noise)
        return value, root.unsqueeze(-1)
