"""Levels and slopes that wander: random walks, in continuous time."""

from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.priors.state_space.components import (
    Component,
    Number,
    matrices,
    unit_vector,
    variance,
)


@dataclass(frozen=True, eq=False)
class LocalLevel(Component):
    """A random walk: ``drift`` is its standard deviation after one unit of time.

    Attributes:
        drift: 0 is a constant.
        start: standard deviation at the first time.
    """

    drift: Number
    start: Number

    def transition(self, h: Tensor) -> Tensor:
        return torch.ones_like(h)[:, None, None]

    def noise(self, h: Tensor) -> Tensor:
        return (variance(self.drift, h) * h)[..., None, None]

    def initial_cov(self, like: Tensor) -> Tensor:
        return variance(self.start, like)[..., None]

    def observation(self, like: Tensor) -> Tensor:
        return unit_vector(like, 1)


@dataclass(frozen=True, eq=False)
class LocalTrend(Component):
    """A slope that is a random walk, and the line along it.

    Attributes:
        bend: standard deviation of the slope's change after one unit of time; 0 is a straight line.
        slope: standard deviation of the slope at the first time, where the line itself is 0.
    """

    bend: Number
    slope: Number

    def transition(self, h: Tensor) -> Tensor:
        one, zero = torch.ones_like(h), torch.zeros_like(h)
        return matrices([[one, h], [zero, one]])

    def noise(self, h: Tensor) -> Tensor:
        bend = variance(self.bend, h).unsqueeze(-1).unsqueeze(-1)
        return bend * matrices([[h**3 / 3, h**2 / 2], [h**2 / 2, h]])

    def initial_cov(self, like: Tensor) -> Tensor:
        return variance(self.slope, like)[..., None] * torch.diag(like.new_tensor([0.0, 1.0]))

    def observation(self, like: Tensor) -> Tensor:
        return unit_vector(like, 2)
