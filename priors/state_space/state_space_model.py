r"""State-space models: a hidden Markov state with a noisy observation at every step.

    x_0 ~ p(x_0),    x_t ~ p(x_t | x_{t-1}),    y_t ~ p(y_t | x_t),    t = 0, ..., n_steps - 1

This module defines the interface and its linear-Gaussian case, for which the Kalman filter is
exact. A model simulates batches of series and evaluates its own observation density, so that a
particle filter uses the same distribution as the simulator. Parameters are tensors with one value
for all series or one per series.

References:
    An introduction to sequential Monte Carlo (Chopin and Papaspiliopoulos, 2020), chapter 2.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space.covariances import check_covariance, covariance_root
from amortized.validation import generator_from

_LOG_2PI = math.log(2 * math.pi)


class StateSpaceModel(ABC):
    """A state-space model for batches of series and particles.

    To write a new one, implement the four methods below. States are ``(batch, particles, state)``
    and observations ``(batch, 1 or particles, observed)``. A parameter with one value per series is
    a ``(batch,)`` tensor that a method reshapes to ``(batch, 1, 1)``. ``t`` counts from 0. Particle
    filters do not need ``sample_observation`` and accept any object with the other three methods.
    """

    @abstractmethod
    def sample_initial(
        self, shape: tuple[int, int], generator: torch.Generator
    ) -> Float[Tensor, "batch particles state"]:
        """Draws ``x_0`` for ``shape = (batch, particles)``."""

    @abstractmethod
    def sample_transition(
        self, state: Float[Tensor, "batch particles state"], t: int, generator: torch.Generator
    ) -> Float[Tensor, "batch particles state"]:
        """Draws ``x_t`` given ``x_{t-1} = state``, for ``t >= 1``."""

    @abstractmethod
    def sample_observation(
        self, state: Float[Tensor, "batch particles state"], t: int, generator: torch.Generator
    ) -> Float[Tensor, "batch particles observed"]:
        """Draws ``y_t`` given ``x_t = state``."""

    @abstractmethod
    def log_observation(
        self,
        y: Float[Tensor, "batch _ observed"],
        state: Float[Tensor, "batch particles state"],
        t: int,
    ) -> Float[Tensor, "batch particles"]:
        """``log p(y_t | x_t)``; entries of ``y`` that are NaN are marginalised."""

    def simulate(
        self, n_series: int, n_steps: int, *, seed: int, device: torch.device | str = "cpu"
    ) -> tuple[Float[Tensor, "batch time state"], Float[Tensor, "batch time observed"]]:
        """Draws states and observations; the result depends on the arguments only.

        Args:
            n_series: number of series, equal to the batch size of parameters that have one.
            n_steps: observations per series, at least 1.
            seed: any integer.
            device: device on which the series are drawn.

        Raises:
            ValueError: if a count is below 1.
        """
        for name, value in (("n_series", n_series), ("n_steps", n_steps)):
            if value < 1:
                raise ValueError(f"Expected {name} of at least 1; got {value}.")
        generator = generator_from(seed, device)
        state = self.sample_initial((n_series, 1), generator)
        states, observations = [], []
        for t in range(n_steps):
            if t > 0:
                state = self.sample_transition(state, t, generator)
            states.append(state)
            observations.append(self.sample_observation(state, t, generator))
        return torch.cat(states, 1), torch.cat(observations, 1)


@dataclass(frozen=True, eq=False)
class LinearGaussianModel(StateSpaceModel):
    r"""The linear-Gaussian state-space model.

        x_0 ~ N(m_0, P_0),    x_t ~ N(A x_{t-1} + b, Q),    y_t ~ N(H x_t + d, R)

    The first observation is of ``x_0`` itself, without a preceding transition. ``Q``, ``P_0`` and
    ``R`` may be singular. Every tensor may have a leading batch dimension, for one model per
    series. Time-varying tensors have two, ``(batch or 1, time, ...)``; entry t of ``A``, ``Q`` and
    ``b`` belongs to the transition to ``x_t``, so entry 0 is not used.

    Attributes:
        transition: ``A``, ``(state, state)``.
        transition_cov: ``Q``, ``(state, state)``, a covariance, not its factor.
        observation: ``H``, ``(observed, state)``.
        observation_cov: ``R``, ``(observed, observed)``.
        initial_mean: ``m_0``, ``(state,)``.
        initial_cov: ``P_0``, ``(state, state)``.
        transition_offset: ``b``, ``(state,)``; None is zero.
        observation_offset: ``d``, ``(observed,)``; None is zero.

    Raises:
        ValueError: if the shapes are inconsistent or a covariance is not symmetric and positive
            semi-definite.

    Example:
        >>> one = torch.ones(1, 1)
        >>> walk = LinearGaussianModel(one, 0.1 * one, one, one, torch.zeros(1), one)
        >>> states, y = walk.simulate(n_series=5, n_steps=30, seed=0)
        >>> tuple(y.shape)
        (5, 30, 1)
    """

    transition: Float[Tensor, "... state state"]
    transition_cov: Float[Tensor, "... state state"]
    observation: Float[Tensor, "... observed state"]
    observation_cov: Float[Tensor, "... observed observed"]
    initial_mean: Float[Tensor, "... state"]
    initial_cov: Float[Tensor, "... state state"]
    transition_offset: Float[Tensor, "... state"] | None = None
    observation_offset: Float[Tensor, "... observed"] | None = None

    def __post_init__(self) -> None:
        if self.observation.ndim < 2:
            raise ValueError(
                f"Expected observation (observed, state); got {tuple(self.observation.shape)}."
            )
        batches, times = set(), set()
        for name, shape in self._shapes().items():
            value = getattr(self, name)
            n_batch = 0 if value is None else value.ndim - len(shape)
            if value is None:
                continue
            most = 1 if name.startswith("initial") else 2
            if not 0 <= n_batch <= most or value.shape[n_batch:] != shape:
                raise ValueError(
                    f"Expected {name} of shape {tuple(shape)}, or with one batch dimension before "
                    f"it{', or with batch and time' if most == 2 else ''}, as observation is "
                    f"{tuple(self.observation.shape)}; got {tuple(value.shape)}."
                )
            if n_batch == 1 or value.shape[:n_batch][:1] not in ((), (1,)):
                batches.add(value.shape[0])
            times.update(value.shape[1:n_batch])
            if name.endswith("_cov"):
                check_covariance(name, value)
        if len(batches) > 1:
            raise ValueError(f"Expected one batch size in all tensors; got {sorted(batches)}.")
        if len(times) > 1:
            raise ValueError(
                f"Expected equal numbers of steps in all tensors; got {sorted(times)}."
            )

    def _shapes(self) -> dict[str, torch.Size]:
        """The shape of every tensor without its batch dimension."""
        m, k = self.observation.shape[-2:]
        matrices = {"transition": (k, k), "transition_cov": (k, k), "observation": (m, k)}
        initial = {"observation_cov": (m, m), "initial_mean": (k,), "initial_cov": (k, k)}
        offsets = {"transition_offset": (k,), "observation_offset": (m,)}
        return {n: torch.Size(s) for n, s in (matrices | initial | offsets).items()}

    @property
    def n_models(self) -> int | None:
        """Number of models in the batch; None if all series share one."""
        for name, shape in self._shapes().items():
            value = getattr(self, name)
            n_leading = 0 if value is None else value.ndim - len(shape)
            if n_leading == 1 or (n_leading == 2 and value.shape[0] > 1):
                return value.shape[0]
        return None

    @property
    def n_steps(self) -> int | None:
        """Number of steps of time-varying tensors; None if there are none."""
        for name, shape in self._shapes().items():
            value = getattr(self, name)
            if value is not None and value.ndim == len(shape) + 2:
                return value.shape[1]
        return None

    @property
    def shares_matrices(self) -> bool:
        """Whether all series have the same matrices; vectors may still differ."""
        matrices = (getattr(self, n) for n, shape in self._shapes().items() if len(shape) == 2)
        return all(m.ndim == 2 or (m.ndim == 4 and m.shape[0] == 1) for m in matrices)

    def sample_initial(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        return self.initial_mean.unsqueeze(-2) + _noise(self._roots["initial"], shape, generator)

    def sample_transition(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        offset = _at_time(self.transition_offset, t, 1)
        mean = state @ _at_time(self.transition, t, 2).mT + _row(offset)
        root = _at_time(self._roots["transition"], t, 2)
        return mean + _noise(root, state.shape[:2], generator)

    def sample_observation(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        root = _at_time(self._roots["observation"], t, 2)
        return self._observed_mean(state, t) + _noise(root, state.shape[:2], generator)

    def _observed_mean(self, state: Tensor, t: int) -> Tensor:
        offset = _at_time(self.observation_offset, t, 1)
        return state @ _at_time(self.observation, t, 2).mT + _row(offset)

    @cached_property
    def _roots(self) -> dict[str, Tensor]:
        """Square roots of the three covariances, cached because every step needs them."""
        covs = {
            name: getattr(self, f"{name}_cov") for name in ("initial", "transition", "observation")
        }
        return {name: covariance_root(cov) for name, cov in covs.items()}

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        mean = self._observed_mean(state, t)
        # A missing entry gets residual 0 and an independent unit variance, so it adds nothing.
        seen = ~y.isnan()
        residual = torch.where(seen, y - mean, 0.0)
        both = seen[..., :, None] & seen[..., None, :]
        unit = torch.eye(y.shape[-1], dtype=mean.dtype, device=mean.device)
        cov = torch.where(both, _per_series(_at_time(self.observation_cov, t, 2)), unit)
        factor, info = torch.linalg.cholesky_ex(cov)
        white = torch.linalg.solve_triangular(factor, residual[..., None], upper=False)[..., 0]
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * (white**2).sum(-1) - log_det - 0.5 * seen.to(mean).sum(-1) * _LOG_2PI
        return torch.where(info == 0, log_prob, torch.nan)  # R singular: no density


def _at_time(value: Any, t: int, n_dims: int) -> Any:
    """The value at step t of a tensor with ``n_dims`` dimensions and possibly a batch."""
    if value is None or value.ndim < n_dims + 2:
        return value
    now = value[:, t]
    return now[0] if len(now) == 1 else now


def _row(offset: Tensor | None) -> Tensor | float:
    """An offset, shaped to broadcast with ``(batch, particles, dim)``."""
    return 0.0 if offset is None else offset.unsqueeze(-2)


def _per_series(cov: Tensor) -> Tensor:
    """A covariance, shaped to broadcast with ``(batch, particles, dim, dim)``."""
    return cov if cov.ndim == 2 else cov.unsqueeze(-3)


def _noise(root: Tensor, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draws from N(0, root root'), ``(batch, particles, dim)``."""
    n, dtype, device = root.shape[-1], root.dtype, root.device
    return torch.randn(*shape, n, generator=generator, dtype=dtype, device=device) @ root.mT
