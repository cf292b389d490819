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

from amortized.priors.state_space.state_space_model import StateSpaceModel


@dataclass(frozen=True, eq=False)
class StochasticVolatility(StateSpaceModel):
    """Univariate stochastic volatility, in the dtype of the parameters.

    Attributes:
        mu: mean of the log variance, ``()`` or ``(batch,)``.
        rho: autocorrelation in (-1, 1), ``()`` or ``(batch,)``.
        sigma: positive standard deviation of the innovations, ``()`` or ``(batch,)``.

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
        # In place, because these passes over the particles dominate the cost of a filter step.
        quadratic = state.neg().exp_().mul_(-0.5 * y**2)
        return quadratic.add_(state, alpha=-0.5).sub_(0.5 * math.log(2 * math.pi))[..., 0]

    def _mean(self, state: Tensor) -> Tensor:
        """``E(x_t | x_{t-1})``."""
        offset, slope, _ = self._step
        return torch.addcmul(offset, slope, state)

    @cached_property
    def _step(self) -> tuple[Tensor, Tensor, Tensor]:
        """Offset, slope and scale of the transition, cached because every step needs them."""
        return _lift(self.mu * (1 - self.rho)), _lift(self.rho), _lift(self.sigma)

    def _white(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        dtype, device = self.mu.dtype, self.mu.device
        return torch.randn(*shape, 1, generator=generator, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class StochasticVolatilityGuide:
    r"""A guided proposal: the transition, shifted to the mode of its product with p(y|x).

    The product of ``N(x; m, s^2)`` and the likelihood has one mode, because both are log-concave.
    The proposal keeps the scale ``s``: with the smaller scale of the mode it would have lighter
    tails than the product, and unbounded weights.

    Attributes:
        model: the model whose states are proposed.
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
        gone, shift = y.isnan(), torch.zeros_like(mean)
        for _ in range(4):  # Newton; from the second step on convergence is monotone
            pull = 0.5 * y**2 * (-mean - shift).exp()
            shift = shift + (pull - 0.5 - shift / scale**2) / (pull + 1 / scale**2)
        shift = torch.where(gone, 0.0, shift / scale)  # without y, propose from the transition
        white = self.model._white(mean.shape[:2], generator)
        log_ratio = -shift * white - 0.5 * shift**2
        return mean + scale * (shift + white), log_ratio[..., 0]


def _lift(parameter: Tensor) -> Tensor:
    """A parameter, shaped to broadcast with states ``(batch, particles, 1)``."""
    return parameter[..., None, None]
