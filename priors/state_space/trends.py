"""Trends: levels and slopes that are random walks in continuous time."""

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
    """A level that is a random walk.

    Attributes:
        drift: standard deviation of the change per unit of time; 0 for a constant.
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
    """A level whose slope is a random walk.

    Attributes:
        bend: standard deviation of the slope's change per unit of time; 0 for a straight line.
        slope: standard deviation of the slope at the first time, where the level is 0.
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
