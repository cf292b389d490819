r"""Particle filters, bootstrap and guided, for many series and many particles at once.

The N particles of a series are moved by a proposal q, weighted by

    w_t = w_{t-1} p(y_t | x_t) p(x_t | x_{t-1}) / q(x_t | x_{t-1}, y_t),

and resampled before the next move if the effective sample size 1 / sum(w^2) has fallen too low.
With q the program's own transition this is the bootstrap filter. The product over t of the mean
weights is an unbiased estimate of the evidence, on which particle marginal inference builds.

One tensor operation serves all series, and only those that need it are resampled. Weights are kept
as logarithms relative to the largest of each series, so they neither overflow nor underflow.

Not implemented: gradients (resampling has none) and smoothing.

References:
    Novel approach to nonlinear/non-Gaussian Bayesian state estimation (Gordon et al., 1993).
    Following a moving target (Gilks and Berzuini, 2001) and
    On sequential Monte Carlo sampling methods for Bayesian filtering (Doucet et al., 2000).
    An introduction to sequential Monte Carlo (Chopin and Papaspiliopoulos, 2020), chapter 10.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from amortized.sampling.steps.resampling import systematic_resample
from amortized.validation import generator_from, number_between, whole_number

__all__ = ["ParticleFilterResult", "particle_filter"]


@runtime_checkable
class Program(Protocol):
    """The methods that a particle filter needs of a program, such as a `StateSpaceModel`."""

    def sample_initial(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Draw ``x_0``, ``(batch, particles, state)``."""

    def sample_transition(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        """Draw ``x_t`` given ``x_{t-1} = state``."""

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        """``log p(y_t | x_t)``, ``(batch, particles)``; ``y`` is ``(batch, 1, observed)``.

        The value is ignored for a series whose ``y`` is entirely NaN.
        """


@runtime_checkable
class Proposal(Protocol):
    """A guide: a proposal distribution for states that may depend on the observation ``y``.

    Each method returns states and the log ratio of the program's density to the proposal's,
    ``(batch, particles)``. Where ``y`` is NaN it may propose from the program, with log ratio 0.
    """

    def initial(
        self, y: Tensor, shape: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Propose ``x_0``."""

    def step(
        self, y: Tensor, state: Tensor, t: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Propose ``x_t`` given ``x_{t-1} = state``."""


class Particles(NamedTuple):
    """The particles and weights of a filter.

    Attributes:
        state: ``(batch, particles, state)``.
        log_weights: ``(batch, particles)``; the largest of each series is 0.
        weights: exponentials of ``log_weights``; all 0 where the filter collapsed.
        total: sum of the weights, ``(batch,)``.
        ess: effective sample size, ``(batch,)``; 0 where the filter collapsed.
    """

    state: Tensor
    log_weights: Tensor
    weights: Tensor
    total: Tensor
    ess: Tensor


@dataclass(frozen=True)
class ParticleFilterResult:
    """Filtered moments and the evidence, as estimated by a particle filter.

    Attributes:
        mean: ``E(x_t | y_1..t)``, ``(batch, time, state)``; None if not requested.
        cov: ``Cov(x_t | y_1..t)``, ``(batch, time, state, state)``; None if not requested.
        log_likelihood: increments of the log evidence, ``(batch, time)``.
        log_evidence: ``(batch,)``; its exponential is unbiased; -inf where the filter collapsed.
        ess: effective sample size before resampling, ``(batch, time)``.
        collapsed_at: the first step at which the observation was impossible for every particle,
            ``(batch,)``; -1 if there is none. The moments are NaN at this step and meaningless
            afterwards, where the particles continue with equal weights.
        particles: the last particles and their weights.
    """

    mean: Float[Tensor, "batch time state"] | None
    cov: Float[Tensor, "batch time state state"] | None
    log_likelihood: Float[Tensor, "batch time"]
    log_evidence: Float[Tensor, " batch"]
    ess: Float[Tensor, "batch time"]
    collapsed_at: Int[Tensor, " batch"]
    particles: Particles


def init(
    program: Program,
    y: Float[Tensor, "batch 1 observed"],
    n_particles: int,
    generator: torch.Generator,
    *,
    missing: Bool[Tensor, " batch"] | None = None,
    proposal: Proposal | None = None,
) -> tuple[Particles, Tensor]:
    """Draws particles of ``x_0``; also returns the first log likelihood, ``(batch,)``.

    ``missing`` marks the series without an observation at this step; None if there are none.
    """
    shape = (y.shape[0], n_particles)
    if proposal is None:
        state, log_ratio = program.sample_initial(shape, generator), None
    else:
        state, log_ratio = proposal.initial(y, shape, generator)
    if state.ndim != 3 or state.shape[:2] != shape:
        raise ValueError(
            f"Expected initial states of shape {(*shape, 'state')}; got {tuple(state.shape)}. "
            "Parameters with one value per series need shape (batch, 1, 1)."
        )
    equal = torch.ones(shape, dtype=state.dtype, device=state.device)
    before = Particles(state, torch.zeros_like(equal), equal, equal.sum(-1), equal.sum(-1))
    log_density = _log_density(program, state, log_ratio, y, 0, missing)
    return _reweigh(before, state, log_density)


def step(
    program: Program,
    particles: Particles,
    y: Float[Tensor, "batch 1 observed"],
    t: int,
    generator: torch.Generator,
    *,
    missing: Bool[Tensor, " batch"] | None = None,
    proposal: Proposal | None = None,
    ess_threshold: float = 0.5,
) -> tuple[Particles, Tensor]:
    """Resamples the series that need it, moves all to step ``t``, and weights them by ``y``.

    Returns the particles and the increment of the log evidence, ``(batch,)``: -inf where the
    observation is impossible for every particle, NaN where the program returned NaN or +inf.
    """
    particles = _resample(particles, ess_threshold, generator)
    if proposal is None:
        state, log_ratio = program.sample_transition(particles.state, t, generator), None
    else:
        state, log_ratio = proposal.step(y, particles.state, t, generator)
    log_density = _log_density(program, state, log_ratio, y, t, missing)
    return _reweigh(particles, state, log_density)


@torch.no_grad()
def particle_filter(
    program: Program,
    y: Float[Tensor, "batch time observed"],
    n_particles: int = 1000,
    *,
    proposal: Proposal | None = None,
    ess_threshold: float = 0.5,
    moments: bool = True,
    seed: int = 0,
) -> ParticleFilterResult:
    """Filters all series in one call.

    Args:
        program: draws states and evaluates the density of observations; it sets the dtype.
            float32 is faster than float64 and precise enough, because Monte Carlo error dominates.
            To filter one series under many parameters, expand ``y``.
        y: observations. A step whose entries are all NaN is missing; if only some entries are NaN,
            the program must handle them.
        n_particles: particles per series, at least 1.
        proposal: the proposal of a guided filter; None gives the bootstrap filter.
        ess_threshold: resample if the effective sample size is below this share of the particles;
            1 resamples at every step, 0 never.
        moments: whether to compute mean and covariance, which takes additional time.
        seed: any integer.

    Raises:
        ValueError: if an argument is out of range, or the program returns wrong shapes or NaN.

    Example:
        >>> from amortized.priors.state_space.stochastic_volatility import StochasticVolatility
        >>> model = StochasticVolatility(*torch.tensor([-1.0, 0.95, 0.2]))
        >>> returns = model.simulate(n_series=5, n_steps=50, seed=0)[1]
        >>> particle_filter(model, returns, n_particles=500).log_evidence.shape
        torch.Size([5])
    """
    _check(y, n_particles, ess_threshold)
    n_particles = int(n_particles)
    generator = generator_from(seed, y.device)
    particles: Particles
    course, log_likelihoods, ess = [], [], []
    for t, (now, missing) in enumerate(by_step(y)):
        if t == 0:
            particles, log_likelihood = init(
                program, now, n_particles, generator, missing=missing, proposal=proposal
            )
        else:
            particles, log_likelihood = step(
                program,
                particles,
                now,
                t,
                generator,
                missing=missing,
                proposal=proposal,
                ess_threshold=ess_threshold,
            )
        if moments:
            course.append(_moments(particles))
        log_likelihoods.append(log_likelihood)
        ess.append(particles.ess)
    mean, cov = (
        (torch.stack(part, 1) for part in zip(*course, strict=True)) if moments else 2 * [None]
    )
    increments = torch.stack(log_likelihoods, 1)
    refuse_nan(increments)
    dead = increments == -torch.inf
    collapsed_at = torch.where(dead.any(-1), dead.int().argmax(-1), -1)
    log_evidence = increments.sum(-1, dtype=torch.float64)
    return ParticleFilterResult(
        mean, cov, increments, log_evidence, torch.stack(ess, 1), collapsed_at, particles
    )


def by_step(y: Float[Tensor, "batch time observed"]) -> list[tuple[Tensor, Tensor | None]]:
    """The observation of each step, ``(batch, 1, observed)``, and where it is missing."""
    gone = y.isnan().all(-1)
    any_gone = gone.any(0).tolist()  # one synchronisation instead of one per step
    return [(y[:, t : t + 1], gone[:, t] if some else None) for t, some in enumerate(any_gone)]


def refuse_nan(log_likelihood: Tensor) -> None:
    """Raises an error if a log density ``(batch, time)`` was NaN or +inf."""
    broken = log_likelihood.isnan().any(0)
    if broken.any():
        raise ValueError(
            "Expected log_observation, and a proposal's log ratio, to be finite or -inf; got NaN "
            f"or +inf at step {int(broken.int().argmax())}. Give impossible states -inf."
        )


def _resample(particles: Particles, ess_threshold: float, generator: torch.Generator) -> Particles:
    """Resamples the series with a low effective sample size, to equal weights."""
    state, log_weights, weights, total, ess = particles
    n = weights.shape[-1]
    rows = (ess <= ess_threshold * n).nonzero()[:, 0]  # includes collapsed series, whose ess is 0
    if len(rows) == 0:
        return particles
    uniforms = 1 - torch.rand(
        len(rows), 1, dtype=torch.float64, generator=generator, device=state.device
    )
    chosen = weights[rows].masked_fill((total[rows] == 0)[:, None], 1.0)
    ancestors = systematic_resample(chosen, uniforms) + n * rows[:, None]
    moved = state.flatten(0, 1)[ancestors.flatten()].unflatten(0, ancestors.shape)
    return Particles(
        state.index_copy(0, rows, moved),
        log_weights.index_fill(0, rows, 0.0),
        weights.index_fill(0, rows, 1.0),
        total.index_fill(0, rows, float(n)),
        ess.index_fill(0, rows, float(n)),
    )


def _log_density(
    program: Program,
    state: Tensor,
    log_ratio: Tensor | None,
    y: Tensor,
    t: int,
    missing: Tensor | None,
) -> Tensor:
    """Log of the factor on each particle's weight, as a new tensor."""
    log_density = program.log_observation(y, state, t)
    if log_density.shape != state.shape[:2]:
        raise ValueError(
            f"Expected log_observation of shape {tuple(state.shape[:2])}, one number per particle; "
            f"got {tuple(log_density.shape)}."
        )
    if missing is not None:
        log_density = log_density.masked_fill(missing[:, None], 0.0)
    return log_density if log_ratio is None else log_density + log_ratio


def _reweigh(before: Particles, state: Tensor, log_density: Tensor) -> tuple[Particles, Tensor]:
    """The moved particles with updated weights, and the log likelihood of the observation."""
    log_weights = log_density + before.log_weights
    top = log_weights.amax(-1, keepdim=True)
    # Where all are -inf they remain -inf, total and ess are 0, and resampling restarts.
    log_weights.sub_(top.clamp_min(torch.finfo(top.dtype).min))
    weights = log_weights.exp()
    total = weights.sum(-1)
    log_likelihood = top[:, 0] + (total.clamp_min(1) / before.total).log_()
    squares = torch.linalg.vecdot(weights, weights).clamp_min_(1)  # the largest weight is 1
    return Particles(state, log_weights, weights, total, total**2 / squares), log_likelihood


def _moments(particles: Particles) -> tuple[Tensor, Tensor]:
    """Weighted mean ``(batch, state)`` and covariance of the particles."""
    share = (particles.weights / particles.total[:, None]).unsqueeze(-1)
    mean = (share * particles.state).sum(1, keepdim=True)
    off = particles.state - mean
    return mean[:, 0], (share * off).mT @ off


def _check(y: Tensor, n_particles: int, ess_threshold: float) -> None:
    """Raises an error if an argument is out of range."""
    if y.ndim != 3 or y.shape[1] < 1:
        raise ValueError(
            "Expected y of shape (batch, time, observed) with at least one step; got "
            f"{tuple(y.shape)}. One series y of shape (time,) is y[None, :, None]."
        )
    whole_number("n_particles", n_particles, 1)
    number_between("ess_threshold", ess_threshold, 0, 1, least=True, most=True)
