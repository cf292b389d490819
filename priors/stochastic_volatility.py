r"""Stochastic volatility: the log variance of a return follows an AR(1) process.

    x_0 ~ N(mu, sigma^2 / (1 - rho^2)),    x_t ~ N(mu + rho (x_{t-1} - mu), sigma^2)
    y_t ~ N(0, exp(x_t))

References:
    Modeling stochastic volatility: a review and comparative study (Taylor, 1994).
    Filtering via simulation: auxiliary particle filters (Pitt and Shephard, 1999), for the guide.
"""

import math
from dataclasses import dataclass

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
        return self._mean(state).addcmul_(_lift(self.sigma), white)

    def sample_observation(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        return (0.5 * state).exp() * self._white(state.shape[:2], generator)

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        # In place, for these five passes over the particles are what a filter's step costs.
        scaled = state.neg().exp_().mul_(y**2).add_(state).mul_(-0.5)
        return scaled.sub_(0.5 * math.log(2 * math.pi))[..., 0]

    def _mean(self, state: Tensor) -> Tensor:
        """``E(x_t | x_{t-1})``."""
        return torch.addcmul(_lift(self.mu * (1 - self.rho)), _lift(self.rho), state)

    def _white(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        dtype, device = self.mu.dtype, self.mu.device
        return torch.randn(*shape, 1, generator=generator, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class StochasticVolatilityGuide:
    r"""A proposal for guided filters: the transition times the likelihood made log-linear.

    At the transition's mean ``m`` the log likelihood has slope ``g = (y^2 exp(-m) - 1) / 2``; a
    normal of variance ``s^2`` times ``exp(g x)`` is the normal with mean ``m + s^2 g``.

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
        slope = 0.5 * (y**2 * (-mean).exp() - 1)
        # A huge return at a small variance would throw the proposal far beyond the posterior.
        shift = torch.where(y.isnan(), 0.0, scale * slope).clamp(-1, 1)
        white = self.model._white(mean.shape[:2], generator)
        log_ratio = -0.5 * (white + shift) ** 2 + 0.5 * white**2
        return mean + scale * (white + shift), log_ratio[..., 0]


def _lift(parameter: Tensor) -> Tensor:
    """A parameter ready to meet states ``(batch, particles, 1)``."""
    return parameter[..., None, None]
