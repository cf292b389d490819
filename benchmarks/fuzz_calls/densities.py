"""Networks, distributions, priors, kernels and sequences."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

from amortized import (
    load,
)
from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.generators import (
    CurveGenerator,
    ParticleGibbs,
    TokenGenerator,
    learn_lookahead,
    sample_program,
    sample_sequences,
)
from amortized.latent_priors import fit_draws, fit_mixture, merge, product, split_components
from amortized.mcmc import (
    AnnealedSampler,
    Hamiltonian,
    ImportanceSampler,
    Independence,
    Langevin,
    NoUTurn,
    RandomWalk,
    Slice,
    Target,
    cycle,
    mix,
    program_target,
    repeat,
    run_chains,
    temper,
    validate,
)
from amortized.priors import (
    GaussianProcessPrior,
    LearningCurvePrior,
    LinearRegressionPrior,
    ProgramPrior,
    ScaledGaussianProcessPrior,
    SeriesPrior,
    named_prior,
)
from amortized.priors.named import PRIORS
from amortized.uncertainty import (
    joint_log_prob,
    joint_sample,
    martingale_posterior,
    split_by_twins,
)
from fuzz_calls.programs import kinds, normal, scaled
from fuzz_calls.source import Source, law


def joint(g: Source) -> list[Any]:
    """Joint predictions of a network, and what they split into."""
    n, network = g.size(4), load("gp-1d")
    x, y = g.array(1, n, g.often(1, 0, 2)), g.array(1, n)
    refresh, way = g.often(1), g.rng.random()
    if way < 0.3:
        return [joint_log_prob(network, x, y, x, y, refresh=refresh)]
    if way < 0.55:
        return [joint_sample(network, x, y, x, g.often(2), refresh=refresh, seed=g.often(0))]
    if way < 0.75:
        return list(split_by_twins(network, x, y, x, n_nodes=g.often(4)))
    return [
        martingale_posterior(network, x[0], y[0], lambda x, y: y.mean(1), n_draws=g.often(2),
                             n_future=g.often(2), refresh=refresh, seed=g.often(0))
    ]  # fmt: skip


def bars(g: Source) -> list[Any]:
    """Bar distributions of any borders."""
    n = 3 + g.size(4)
    borders = torch.as_tensor(np.sort(np.asarray(g.vector(n + 1, 0.05), dtype=np.float64)))
    noise = torch.Generator().manual_seed(g.size(99))
    if g.rng.random() < 0.3:
        more = torch.rand(9 * (n + 1), generator=noise)
        borders = equal_mass_borders(borders.repeat(9) + more, g.often(n))
        n = len(borders) - 1
    logits = torch.randn(n, dtype=torch.float64, generator=noise)
    found = BarDistribution(logits, borders)
    y = torch.tensor(g.one(0.0, 1.0, -7.0, 1e9), dtype=torch.float64)
    law(0 <= found.cdf(y) <= 1, "a distribution function is between 0 and 1")
    if borders.abs().max() > 1e150:  # squares of such numbers are infinite
        return [found.cdf(y), found.icdf(torch.tensor(0.2))]
    within = found.icdf(found.cdf(y)).clamp(-1e300, 1e300)
    return [found.mean, found.variance, found.entropy(), found.crps(y), within]


def mixtures(g: Source) -> list[Any]:
    """Gaussian mixtures: made, fitted, reduced, multiplied."""
    k, d, way = 1 + g.size(2), 1 + g.size(1), g.rng.random()
    if way < 0.3:
        found = fit_draws(g.tensor(g.size(8), d), g.often(k))
        return [found.mean, found.covariance_matrix]
    if way < 0.4:
        laws = [dist.Normal(0.0, 2.0), dist.Laplace(0.0, 1.0), dist.StudentT(3.0)]
        return [fit_mixture(g.one(*laws), g.often(2)).mean]
    factor = torch.eye(d).expand(k, d, d).contiguous()
    means = g.tensor(k, d, broken=0.1)
    found = GaussianMixture(g.tensor(k).to(means), means, factor.to(means))
    if way < 0.6:
        small = g.one(merge, split_components)(found, g.often(2))
        return [small.mean, small.covariance_matrix]
    if way < 0.7:
        return [product([found, found], g.often(4)).mean]
    if way < 0.8 and d == 2:
        return [found.condition([g.often(0)], g.tensor(1).to(means)).mean]
    return [found.mean, found.variance, found.kl(found, n_draws=g.often(10))]


def priors(g: Source) -> list[Any]:
    """Priors: made of odd numbers, and drawn from in odd sizes."""
    number = g.often(0.5, -1.0, 0.0, math.nan, "a", None)
    made = g.one(
        lambda: named_prior(g.often(g.one(*PRIORS), "gp-7")),
        lambda: GaussianProcessPrior(g.often(g.one("rbf", "matern32", "relu"), "nothing"),
                                     lengthscale=number, outputscale=1.0, noise=g.often(0.1),
                                     n_features=g.often(1)),
        lambda: LinearRegressionPrior(g.often(1), weight_scale=number, variance=g.often(None, -1)),
        lambda: ScaledGaussianProcessPrior(
            GaussianProcessPrior("rbf", lengthscale=number, outputscale=1.0, noise=0.1),
            g.one(dist.InverseGamma(2.0, 1.0), dist.Normal(0.0, 1.0)),
        ),
        lambda: SeriesPrior(gaps=g.often(0.1)),
        lambda: LearningCurvePrior(),
        lambda: ProgramPrior(g.often(scaled), inputs=g.often(1)),
    )()  # fmt: skip
    batch = made.sample(g.often(2), g.often(g.size(5)), g.often(g.size(3)), seed=g.often(1))
    x = batch.x_context
    return [x[~x.isnan()], batch.y_context, batch.y_query]


def chains(g: Source) -> list[Any]:
    """Markov kernels and weighted samplers."""

    def draw(n: int, generator: torch.Generator) -> torch.Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    target = Target(lambda u: -0.5 * u.square().sum(-1), g.often(1), sample=draw)
    if g.rng.random() < 0.2:
        n = 1 + g.size(2)
        target = program_target(g.one(normal, scaled), torch.zeros(n, 0), g.vector(n))
    scale = g.often(1.0)
    kernel = g.one(
        lambda: RandomWalk(target, scale),
        lambda: Langevin(target, scale),
        lambda: Slice(target, scale, max_steps=g.often(8)),
        lambda: Hamiltonian(target, scale),
        lambda: NoUTurn(target, scale, max_tree_depth=g.often(3)),
        lambda: Independence(target, dist.MultivariateNormal(torch.zeros(1), torch.eye(1))),
        lambda: repeat(RandomWalk(target, scale), g.often(2)),
        lambda: mix(RandomWalk(target), Slice(target), weights=g.often([1, 2], [1, -1], [1])),
        lambda: cycle(RandomWalk(target), Slice(target)),
        lambda: temper(RandomWalk(target), g.often(0.5)),
    )()
    way = g.rng.random()
    if way < 0.7:
        start = g.tensor(2, g.often(target.dim, 1, 3), broken=0.05)
        return [run_chains(kernel, start, g.often(3), n_warmup=g.often(1), seed=g.often(0))]
    if way < 0.8:
        validate(RandomWalk(target), n_chains=g.often(100), n_steps=g.often(1), level=g.often(0.01))
        return []
    ladder = g.often([0.0, 0.5, 1.0], [0.0], [1.0, 0.0], [0.0, math.nan, 1.0], [])
    sampler = g.one(
        lambda: AnnealedSampler(RandomWalk(target), target, ladder, n_points=g.often(5),
                                ess_threshold=g.often(0.5)),
        lambda: ImportanceSampler(target, target, n_points=g.often(5)),
    )()  # fmt: skip
    return list(sampler.sample(g.often(2), torch.Generator().manual_seed(0)))


def sequences(g: Source) -> list[Any]:
    """Sequences drawn step by step."""
    way = g.rng.random()
    if way < 0.3:
        n = 1 + g.size(3)
        data = {"x": torch.zeros(n, 0), "y": torch.as_tensor(np.ma.filled(g.vector(n), np.nan))}
        found = sample_program(g.one(scaled, kinds), data, g.often(8), n_runs=g.often(2))
        return [found.log_evidence]
    if way < 0.5:
        curve = CurveGenerator(load("gp-1d"), g.vector(2), g.vector(2), g.vector(1 + g.size(2)))
        return [sample_sequences(curve, lambda s, t: s.new_zeros(len(s)), 4).log_evidence]
    logits = g.tensor(3, broken=0.1)
    walk = TokenGenerator(lambda tokens: logits.expand(len(tokens), -1), g.often(3),
                          prompt=g.often([], [0, 1], ["a"], [1.5]),
                          temperature=g.often(1.0))  # fmt: skip
    gain = g.tensor(3, broken=0.05)

    def potential(state: Any, t: int) -> torch.Tensor:
        return gain[state[:, -1]]

    if way < 0.8:
        found = sample_sequences(walk, potential, g.often(8), n_runs=g.often(2),
                                 ess_threshold=g.often(0.5), seed=g.often(0))  # fmt: skip
        return [found.log_evidence]
    if way < 0.95:
        kernel = ParticleGibbs(walk, potential, n_particles=g.often(4))
        return [kernel.step(walk.draw(2).double(), torch.Generator().manual_seed(0))]
    learned = learn_lookahead(walk, potential, lambda s, t: s[:, -1:].double(),
                              n_sequences=g.often(100), n_rounds=1)  # fmt: skip
    return [sample_sequences(walk, potential, 8, lookahead=learned).log_evidence]


KINDS = {joint: 4, bars: 5, mixtures: 4, priors: 4, chains: 5, sequences: 3}
