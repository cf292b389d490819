"""States, filters and series."""

import math
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

from amortized import (
    infer,
)
from amortized.forecasting import (
    Autoregression,
    MarkovChain,
    PFNForecaster,
    StructuralForecaster,
    StructuralSeries,
)
from amortized.priors.state_space.periodic import Seasonal
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.priors.state_space.trends import LocalLevel
from amortized.sampling.filters.extended_kalman import (
    NonlinearGaussianModel,
    extended_kalman_filter,
)
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.kalman_smoother import kalman_smoother
from amortized.sampling.filters.particle_filter import particle_filter
from amortized.sampling.filters.particle_mcmc import smc_squared
from fuzz_calls.source import Source, law


def states(g: Source) -> list[Any]:
    """States of a linear model, by every method."""
    d = g.one(1, 2)
    eye, size = torch.eye(d), g.one(1e-6, 0.1, 1.0, 1e6)
    model = LinearGaussianModel(eye, size * eye, eye, eye, torch.zeros(d), eye)
    series = np.array([np.ma.filled(g.vector(d, 0.2), np.nan) for _ in range(g.size(3))])
    method = g.one("auto", "particle_filter")
    options = {} if method == "auto" else {"ess_threshold": g.often(0.5)}
    found = infer(model, g.kept(series), method=method, n_draws=g.often(20), **options)
    return list(found.mean.values())


def filters(g: Source) -> list[Any]:
    """Filters and smoothers of states, called directly."""
    d, steps = g.one(1, 2), g.size(3)
    a, q = g.tensor(d, d, broken=0.03), g.often(0.5, -1.0, 0.0, math.nan) * torch.eye(d)
    model = LinearGaussianModel(a, q.to(a), torch.eye(d).to(a), torch.eye(d).to(a),
                                torch.zeros(d).to(a), torch.eye(d).to(a))  # fmt: skip
    y = g.tensor(1 + g.size(1), steps, g.often(d, 1, 3), broken=0.2)
    way = g.rng.random()
    if way < 0.3:
        found: Any = kalman_filter(model, y)
        parts = [found.mean[found.valid], found.log_evidence[found.valid].exp()]
    elif way < 0.6:
        smoothed = kalman_smoother(model, y)
        parts = [smoothed.mean[smoothed.valid]]
    elif way < 0.8:
        run = particle_filter(model, y, n_particles=g.often(30), ess_threshold=g.often(0.5))
        parts = [run.ess] + ([run.mean] if bool((run.collapsed_at < 0).all()) else [])
    else:
        nonlinear = NonlinearGaussianModel(
            lambda x, t: x.sin(), q.to(a), lambda x, t: x, torch.eye(d).to(a),
            torch.zeros(d).to(a), torch.eye(d).to(a),
        )  # fmt: skip
        extended = extended_kalman_filter(nonlinear, y)
        parts = [extended.mean[extended.valid]]
    return parts


def static_parameters(g: Source) -> list[Any]:
    """Parameters of a state-space model, by SMC squared."""

    def build(latents: Any) -> LinearGaussianModel:
        one = torch.ones(1, 1)
        q = latents["q"].reshape(-1, 1, 1)
        return LinearGaussianModel(one, q, one, one, torch.zeros(1), one)

    y = g.tensor(1, 1 + g.size(2), 1, broken=0.1)
    prior = {"q": g.one(dist.LogNormal(0.0, 1.0), dist.Gamma(2.0, 1.0))}
    found = smc_squared(build, prior, y, n_draws=g.often(8), n_particles=g.often(8),
                        max_moves=g.often(2), seed=g.often(0))  # fmt: skip
    return [found.draws["q"], found.log_evidence.exp()]


def forecasts(g: Source) -> list[Any]:
    """Forecasters of short series."""
    n = g.size(24)
    way = g.rng.random()
    if way < 0.25:
        model = Autoregression(order=g.often(2), sparse=g.often(True, False), n_jumps=g.often(50))
        model.fit(g.vector(n))
        if g.rng.random() < 0.5 and model.sparse:
            return [model.sample_paths(g.often(3), g.often(2))]
        return [model.predict(g.often(3))]
    y = g.one(g.vector(n), g.array(n, 2), [g.vector(n), g.vector(5)])
    made = g.one(StructuralForecaster, PFNForecaster)
    forecaster = made(period=g.often(g.one(None, 4, (3, 6))), counts=g.often(False, True),
                      random_state=g.seed())  # fmt: skip
    X = g.array(n, 1) if g.rng.random() < 0.15 else None
    t = g.often(None, np.arange(n), g.vector(n), np.arange(n)[::-1])
    forecaster.fit(y, X, t)
    h = g.often(3)
    future = None if X is None else g.array(3, 1)
    if way < 0.4:
        return [forecaster.sample_paths(h, g.often(2), X=future, random_state=g.seed())]
    quantiles = forecaster.predict_quantiles(h, g.often([0.01, 0.5, 0.99]), future)
    law((np.diff(quantiles, axis=-1) >= 0).all(), "quantiles ascend")
    return [quantiles]


def symbols(g: Source) -> list[Any]:
    """Chains of symbols."""
    n = g.size(9)
    sequence = g.one("".join(g.one(*"abc") for _ in range(n)), g.vector(n), [g.vector(n)] * 2)
    chain = MarkovChain(order=g.often(g.one(1, (0, 1, 2))), concentration=g.often(1.0),
                        symbols=g.often(None, "abc", "x"), random_state=g.seed())  # fmt: skip
    chain.fit(sequence)
    chance = chain.predict_proba(g.often(None, "ab", "zz", ""))
    law(abs(chance.sum() - 1) < 1e-9, "probabilities sum to one")
    chain.sample_paths(g.often(3), g.often(2))
    return [chance, np.array(chain.log_evidence_), chain.order_probabilities_]


def components(g: Source) -> list[Any]:
    """Series of named parts."""
    n = 1 + g.size(8)
    series = StructuralSeries(
        level=LocalLevel(g.often(0.3), g.often(1.0)),
        season=Seasonal(g.often(4), g.often(1), 1.0),
        noise=g.often(0.1),
    )
    t = g.tensor(n, 1, broken=0.03) if g.rng.random() < 0.3 else torch.arange(n)[:, None].double()
    y = g.tensor(n, broken=0.05)
    if g.rng.random() < 0.5:
        return [series.log_evidence(t, y)]
    batch = series.sample(g.often(2), n, 2, seed=g.often(1))
    predictive = series.posterior_predictive(batch)
    return [predictive.mean, predictive.stddev]


KINDS = {states: 4, filters: 8, static_parameters: 1, forecasts: 5, symbols: 4, components: 2}
