r"""Stochastic volatility: the log variance of a return follows an AR(1) process.

    x_0 ~ N(mu, sigma^2 / (1 - rho^2)),    x_t ~ N(mu + rho (x_{t-1} - mu), sigma^2)
    y_t ~ N(0, exp(x_t))

References:
    Modeling stochastic volatility: a review and comparative study (Taylor, 1994).
    Filtering via simulation: auxiliary particle filters (Pitt and Shephard, 1999), for the guide.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space import StateSpaceModel


@dataclass(frozen=True, eq=False)
class StochasticVolatility(StateSpaceModel):
    """Univariate stochastic volatility; the series inherit the dtype of the parameters.

    Attributes:
        mu: mean of the log variance, ``()`` or ``(batch,)``.
        rho: autocorrelation in (-1, 1), ``()`` or ``(batch,)``.
        sigma: standard deviation of the innovations, above 0, ``()`` or ``(batch,)``.

    Raises:
        ValueError: if rho or sigma is out of range.

    Example:
        >>> model = StochasticVolatility(*torch.tensor([-1.0, 0.95, 0.2]))
        >>> log_variance, returns = model.simulate(n_series=3, n_steps=100, seed=0)
        >>> tuple(returns.shape)
        (3, 100, 1)
    """

    mu: Float[Tensor, "..."]
    rho: Float[Tensor, "..."]
    sigma: Float[Tensor, "..."]

    def __post_init__(self) -> None:
        if not bool((self.rho.abs() < 1).all()):
            raise ValueError(f"Expected rho between -1 and 1; got {self.rho}.")
        if not bool((self.sigma > 0).all()):
            raise ValueError(f"Expected sigma above 0; got {self.sigma}.")

    def sample_initial(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        scale = self.sigma / (1 - self.rho**2).sqrt()
        return _lift(self.mu) + _lift(scale) * self._white(shape, generator)

    def sample_transition(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        white = self._white(state.shape[:2], generator)
        return self._mean(state).addcmul_(self._step[2], white)

    def sample_observation(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        return (0.5 * state).exp() * self._white(state.shape[:2], generator)

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        # In place, for these passes over the particles are what a filter's step costs.
        quadratic = state.neg().exp_().mul_(-0.5 * y**2)
        return quadratic.add_(state, alpha=-0.5).sub_(0.5 * math.log(2 * math.pi))[..., 0]

    def _mean(self, state: Tensor) -> Tensor:
        """``E(x_t | x_{t-1})``."""
        offset, slope, _ = self._step
        return torch.addcmul(offset, slope, state)

    @cached_property
    def _step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Offset, slope and scale of the transition; a filter asks for them at every step."""
        return _lift(self.mu * (1 - self.rho)), _lift(self.rho), _lift(self.sigma)

    def _white(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        dtype, device = self.mu.dtype, self.mu.device
        return torch.randn(*shape, 1, generator=generator, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class StochasticVolatilityGuide:
    r"""A proposal for guided filters: the transition times a Gaussian look at the likelihood.

    At the transition's mean ``m`` the log likelihood has slope ``g = c - 1/2`` and curvature
    ``-c`` with ``c = y^2 exp(-m) / 2``. Times a normal of variance ``s^2`` this is the normal with
    variance ``v = s^2 / (1 + s^2 c)`` and mean ``m + v g``, less than 1 above ``m`` for any ``y``.

    Attributes:
        model: the program whose states are proposed.
    """

    model: StochasticVolatility

    def initial(
        self, y: Tensor, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``x_0`` and its log ratio of program to proposal; see `amortized.sampling`."""
        scale = self.model.sigma / (1 - self.model.rho**2).sqrt()
        mean = _lift(self.model.mu).expand(*shape, 1)
        return self._propose(mean, _lift(scale), y, generator)

    def step(
        self, y: Tensor, state: Tensor, t: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """``x_t`` given ``x_{t-1} = state``, and its log ratio of program to proposal."""
        return self._propose(self.model._mean(state), _lift(self.model.sigma), y, generator)

    def _propose(
        self, mean: Tensor, scale: Tensor, y: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        # 0 where y is missing: then the program itself proposes.
        pull = torch.where(y.isnan(), 0.0, 0.5 * y**2 * (-mean).exp())
        slope = torch.where(y.isnan(), 0.0, pull - 0.5)
        narrow = (1 + scale**2 * pull).rsqrt()  # proposal's scale over the program's
        white = self.model._white(mean.shape[:2], generator)
        off = scale * slope * narrow**2 + narrow * white  # in units of the program's scale
        log_ratio = 0.5 * (white**2 - off**2) + narrow.log()
        return mean + scale * off, log_ratio[..., 0]


def _lift(parameter: Tensor) -> Tensor:
    """A parameter ready to meet states ``(batch, particles, 1)``."""
    return parameter[..., None, None]
