r"""Components of a time series as linear stochastic differential equations, exact at any times.

A component is a Gaussian state whose transition over a time :math:`h` has a closed form,

.. math:: x(t + h) = A(h) x(t) + \epsilon, \quad \epsilon \sim N(0, Q(h)), \qquad f(t) = H x(t),

so that a Gaussian process of n points takes n steps of a Kalman filter instead of a matrix with
:math:`n^2` entries. A sum of processes concatenates their states; a product with a periodic process
rotates each state at the frequency of each harmonic. Hyperparameters are numbers or tensors with
a common batch shape.

References:
    Kalman filtering and smoothing solutions to temporal Gaussian process regression models
    (Hartikainen and Särkkä, 2010).
    Explicit link between periodic covariance functions and state space models (Solin and
    Särkkä, 2014).
    Forecasting, structural time series models and the Kalman filter (Harvey, 1989).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.validation import whole_number

Number = Tensor | float | Distribution
"""A hyperparameter; if it is a distribution, a `StructuralSeries` infers it."""
_ABOVE_ZERO = ("lengthscale", "period")


class Component(ABC):
    """A component of a series: a linear Gaussian state in continuous time.

    Matrices have shape ``(*batch, n, state, state)``, for hyperparameters of shape ``(*batch,)``.
    """

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]  # every component is a dataclass
            value = getattr(self, field.name)
            if field.type is int:
                count = whole_number(f"{field.name} of {type(self).__name__}", value)
                object.__setattr__(self, field.name, count)
                continue
            if isinstance(value, Tensor | Distribution | Component) or field.type is str:
                continue
            least = "> 0" if field.name in _ABOVE_ZERO else ">= 0"
            number = isinstance(value, int | float) and math.isfinite(value)
            if not number or value < 0 or (value == 0 and field.name in _ABOVE_ZERO):
                raise ValueError(
                    f"Expected {field.name} of {type(self).__name__} to be a number {least}, a "
                    f"tensor or a distribution; got {value!r}."
                )

    @abstractmethod
    def transition(self, h: Tensor) -> Tensor:
        """``A(h)`` for gaps of shape ``(n,)``."""

    @abstractmethod
    def noise(self, h: Tensor) -> Tensor:
        """``Q(h)`` for gaps of shape ``(n,)``."""

    @abstractmethod
    def initial_cov(self, like: Tensor) -> Tensor:
        """Covariance of the state at the first time, ``(*batch, state, state)``."""

    @abstractmethod
    def observation(self, like: Tensor) -> Tensor:
        """``H``, ``(state,)``."""

    @property
    def is_noiseless(self) -> bool:
        """Whether the state evolves without noise and keeps its covariance."""
        return False

    def model(self, t: Tensor, noise: Number, mean: Number = 0.0) -> LinearGaussianModel:
        """The component observed with noise at times t, as a model for `kalman_filter`.

        Args:
            t: times in ascending order, ``(n,)``; equal times are repeated observations.
            noise: standard deviation of each observation, ``(*batch,)``.
            mean: mean of all observations, ``(*batch,)``.

        Example:
            >>> t = torch.tensor([0.0, 0.3, 2.0], dtype=torch.float64)
            >>> from amortized.priors.state_space.trends import LocalLevel
            >>> walk = LocalLevel(drift=1.0, start=3.0).model(t, noise=0.1)
            >>> walk.transition_cov[0, :, 0, 0]
            tensor([0.0000, 0.3000, 1.7000], dtype=torch.float64)
        """
        gaps = torch.cat((torch.zeros_like(t[:1]), t.diff()))
        a, q, start = self.transition(gaps), self.noise(gaps), self.initial_cov(t)
        noise, mean = variance(noise, t).unsqueeze(-1), torch.as_tensor(mean, dtype=t.dtype)
        return LinearGaussianModel(
            transition=a if a.ndim == 4 else a[None],
            transition_cov=q if q.ndim == 4 else q[None],
            observation=self.observation(t)[None],
            observation_cov=noise,
            initial_mean=torch.zeros_like(start[..., 0]),
            initial_cov=start,
            observation_offset=mean.unsqueeze(-1).to(t),
        )

    def __add__(self, other: "Component") -> "Component":
        return Sum((self, other))

    def __mul__(self, other: "Component") -> "Component":
        return Product(self, other)


@dataclass(frozen=True, eq=False)
class Sum(Component):
    """The sum of independent components."""

    parts: Sequence[Component]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("Expected at least one part; got none.")

    def transition(self, h: Tensor) -> Tensor:
        return block_diagonal([part.transition(h) for part in self.parts])

    def noise(self, h: Tensor) -> Tensor:
        return block_diagonal([part.noise(h) for part in self.parts])

    def initial_cov(self, like: Tensor) -> Tensor:
        return block_diagonal([part.initial_cov(like) for part in self.parts])

    def observation(self, like: Tensor) -> Tensor:
        return torch.cat([part.observation(like) for part in self.parts])


@dataclass(frozen=True, eq=False)
class Product(Component):
    r"""The process whose covariance is a product of two, one of which is free of process noise.

    With a periodic factor, :math:`A = A_1 \otimes A_2` and :math:`Q = Q_1 \otimes P_2`, it is a
    pattern that changes slowly.

    Attributes:
        changing: any component.
        repeating: a `Periodic`, or a `Seasonal` without drift.
    """

    changing: Component
    repeating: Component

    def __post_init__(self) -> None:
        if not self.repeating.is_noiseless:
            raise ValueError(
                "Expected the second factor to be a Periodic, or a Seasonal without drift; got "
                f"{type(self.repeating).__name__}. Write the factors in the other order."
            )

    def transition(self, h: Tensor) -> Tensor:
        return _kronecker(self.changing.transition(h), self.repeating.transition(h))

    def noise(self, h: Tensor) -> Tensor:
        rest = self.repeating.initial_cov(h).unsqueeze(-3)
        return _kronecker(self.changing.noise(h), rest)

    def initial_cov(self, like: Tensor) -> Tensor:
        return _kronecker(self.changing.initial_cov(like), self.repeating.initial_cov(like))

    def observation(self, like: Tensor) -> Tensor:
        return torch.kron(self.changing.observation(like), self.repeating.observation(like))


def as_number(value: Number, like: Tensor) -> Tensor:
    """A hyperparameter as a tensor."""
    if isinstance(value, Distribution):
        raise ValueError(
            f"Expected a number or a tensor as hyperparameter; got the distribution {value}. Give "
            "the part to a StructuralSeries, which replaces it by draws."
        )
    return torch.as_tensor(value, dtype=like.dtype, device=like.device)


def variance(value: Number, like: Tensor) -> Tensor:
    """The square of a standard deviation, ``(*batch, 1)``."""
    return as_number(value, like).square().unsqueeze(-1)


def unit_vector(like: Tensor, n: int) -> Tensor:
    """The first unit vector."""
    return torch.eye(n, dtype=like.dtype, device=like.device)[0]


def matrices(rows: Sequence[Sequence[Tensor]]) -> Tensor:
    """Combines entries ``(*batch, n)`` to matrices ``(*batch, n, rows, columns)``."""
    return torch.stack([torch.stack(list(row), -1) for row in rows], -2)


def block_diagonal(blocks: Sequence[Tensor]) -> Tensor:
    """A block-diagonal matrix of blocks ``(*batch, k, k)``, whose batches broadcast."""
    batch = torch.broadcast_shapes(*(block.shape[:-2] for block in blocks))
    size = sum(block.shape[-1] for block in blocks)
    columns, start = [], 0
    for block in blocks:
        k = block.shape[-1]
        rest = size - start - k
        padded = torch.nn.functional.pad(block.expand(*batch, k, k), (0, 0, start, rest))
        columns.append(padded)
        start += k
    return torch.cat(columns, -1)


def _kronecker(a: Tensor, b: Tensor) -> Tensor:
    """Kronecker product of the last two dimensions."""
    product = torch.einsum("...ij,...kl->...ikjl", a, b)
    return product.flatten(-2).flatten(-3, -2)
