r"""SMC^2: the posterior of a state-space program's static parameters, with its evidence.

M parameter vectors, each with its own particle filter, process the observations one after another.
After ``y_t`` each is weighted by its filter's estimate of ``p(y_t | y_1..t-1, theta)``. If their
effective sample size has fallen too low, they are resampled and moved by particle marginal
Metropolis-Hastings: propose theta', run a new filter over ``y_1..t``, accept with probability

    min(1, Z(theta') p(theta') / (Z(theta) p(theta))),    Z the filter's estimate of the evidence.

Because Z is unbiased, the moves leave the exact posterior invariant for any number of particles;
too few particles lower the acceptance rate but introduce no bias. The proposal is a random walk
with the covariance of the current parameter vectors, so that nothing has to be tuned. All series,
parameter vectors and particles run in the same tensor operations.

The parameters move in unconstrained space, with the Jacobian taken into account. Not implemented:
increasing the number of particles if acceptance falls (``acceptance`` shows when this is needed).

References:
    SMC^2: an efficient algorithm for sequential analysis of state space models (Chopin, Jacob and
    Papaspiliopoulos, 2013).
    Particle Markov chain Monte Carlo methods (Andrieu, Doucet and Holenstein, 2010).
    On the efficiency of pseudo-marginal random walk Metropolis algorithms (Sherlock et al., 2015).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Distribution

from amortized.sampling.filters.parameter_space import ParameterSpace, is_inside
from amortized.sampling.filters.particle_filter import Particles, Program, init, refuse_nan, step
from amortized.sampling.steps.resampling import systematic_resample
from amortized.seeding import seeded
from amortized.validation import generator_from, number_between, whole_number

__all__ = ["StaticParameters", "smc_squared"]

Build = Callable[[dict[str, Tensor]], Program]

_CHUNK = 2**19  # particles at once; more take memory and are no faster


@dataclass(frozen=True)
class StaticParameters:
    """Equally weighted posterior draws of static parameters, with evidence and diagnostics.

    Attributes:
        draws: ``{name: (n_draws, batch, ...)}``.
        log_evidence: ``log p(y_1..T)`` with states and parameters integrated out, ``(batch,)``;
            -inf where the particles collapsed.
        ess: effective sample size after each step, before resampling, ``(batch, time)``.
        n_rejuvenations: how often the draws were resampled and moved, ``(batch,)``.
        acceptance: mean acceptance probability of the moves, ``(batch,)``. Below about 0.1 use more
        particles: rejections are then caused by the noise of the filters, not by the proposal.
        n_distinct: number of distinct final draws, ``(batch,)``.
        collapsed_at: the first step at which the observation was impossible for all particles of
            all draws, ``(batch,)``; -1 if there is none.
        started_from: origin of the first draws, ``"latent_prior"`` or ``"start"``.
    """

    draws: dict[str, Tensor]
    log_evidence: Float[Tensor, " batch"]
    ess: Float[Tensor, "batch time"]
    n_rejuvenations: Int[Tensor, " batch"]
    acceptance: Float[Tensor, " batch"]
    n_distinct: Int[Tensor, " batch"]
    collapsed_at: Int[Tensor, " batch"]
    started_from: str


@torch.no_grad()
def smc_squared(
    build: Build,
    latent_prior: Mapping[str, Distribution],
    y: Float[Tensor, "batch time observed"],
    *,
    n_draws: int = 256,
    n_particles: int = 256,
    start: Mapping[str, Distribution] | None = None,
    ess_threshold: float = 0.5,
    max_moves: int = 10,
    seed: int = 0,
) -> StaticParameters:
    """Draws from the posterior of static parameters, for all series in one call.

    Args:
        build: builds a program from ``{name: (rows, ...)}``, one value per row.
        latent_prior: the prior of each parameter, without batch dimensions.
        y: observations, as for `particle_filter`.
        n_draws: parameter vectors per series, at least 2.
        n_particles: particles per parameter vector, at least 1.
        start: distribution of the first draws, such as an earlier posterior or a network's answer;
            it must cover the bulk of the prior, to which it is reweighted. None uses the prior.
        ess_threshold: rejuvenate if the effective sample size is below this share of the draws.
        max_moves: largest number of moves per rejuvenation; fewer are made once every draw has been
            replaced once on average.
        seed: any integer.

    Raises:
        ValueError: if an argument is out of range or a program returns NaN at the first draws.

    Example:
        >>> from torch.distributions import Normal, Uniform
        >>> from amortized.priors.state_space.stochastic_volatility import StochasticVolatility
        >>> def build(latents):
        ...     return StochasticVolatility(sigma=torch.full_like(latents["mu"], 0.3), **latents)
        >>> y = StochasticVolatility(*torch.tensor([-1.0, 0.9, 0.3])).simulate(2, 20, seed=0)[1]
        >>> prior = {"mu": Normal(0.0, 2.0), "rho": Uniform(-1.0, 1.0)}
        >>> posterior = smc_squared(build, prior, y, n_draws=64, n_particles=64)
        >>> posterior.draws["rho"].shape, posterior.log_evidence.shape
        (torch.Size([64, 2]), torch.Size([2]))
    """
    if y.ndim != 3 or y.shape[0] < 1 or y.shape[1] < 1:
        raise ValueError(f"Expected y of shape (batch, time, observed); got {tuple(y.shape)}.")
    n_draws = whole_number("n_draws", n_draws, 2)
    n_particles = whole_number("n_particles", n_particles, 1)
    max_moves = whole_number("max_moves", max_moves, 1)
    ess_threshold = number_between("ess_threshold", ess_threshold, 0, 1, most=True)
    space = ParameterSpace(latent_prior)
    u = _first_draws(space, latent_prior if start is None else start, (len(y), n_draws), seed)
    generator = generator_from(seed, y.device)
    length = max(1, _CHUNK // (n_draws * n_particles))
    parts = []
    for some, now in zip(u.split(length), y.split(length), strict=True):
        sampler = _Sampler(build, space, now, n_particles, generator)
        state = sampler.init(some, start)
        for t in range(y.shape[1]):
            state = sampler.step(state, t)
            last = t == y.shape[1] - 1  # the final draws are moved and equally weighted
            low = sampler.ess[-1] < (torch.inf if last else ess_threshold * n_draws)
            state = sampler.rejuvenate(state, t, low.nonzero()[:, 0], max_moves)
        parts.append((sampler, state.u))
    return _collect(parts, "latent_prior" if start is None else "start")


class _State(NamedTuple):
    """Parameter vectors of each series and their filters."""

    u: Tensor  # (batch, draws, dim)
    log_prior: Tensor  # (batch, draws), of u
    log_z: Tensor  # (batch, draws), log evidence so far, estimated by the filters
    log_weights: Tensor  # (batch, draws), normalised
    particles: Particles  # of (batch * draws) filters


class _Sampler:
    """SMC^2 for a chunk of series; the state is passed on, statistics are collected here."""

    def __init__(
        self,
        build: Build,
        space: ParameterSpace,
        y: Tensor,
        n_particles: int,
        generator: torch.Generator,
    ) -> None:
        self.build, self.space, self.y, self.generator = build, space, y, generator
        self.n_particles = n_particles
        zeros = y.new_zeros(len(y), dtype=torch.float64)
        self.log_evidence = zeros
        self.ess: list[Tensor] = []
        self.n_rejuvenations, self.n_moves = zeros.long(), zeros.long()
        self.n_accepted = zeros.clone()
        self.collapsed_at = torch.full_like(self.n_moves, -1)

    def init(self, u: Tensor, start: Mapping[str, Distribution] | None) -> _State:
        """Weights the first draws if they do not come from the prior."""
        log_prior = self.space.log_prob(u).double()
        log_weights = torch.full_like(log_prior, -math.log(u.shape[1]))
        if start is not None:
            log_weights = log_weights + log_prior - self.space.log_prob(u, start).double()
            self.log_evidence = log_weights.logsumexp(-1)
            log_weights = log_weights - self.log_evidence[:, None]
        nobody = u.new_zeros(0)
        particles = Particles(nobody, nobody, nobody, nobody, nobody)
        return _State(u, log_prior, torch.zeros_like(log_prior), log_weights, particles)

    def step(self, state: _State, t: int) -> _State:
        """One step of all filters, and the weights of their parameter vectors."""
        program = self._program(state.u)
        particles, increment = self._filter(program, state.u, self.y, t, state.particles)
        refuse_nan(increment)
        log_weights = state.log_weights + increment
        gain = log_weights.logsumexp(-1)
        dead = gain == -torch.inf
        self.log_evidence = self.log_evidence + gain
        self.collapsed_at = torch.where(dead & (self.collapsed_at < 0), t, self.collapsed_at)
        # A series with an impossible observation continues with equal weights; its evidence is 0.
        equal = torch.full_like(log_weights, -math.log(log_weights.shape[1]))
        log_weights = torch.where(dead[:, None], equal, log_weights - gain[:, None])
        self.ess.append(1 / (2 * log_weights).exp().sum(-1))
        return _State(state.u, state.log_prior, state.log_z + increment, log_weights, particles)

    def rejuvenate(self, state: _State, t: int, low: Tensor, max_moves: int) -> _State:
        """Resamples and moves the series ``low``; the others are unchanged."""
        if len(low) == 0:
            return state
        n_draws = state.u.shape[1]
        weights, before = state.log_weights[low].exp(), state.u[low]
        u_mean = (weights[..., None] * before).sum(1, keepdim=True)
        off = (before - u_mean).double()
        cov = (weights[..., None] * off).mT @ off
        # The optimal scale of a random walk on a noisy target (Sherlock et al., 2015).
        cov = cov * (2.56**2 / cov.shape[-1])
        ridge = 1e-9 + 1e-6 * cov.diagonal(dim1=-2, dim2=-1)
        walk = torch.linalg.cholesky_ex(cov + torch.diag_embed(ridge)).L.to(before.dtype)

        uniforms = 1 - torch.rand(
            len(low), 1, generator=self.generator, dtype=torch.float64, device=low.device
        )
        kept = systematic_resample(weights, uniforms) + n_draws * low[:, None]
        moved = _take(state, kept)
        accepted = torch.zeros_like(self.log_evidence[low])
        for _ in range(max_moves):
            moved, rate = self._move(moved, walk, self.y[low], t)
            accepted += rate
            self.n_moves[low] += 1
            if bool((accepted >= 1).all()):  # each draw has been replaced once, on average
                break
        self.n_accepted[low] += accepted
        self.n_rejuvenations[low] += 1
        return _put(state, moved, low)

    def _move(self, state: _State, walk: Tensor, y: Tensor, t: int) -> tuple[_State, Tensor]:
        """One particle marginal Metropolis-Hastings move of every draw, and its acceptance."""
        white = torch.randn(
            state.u.shape, generator=self.generator, dtype=state.u.dtype, device=state.u.device
        )
        u = state.u + white @ walk.mT
        log_prior = self.space.log_prob(u).double()
        possible = log_prior > -torch.inf
        # An impossible proposal is always rejected; its filter runs at the current point instead.
        u = torch.where(possible[..., None], u, state.u)
        particles, log_z = Particles(*5 * (u.new_zeros(0),)), torch.zeros_like(log_prior)
        program = self._program(u)
        for s in range(t + 1):
            particles, increment = self._filter(program, u, y, s, particles)
            log_z = log_z + increment
        # Where both are impossible the difference is NaN, and the probability is set to 0.
        ratio = (log_z + log_prior - state.log_z - state.log_prior).clamp(max=0).exp()
        ratio = torch.where(possible & (log_z > -torch.inf), ratio, 0.0)
        uniforms = torch.rand(
            ratio.shape, generator=self.generator, dtype=torch.float64, device=u.device
        )
        accept = uniforms < ratio
        chosen = [
            torch.where(accept.reshape(-1, *[1] * (old.ndim - 1)), new, old)
            for new, old in zip(particles, state.particles, strict=True)
        ]
        moved = _State(
            torch.where(accept[..., None], u, state.u),
            torch.where(accept, log_prior, state.log_prior),
            torch.where(accept, log_z, state.log_z),
            state.log_weights,
            Particles(*chosen),
        )
        return moved, ratio.mean(-1)

    def _program(self, u: Tensor) -> Program:
        """The program with one row per parameter vector."""
        return self.build({n: v.flatten(0, 1) for n, v in self.space.latents(u).items()})

    def _filter(
        self, program: Program, u: Tensor, y: Tensor, t: int, particles: Particles
    ) -> tuple[Particles, Tensor]:
        """One step of one filter per parameter vector, and log likelihoods ``(batch, draws)``."""
        rows = y[:, t].repeat_interleave(u.shape[1], 0)[:, None]
        gone = rows.isnan().all(-1)[:, 0]
        missing = gone if bool(gone.any()) else None
        if t == 0:
            particles, increment = init(
                program, rows, self.n_particles, self.generator, missing=missing
            )
        else:
            particles, increment = step(
                program, particles, rows, t, self.generator, missing=missing
            )
        return particles, increment.double().unflatten(0, u.shape[:2])


def _take(state: _State, kept: Tensor) -> _State:
    """The draws with flat indices ``(batch, draws)``, equally weighted, with their filters."""
    values = (value.flatten(0, 1)[kept] for value in (state.u, state.log_prior, state.log_z))
    u, log_prior, log_z = values
    equal = torch.full_like(log_prior, -math.log(kept.shape[1]))
    particles = Particles(*(part[kept.flatten()] for part in state.particles))
    return _State(u, log_prior, log_z, equal, particles)


def _put(state: _State, moved: _State, low: Tensor) -> _State:
    """The state with some series replaced."""
    n_draws = state.u.shape[1]
    rows = (n_draws * low[:, None] + torch.arange(n_draws, device=low.device)).flatten()
    particles = Particles(
        *(a.index_copy(0, rows, b) for a, b in zip(state.particles, moved.particles, strict=True))
    )
    u, log_prior, log_z, log_weights = (
        a.index_copy(0, low, b) for a, b in zip(state[:-1], moved[:-1], strict=True)
    )
    return _State(u, log_prior, log_z, log_weights, particles)


def _first_draws(
    space: ParameterSpace, laws: Mapping[str, Distribution], shape: tuple[int, int], seed: int
) -> Tensor:
    """Draws vectors from independent distributions, with torch's global generator."""
    if set(laws) != set(space.prior):
        raise ValueError(
            f"Expected start to have the parameters {sorted(space.prior)}; got {sorted(laws)}."
        )
    with seeded(seed):
        draws = {name: law.sample(shape) for name, law in laws.items()}
    for name, value in draws.items():
        if not bool(is_inside(space.prior[name], value).all()):
            raise ValueError(
                "Expected start to lie inside the support of latent_prior; got draws of "
                f"'{name}' outside."
            )
    return space.unconstrained(draws)


def _collect(parts: list[tuple[_Sampler, Tensor]], started_from: str) -> StaticParameters:
    """Joins the results of all chunks of series."""
    samplers = [sampler for sampler, _ in parts]
    u = torch.cat([u for _, u in parts])
    latents = samplers[0].space.latents(u)
    moves = torch.cat([s.n_moves for s in samplers])
    return StaticParameters(
        draws={name: value.transpose(0, 1) for name, value in latents.items()},
        log_evidence=torch.cat([s.log_evidence for s in samplers]),
        ess=torch.cat([torch.stack(s.ess, 1) for s in samplers]),
        n_rejuvenations=torch.cat([s.n_rejuvenations for s in samplers]),
        acceptance=torch.cat([s.n_accepted for s in samplers]) / moves,
        n_distinct=torch.tensor([len(row.unique(dim=0)) for row in u], device=u.device),
        collapsed_at=torch.cat([s.collapsed_at for s in samplers]),
        started_from=started_from,
    )
