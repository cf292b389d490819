r"""Particle Gibbs: a Markov kernel on whole sequences, by conditional sequential Monte Carlo.

One particle of a run is held to the current sequence; the others are drawn, weighted and resampled
as usual, and the next sequence is chosen among all by weight. This leaves

.. math:: \gamma_T(x_{1:T}) / Z = \prod_t p(x_t \mid x_{<t}) \, G_t(x_{1:t}) / Z

invariant for any number of particles from 2 on.

References:
    Andrieu, Doucet and Holenstein, Particle Markov chain Monte Carlo methods (2010), section 2.4.
"""

from typing import Any

import torch
from torch import Tensor

from amortized.generators.ancestry import Ancestry
from amortized.generators.generator import Generator, Potential, checked, put, take
from amortized.mcmc.kernel import Kernel
from amortized.validation import whole_number

__all__ = ["ParticleGibbs"]


class ParticleGibbs(Kernel):
    """Moves sequences so that the generator under a potential stays invariant.

    A state of the kernel is a sequence ``(steps,)``, or ``(steps * size,)`` where a value has
    several numbers, one row for each chain. All chains move at once.

    Args:
        generator: it must have a method ``force``.
        potential: as for `sample_sequences`.
        n_particles: at least 2. With few of them the first steps rarely change.
        target: what the kernel is declared to keep, for `amortized.mcmc.validate`; None where it
            is not needed.

    Raises:
        ValueError: if there are fewer than 2 particles.

    Example:
        >>> class Walk(Generator):
        ...     n_steps = 3
        ...     def start(self, n, generator):
        ...         return torch.zeros(n)
        ...     def extend(self, state, t, generator):
        ...         return torch.normal(state, 1.0, generator=generator)
        >>> kernel = ParticleGibbs(Walk(), lambda state, t: -0.5 * (state - t).square())
        >>> kernel.step(torch.zeros(10, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([10, 3])
    """

    def __init__(
        self, generator: Generator, potential: Potential, n_particles: int = 20, target: Any = None
    ) -> None:
        self.generator, self.potential = generator, potential
        self.n_particles, self.target = whole_number("n_particles", n_particles, 2), target

    def on(self, target: Any) -> Kernel:
        """Refused: the generator and its potential are the target, and another one has its own."""
        raise TypeError(
            "Expected a kernel that evaluates its target; got ParticleGibbs, which keeps that of "
            "its generator and potential. Make one with the tempered potential."
        )

    @torch.no_grad()
    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        chains, n, steps = len(state), self.n_particles, self.generator.n_steps
        reference = state.reshape(chains, steps, -1)
        first = n * torch.arange(chains)  # the particle of each chain that is held
        tree, parents, held = Ancestry(), None, None
        log_weights = torch.zeros(chains, n, dtype=torch.float64)
        for t in range(steps):
            if t == 0:
                particles = self.generator.start(chains * n, generator)
            else:
                # Multinomial, so that the other parents are drawn independently of the held one.
                chosen = _drawn(log_weights, n, generator)
                chosen[:, 0] = 0
                parents = (chosen + first[:, None]).flatten()
                particles = self.generator.extend(take(particles, parents), t, generator)
            like = self.generator.value(particles, t)
            value = reference[:, t].reshape(chains, *like.shape[1:]).to(like)
            held = self.generator.force(held, t, value)
            particles = put(particles, first, held)
            tree.append(self.generator.value(particles, t), parents)
            log_weights = checked(self.potential(particles, t), chains * n).view(chains, n)
            _refuse_impossible(log_weights[:, 0])
        picked = _drawn(log_weights, 1, generator)[:, 0] + first
        return tree.paths()[picked].reshape(state.shape).to(state)


def _drawn(log_weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    shares = (log_weights - log_weights.amax(-1, keepdim=True)).exp()
    return torch.multinomial(shares, n, replacement=True, generator=generator)


def _refuse_impossible(gain: Tensor) -> None:
    if not bool((gain > -torch.inf).all()):
        raise ValueError(
            "Expected chains at possible sequences; got a potential of -inf at one. Start from "
            "draws of sample_sequences."
        )
