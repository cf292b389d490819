"""Uniform priors of a simulator's latents, and the bijections to their intervals."""

from typing import Any

import pyro
import pyro.distributions as dist
from torch import Tensor
from torch.distributions import constraints

from amortized.program.support import bijection_to

Bounds = tuple[float, float]


def sample_uniform(name: str, bounds: Bounds, like: Tensor) -> Tensor:
    """A latent, uniform between two bounds, with the dtype and device of ``like``."""
    low, high = (like.new_zeros(()) + bound for bound in bounds)
    return pyro.sample(name, dist.Uniform(low, high))


def from_unconstrained(bounds: Bounds) -> Any:
    """The bijection from the real line to the interval between two bounds."""
    return bijection_to(constraints.interval(*bounds))
