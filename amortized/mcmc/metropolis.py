r"""Metropolis-Hastings kernels: a proposal, accepted with the probability that keeps the target.

.. math:: \min\left(1, \frac{\pi(u') \, q(u \mid u')}{\pi(u) \, q(u' \mid u)}\right)

References:
    Hastings, Monte Carlo sampling methods using Markov chains and their applications (1970).
    Roberts and Tweedie, Exponential convergence of Langevin distributions (1996).
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.mcmc.kernel import Kernel, positive, private_seed
from amortized.seeding import seeded

__all__ = ["Independence", "Langevin", "RandomWalk"]


def choose(
    log_ratio: Float[Tensor, "*batch"],
    proposal: Float[Tensor, "*batch dim"],
    state: Float[Tensor, "*batch dim"],
    generator: torch.Generator,
) -> Float[Tensor, "*batch dim"]:
    """The proposal with probability ``min(1, exp(log_ratio))``, otherwise the state."""
    uniform = torch.rand(log_ratio.shape, generator=generator, dtype=log_ratio.dtype)
    return torch.where((uniform.log() < log_ratio).unsqueeze(-1), proposal, state)


def change(after: Float[Tensor, "*batch"], before: Float[Tensor, "*batch"]) -> Tensor:
    """Difference of log densities; a point of zero density accepts any of positive density."""
    return torch.where(before == -torch.inf, torch.inf, after - before).masked_fill(
        after == -torch.inf, -torch.inf
    )


def noise(state: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normals of the shape and dtype of the state."""
    return torch.randn(state.shape, generator=generator, dtype=state.dtype)


class RandomWalk(Kernel):
    """Random-walk Metropolis with a normal proposal.

    Args:
        target: the density.
        scale: standard deviation of the proposal, a number or one for each coordinate ``(dim,)``.

    Example:
        >>> import torch
        >>> from amortized.mcmc import Target, run_chains
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 1)
        >>> draws = run_chains(RandomWalk(normal, 2.4), torch.zeros(1000, 1), 20, n_warmup=20)
        >>> round(draws.std().item(), 1)
        1.0
    """

    def __init__(self, target: Any, scale: float | Tensor = 1.0) -> None:
        self.target, self.scale = target, positive("scale", scale, target.dim)

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        proposal = state + self.scale * noise(state, generator)
        before, after = map(self.target.log_density, (state, proposal))
        return choose(change(after, before), proposal, state, generator)


class Langevin(Kernel):
    r"""The Metropolis-adjusted Langevin algorithm.

    .. math:: u' = u + \tfrac12 s^2 \nabla \log \pi(u) + s \, \epsilon

    Args:
        target: a differentiable density.
        scale: s, a number or one for each coordinate.
    """

    def __init__(self, target: Any, scale: float | Tensor = 1.0) -> None:
        self.target, self.scale = target, positive("scale", scale, target.dim)

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        before, gradient = self.target.value_and_gradient(state)
        forth = noise(state, generator)
        proposal = state + self.scale * (forth + 0.5 * self.scale * gradient)
        after, gradient = self.target.value_and_gradient(proposal)
        back = (state - proposal) / self.scale - 0.5 * self.scale * gradient
        correction = 0.5 * (forth.square() - back.square()).sum(-1)
        return choose(change(after, before) + correction, proposal, state, generator)


class Independence(Kernel):
    """Metropolis-Hastings with proposals that do not depend on the state.

    Args:
        target: the density.
        proposal: distribution of points, of event shape ``(dim,)``; its tails must not be lighter
            than the target's.
    """

    def __init__(self, target: Any, proposal: Distribution) -> None:
        if proposal.event_shape != (target.dim,) or proposal.batch_shape:
            raise ValueError(
                f"Expected a proposal of event shape ({target.dim},) and no batch; got event shape "
                f"{tuple(proposal.event_shape)} and batch shape {tuple(proposal.batch_shape)}. Use "
                "torch.distributions.Independent."
            )
        self.target, self.proposal = target, proposal

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        with seeded(private_seed(generator)):
            proposal = self.proposal.sample(state.shape[:-1]).to(state)
        before, after = map(self._log_weight, (state, proposal))
        return choose(change(after, before), proposal, state, generator)

    def _log_weight(self, u: Tensor) -> Tensor:
        return self.target.log_density(u) - self.proposal.log_prob(u)
