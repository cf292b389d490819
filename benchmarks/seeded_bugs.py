"""Right kernels and samplers with known targets, and wrong ones with one fault each.

`benchmarks/validated_kernels.py` counts how often `amortized.mcmc.validate` finds the faults, and
how often it gives a false alarm; `tests/test_mcmc.py` does so with fewer repetitions.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import Independent, MultivariateNormal, Normal, StudentT

from amortized.mcmc import (
    AnnealedSampler,
    Hamiltonian,
    ImportanceSampler,
    Independence,
    Kernel,
    Langevin,
    NoUTurn,
    ProgramJoint,
    RandomWalk,
    Slice,
    Target,
    TemperedSMC,
    Validation,
    WeightedSampler,
    cycle,
    mix,
    repeat,
    validate,
)
from amortized.mcmc.metropolis import change, choose, noise
from amortized.mcmc.target import target_of_density
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.program.density import ProgramDensity
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.particle_filter import particle_filter
from amortized.sampling.steps.resampling import systematic_resample

FACTOR = torch.tensor([[1.0, 0.0], [0.8, 0.6]], dtype=torch.float64)


def normals(*shape: int, generator: torch.Generator) -> Tensor:
    """Standard normals in double precision."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def correlated(u: Tensor) -> Tensor:
    """Unnormalised log density of two normals with correlation 0.8."""
    return -0.5 * torch.linalg.solve_triangular(FACTOR, u.unsqueeze(-1), upper=False)[
        ..., 0
    ].square().sum(-1)


PAIR = Target(
    correlated, 2, sample=lambda n, generator: normals(n, 2, generator=generator) @ FACTOR.mT
)


def log_gamma(u: Tensor, shape: float = 3.0) -> Tensor:
    """The log of a Gamma(3, 2) variable: the Jacobian adds 1 to shape - 1."""
    return (shape * u - 2.0 * u.exp())[..., 0]


def draw_log_gamma(n: int, generator: torch.Generator) -> Tensor:
    """Exact draws: a Gamma(3) variable is a sum of three exponential ones."""
    uniform = torch.rand(n, 3, generator=generator, dtype=torch.float64)
    return (-torch.log1p(-uniform).sum(-1, keepdim=True) / 2.0).log()


SCALE = Target(log_gamma, 1, sample=draw_log_gamma)


def noise_and_mean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A hierarchy with two supports."""
    scale = pyro.sample("scale", dist.Gamma(3.0, 2.0))
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0 * scale))
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


JOINT = ProgramJoint(noise_and_mean, torch.zeros(4, 0))
HIERARCHY = JOINT.target(torch.tensor([[0.3, 1.2, -0.4, 0.8]], dtype=torch.float64))


# Normal observations of a normal mean: the evidence and the posterior are known.
OBSERVED = torch.tensor([0.9, 1.6, 0.4, 1.2, 2.1, 1.4], dtype=torch.float64)


def normal_mean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A mean with a wide prior."""
    mean = pyro.sample("mean", dist.Normal(0.0, 3.0))
    return pyro.sample("y", dist.Normal(mean, 0.5).expand([len(x)]).to_event(1), obs=y)


_PRECISION = 1 / 9 + len(OBSERVED) / 0.25
_MEAN = float(OBSERVED.sum()) / 0.25 / _PRECISION
LOG_EVIDENCE = float(
    MultivariateNormal(
        torch.zeros(6, dtype=torch.float64),
        0.25 * torch.eye(6, dtype=torch.float64) + 9 * torch.ones(6, 6, dtype=torch.float64),
    ).log_prob(OBSERVED)
)


def draw_posterior(n: int, generator: torch.Generator) -> Tensor:
    """Exact draws of the mean given the observations."""
    return _MEAN + normals(n, 1, generator=generator) / math.sqrt(_PRECISION)


DENSITY = ProgramDensity(
    normal_mean, torch.zeros(1, 6, 0, dtype=torch.float64), OBSERVED.unsqueeze(0)
)
PROGRAM = target_of_density(DENSITY, draw_posterior)
POSTERIOR = Target(  # the same in closed form, which is faster
    lambda u: Normal(0.0, 3.0).log_prob(u[..., 0]) + Normal(u, 0.5).log_prob(OBSERVED).sum(-1),
    1,
    sample=draw_posterior,
)
PRIOR = Target(
    lambda u: Normal(0.0, 3.0).log_prob(u[..., 0]),
    1,
    sample=lambda n, generator: 3.0 * normals(n, 1, generator=generator),
)
TEMPERATURES = (0.01, 0.05, 0.25, 1.0)


class Filter(WeightedSampler):
    """The package's particle filter on a series whose exact filter is known."""

    def __init__(self, n_particles: int = 64) -> None:
        one = torch.ones(1, 1, dtype=torch.float64)
        self._model = LinearGaussianModel(
            transition=0.9 * one,
            transition_cov=0.19 * one,
            observation=one,
            observation_cov=0.25 * one,
            initial_mean=torch.zeros_like(one[0]),
            initial_cov=one,
        )
        self._y = self._model.simulate(1, 12, seed=3)[1]
        exact = kalman_filter(self._model, self._y)
        self.log_evidence = float(exact.log_evidence)
        mean, sd = float(exact.mean[0, -1, 0]), float(exact.cov[0, -1, 0, 0]) ** 0.5
        self.target = Target(
            lambda u: Normal(mean, sd).log_prob(u[..., 0]),
            1,
            sample=lambda n, generator: mean + sd * normals(n, 1, generator=generator),
        )
        self.n_particles = n_particles

    def sample(self, n_runs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        seed = int(torch.randint(2**31, (), generator=generator))
        y = self._y.expand(n_runs, -1, -1)
        found = particle_filter(self._model, y, self.n_particles, moments=False, seed=seed)
        particles = found.particles
        shares = particles.weights.double() / particles.total.double().unsqueeze(-1)
        log_weights = shares.log() + math.log(self.n_particles) + found.log_evidence.unsqueeze(-1)
        return particles.state.double(), log_weights


FILTER = Filter()
STUDENT = Independent(StudentT(4.0, torch.zeros(2, dtype=torch.float64), 1.3), 1)

Run = Callable[[int], Validation]
invariant = partial(validate, n_chains=4000, n_steps=8)
together = partial(validate, joint=JOINT, n_chains=2000, n_steps=4)
weighted = partial(validate, log_evidence=LOG_EVIDENCE, n_chains=1000)


def _try(function: Any, subject: Any, **options: Any) -> Any:
    return lambda seed, level=0.01: function(subject, seed=seed, level=level, **options)


RIGHT: dict[str, Any] = {
    "random walk": _try(invariant, RandomWalk(PAIR, 0.8)),
    "random walk, joint": _try(together, RandomWalk(HIERARCHY, 0.7)),
    "Langevin": _try(invariant, Langevin(PAIR, 0.6)),
    "independence": _try(invariant, Independence(PAIR, STUDENT)),
    "slice": _try(invariant, Slice(PAIR)),
    "slice, joint": _try(together, Slice(HIERARCHY)),
    "Hamiltonian": _try(invariant, Hamiltonian(PAIR, 0.5)),
    "Hamiltonian, joint": _try(together, Hamiltonian(HIERARCHY, 0.4)),
    "NUTS": _try(invariant, NoUTurn(PAIR, 0.5), n_chains=200, n_steps=1),
    "cycle of four": _try(
        invariant,
        cycle(
            mix(RandomWalk(PAIR), Langevin(PAIR, 0.5), weights=[2, 1]),
            repeat(Slice(PAIR), 2),
            Hamiltonian(PAIR),
        ),
    ),
    "importance": _try(weighted, ImportanceSampler(POSTERIOR, PRIOR, 200)),
    "annealed SMC": _try(
        weighted, AnnealedSampler(RandomWalk(POSTERIOR, 0.5), PRIOR, TEMPERATURES, 100)
    ),
    "tempered SMC": _try(weighted, TemperedSMC(DENSITY, PROGRAM, 256), n_chains=300),
    "particle filter": _try(
        partial(validate, log_evidence=FILTER.log_evidence, n_chains=1000), FILTER
    ),
}


class NoJacobian(RandomWalk):
    """Walks on log(scale) with the density of scale."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        proposal = state + self.scale * noise(state, generator)
        before, after = (log_gamma(u, 2.0) for u in (state, proposal))
        return choose(after - before, proposal, state, generator)


class NoHastings(Langevin):
    """Accepts a drifting proposal as if it were symmetric."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        before, gradient = self.target.value_and_gradient(state)
        drift = 0.5 * self.scale**2 * gradient
        proposal = state + drift + self.scale * noise(state, generator)
        log_ratio = change(self.target.log_density(proposal), before)
        return choose(log_ratio, proposal, state, generator)


class WrongRatio(RandomWalk):
    """Accepts with the square root of the ratio."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        proposal = state + self.scale * noise(state, generator)
        before, after = map(self.target.log_density, (state, proposal))
        return choose(0.5 * (after - before), proposal, state, generator)


class NoHalfStep(Kernel):
    """A leapfrog whose last half step of the velocity is missing."""

    def __init__(self, target: Any, step_size: float) -> None:
        self.target, self.step_size = target, step_size

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        velocity = noise(state, generator)
        before, gradient = self.target.value_and_gradient(state)
        energy, u = before - 0.5 * velocity.square().sum(-1), state
        velocity = velocity + 0.5 * self.step_size * gradient
        for i in range(4):
            u = u + self.step_size * velocity
            after, gradient = self.target.value_and_gradient(u)
            velocity = velocity + (self.step_size * gradient if i < 3 else 0.0)
        log_ratio = after - 0.5 * velocity.square().sum(-1) - energy
        return choose(log_ratio, u, state, generator)


class AdaptsToItself(RandomWalk):
    """The scale of a proposal depends on the point, without a correction."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        scale = self.scale * (0.3 + state.abs().mean(-1, keepdim=True))
        proposal = state + scale * noise(state, generator)
        before, after = map(self.target.log_density, (state, proposal))
        return choose(change(after, before), proposal, state, generator)


class CentredSlice(Slice):
    """A slice in an interval centred at the point, neither shifted nor stepped out."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(state.shape[:-1], generator=generator, dtype=state.dtype)
        level = self.target.log_density(state) + uniform.log()
        new, half = state.clone(), torch.full_like(uniform, 1.0).unsqueeze(-1)
        pending = torch.ones_like(uniform, dtype=torch.bool)
        while pending.any():
            shift = 2 * torch.rand(state.shape, generator=generator, dtype=state.dtype) - 1
            trial = state + half * shift
            found = pending & (self.target.log_density(trial) > level)
            new = torch.where(found.unsqueeze(-1), trial, new)
            pending = pending & ~found
            half = torch.where(pending.unsqueeze(-1), 0.7 * half, half)
        return new


class DataTwice(RandomWalk):
    """Counts the likelihood twice: right for some posterior, but not the one it declares."""

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        def density(u: Tensor) -> Tensor:
            of_noise = 3 * u[..., 0] - 2 * u[..., 0].exp()
            of_mean = Normal(0.0, 2 * u[..., 0].exp()).log_prob(u[..., 1])
            return 2 * self.target.log_density(u) - of_noise - of_mean

        proposal = state + self.scale * noise(state, generator)
        return choose(change(density(proposal), density(state)), proposal, state, generator)


class IgnoresData(Kernel):
    """Draws from the prior: the marginal distribution of the latents is right."""

    def __init__(self, target: Any) -> None:
        self.target = target

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        return JOINT.sample_latents(len(state), generator)


class ChoosesByState(Kernel):
    """A mixture of two kernels whose weights depend on the point."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self._short, self._long = RandomWalk(target, 0.2), RandomWalk(target, 1.5)

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        short, far = (kernel.step(state, generator) for kernel in (self._short, self._long))
        return torch.where(state[..., :1] > 0, short, far)


class OldTemperature(AnnealedSampler):
    """Returns points that were moved at the last temperature but one, as if they were weighted."""

    def sample(self, n_runs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        u, log_weights = super().sample(n_runs, generator)
        return self._kernels[-2].step(u, generator), log_weights


class KeepsWeights(AnnealedSampler):
    """Resamples and keeps the weights: those of good points count twice."""

    def sample(self, n_runs: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        assert self._reference.sample is not None
        u = self._reference.sample(n_runs * self.n_points, generator)
        u = u.reshape(n_runs, self.n_points, -1)
        log_weights = torch.zeros(u.shape[:-1], dtype=torch.float64)
        for before, beta, kernel in zip(self._steps, self._steps[1:], self._kernels, strict=False):
            gain = self.target.log_density(u) - self._reference.log_density(u)
            log_weights = log_weights + (beta - before) * gain
            uniforms = 1 - torch.rand(len(u), 1, generator=generator, dtype=torch.float64)
            chosen = systematic_resample(log_weights.softmax(-1), uniforms)
            u = kernel.step(u.gather(1, chosen.unsqueeze(-1)), generator)
            log_weights = log_weights.gather(1, chosen)
        return u, log_weights


BUGS: dict[str, Any] = {
    "Jacobian forgotten": _try(invariant, NoJacobian(SCALE, 0.7)),
    "Hastings correction forgotten": _try(invariant, NoHastings(PAIR, 0.6)),
    "acceptance ratio wrong": _try(invariant, WrongRatio(PAIR, 0.8)),
    "last half step of leapfrog missing": _try(invariant, NoHalfStep(PAIR, 0.3)),
    "scale adapts to the point": _try(invariant, AdaptsToItself(PAIR, 0.8)),
    "slice interval centred": _try(invariant, CentredSlice(PAIR)),
    "choice of kernel depends on the point": _try(invariant, ChoosesByState(PAIR)),
    "data ignored": _try(together, IgnoresData(HIERARCHY)),
    "likelihood counted twice": _try(together, repeat(DataTwice(HIERARCHY, 0.7), 5)),
    "weights kept after resampling": _try(
        weighted, KeepsWeights(RandomWalk(POSTERIOR, 0.5), PRIOR, TEMPERATURES, 100)
    ),
    "moved at the old temperature": _try(
        weighted, OldTemperature(RandomWalk(POSTERIOR, 0.5), PRIOR, TEMPERATURES, 100)
    ),
}
