r"""Sequential Monte Carlo over the sequences of any generator.

The target after step t, with the generator's p and a potential G, is

.. math:: \gamma_t(x_{1:t}) = \prod_{s \le t} p(x_s \mid x_{<s}) \, G_s(x_{1:s}),

and the evidence is the integral of the last one, :math:`E_p[G_1 \cdots G_T]`. Sequences are
extended by the generator, weighted by the potential, and resampled where the weights are uneven.
With a lookahead :math:`\psi` the weight of step t is :math:`G_t \psi_t / \psi_{t-1}`, with
:math:`\psi_T = 1`: sequences survive that will have a high potential later. The evidence stays
unbiased for any :math:`\psi > 0`.

References:
    Doucet, de Freitas and Gordon, Sequential Monte Carlo methods in practice (2001).
    Whiteley and Lee, Twisted particle filters (2014), arXiv 1210.0220.
    Lew et al., Sequential Monte Carlo steering of large language models (2023), arXiv 2306.03081.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.generators.ancestry import Ancestry
from amortized.generators.generator import Generator, Potential, State, checked, take
from amortized.posterior import Posterior
from amortized.sampling.steps.resampling import systematic_resample
from amortized.validation import generator_from, number_between, whole_number

__all__ = ["sample_sequences"]


class Particles(NamedTuple):
    """The particles of several runs, one run after another.

    Attributes:
        state: state of each particle.
        log_weights: ``(runs, n)``; the largest of a run is not above the log of its weight sum.
        log_psi: log psi of the lookahead at the last step, ``(runs, n)``.
        log_evidence: log evidence of each run so far, up to its weights, ``(runs,)``.
        origin: first ancestor of each particle, ``(runs, n)``.
    """

    state: State
    log_weights: Tensor
    log_psi: Tensor
    log_evidence: Tensor
    origin: Tensor


@torch.no_grad()
def sample_sequences(
    generator: Generator,
    potential: Potential,
    n_particles: int = 100,
    *,
    lookahead: Potential | None = None,
    n_runs: int = 8,
    ess_threshold: float = 0.5,
    seed: int = 0,
) -> Posterior:
    r"""Draws sequences of a generator, weighted by a potential, and estimates the evidence.

    Args:
        generator: draws sequences step by step.
        potential: ``potential(state, t) -> (n,)``, the logarithm of :math:`G_t`, -inf where a
            sequence is impossible.
        n_particles: sequences of each run.
        lookahead: ``lookahead(state, t) -> (n,)``, the logarithm of a guess of the expected product
            of all later potentials, such as `learn_lookahead` finds; ignored at the last step.
        n_runs: independent runs, which are weighted by their evidences. Their spread gives the
            error of the evidence.
        ess_threshold: a run is resampled where the effective sample size of its weights is at most
            this share of its particles; 1 resamples in each step, 0 never.
        seed: equal seeds give equal draws.

    Returns:
        weighted draws ``"sequence"`` of shape ``(n_runs * n_particles, steps, ...)``, the log
        evidence with its error, and diagnostics: ``log_evidences`` of each run, whose exponentials
        are unbiased, ``ess`` of each run after each step, ``n_resampled``, ``n_origins``, the
        number of distinct first steps of each run's last sequences.

    Raises:
        ValueError: if an argument is out of range, a potential is NaN or of a wrong shape, or all
            sequences of all runs are impossible.

    Example:
        >>> class Bits(Generator):  # fair coins, of which at least one must be 1
        ...     n_steps = 2
        ...     def start(self, n, generator):
        ...         return torch.randint(2, (n, 1), generator=generator)
        ...     def extend(self, state, t, generator):
        ...         return torch.cat([state, self.start(len(state), generator)], 1)
        ...     def value(self, state, t):
        ...         return state[:, -1]
        >>> def some(state, t):
        ...     return torch.where((t < 1) | state.any(1), 0.0, -torch.inf)
        >>> found = sample_sequences(Bits(), some, 1000)
        >>> round(found.log_evidence.exp().item(), 1)  # 3/4
        0.8
    """
    n_particles = whole_number("n_particles", n_particles, 1)
    n_runs = whole_number("n_runs", n_runs, 1)
    ess_threshold = number_between("ess_threshold", ess_threshold, 0, 1, least=True, most=True)
    source = generator_from(seed)
    shape = (n_runs, n_particles)
    particles = _first(generator.start(n_runs * n_particles, source), shape)
    tree, parents, ess, resampled = Ancestry(), None, [], torch.zeros(n_runs)
    for t in range(generator.n_steps):
        if t > 0:
            chosen = choose(particles, ess_threshold, source)
            resampled += (chosen != torch.arange(chosen.numel()).view(shape)).any(-1)
            particles, parents = (
                chosen_particles(particles, chosen, ess_threshold),
                chosen.flatten(),
            )
            particles = particles._replace(state=generator.extend(particles.state, t, source))
        tree.append(generator.value(particles.state, t), parents)
        last = t == generator.n_steps - 1
        particles = weighted(particles, potential, None if last else lookahead, t)
        ess.append(effective(particles.log_weights))
    return _posterior(generator, particles, tree, torch.stack(ess, 1), resampled)


def _first(state: State, shape: tuple[int, int]) -> Particles:
    zeros = torch.zeros(shape, dtype=torch.float64)
    return Particles(
        state, zeros, zeros, zeros[:, 0] - math.log(shape[1]), torch.arange(shape[1]).expand(shape)
    )


def weighted(
    particles: Particles, potential: Potential, lookahead: Potential | None, t: int
) -> Particles:
    """The particles with the weights of step t."""
    shape = particles.log_weights.shape
    gain = checked(potential(particles.state, t), shape.numel()).view(shape)
    log_psi = torch.zeros_like(gain)
    if lookahead is not None:
        log_psi = checked(lookahead(particles.state, t), shape.numel(), "lookahead").view(shape)
        if not bool((log_psi > -torch.inf).all()):
            raise ValueError("Expected a lookahead that is positive everywhere; got a log of -inf.")
    log_weights = particles.log_weights + gain + log_psi - particles.log_psi
    return particles._replace(log_weights=log_weights, log_psi=log_psi)


def effective(log_weights: Float[Tensor, "runs n"]) -> Float[Tensor, " runs"]:
    """Effective sample size; 0 where all weights are 0."""
    log_ess = 2 * log_weights.logsumexp(-1) - (2 * log_weights).logsumexp(-1)
    return log_ess.exp().nan_to_num(0.0)


def choose(particles: Particles, ess_threshold: float, source: torch.Generator) -> Tensor:
    """Flat indices of the parents of the next step, ``(runs, n)``."""
    runs, n = particles.log_weights.shape
    uniforms = 1 - torch.rand(runs, 1, generator=source, dtype=torch.float64)
    shares = particles.log_weights.softmax(-1).nan_to_num(1.0)
    ancestors = systematic_resample(shares, uniforms)
    uneven = effective(particles.log_weights) <= ess_threshold * n
    ancestors = torch.where(uneven[:, None], ancestors, torch.arange(n))
    return ancestors + n * torch.arange(runs)[:, None]


def chosen_particles(particles: Particles, chosen: Tensor, ess_threshold: float) -> Particles:
    """The chosen particles; runs that were resampled have equal weights."""
    n = particles.log_weights.shape[-1]
    uneven = effective(particles.log_weights) <= ess_threshold * n
    log_sum = particles.log_weights.logsumexp(-1)
    return Particles(
        take(particles.state, chosen.flatten()),
        torch.where(uneven[:, None], 0.0, particles.log_weights),
        particles.log_psi.flatten()[chosen],
        particles.log_evidence + torch.where(uneven, log_sum - math.log(n), 0.0),
        particles.origin.flatten()[chosen],
    )


def _posterior(
    generator: Generator, particles: Particles, tree: Ancestry, ess: Tensor, resampled: Tensor
) -> Posterior:
    runs, n = particles.log_weights.shape
    evidences = particles.log_evidence + particles.log_weights.logsumexp(-1)
    log_evidence = evidences.logsumexp(-1) - math.log(runs)
    if log_evidence == -torch.inf:
        raise ValueError(
            f"Expected some possible sequences; got none among {runs} runs of {n}. Give more "
            "particles, a lookahead, or a potential that is positive earlier."
        )
    error = None
    if runs > 1:
        error = (evidences - log_evidence).exp().std() / math.sqrt(runs)
    log_weights = particles.log_evidence[:, None] + particles.log_weights
    origins = torch.tensor([len(each.unique()) for each in particles.origin])
    return Posterior(
        generator.named(particles.state) or {"sequence": tree.paths()},
        log_weights=log_weights.flatten(),
        cluster=(particles.origin + n * torch.arange(runs)[:, None]).flatten(),
        log_evidence=log_evidence,
        log_evidence_error=error,
        diagnostics={
            "method": "smc",
            "log_evidences": evidences,
            "ess": ess,
            "n_resampled": resampled.long(),
            "n_origins": origins,
        },
    )
