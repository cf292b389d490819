"""Generated inputs to every kind of public call: a finite answer, or an error that says what to do.

Each input is a kind and a seed. A call may answer, with finite numbers that obey the laws stated
here, or refuse with a ValueError or TypeError whose message says what was expected. A failure is
any other exception, an answer that is not finite or breaks a law, more than 10 CPU seconds, a
change of the caller's arrays, or a change of torch's, NumPy's or Python's global random state.

    python benchmarks/fuzz.py 0 20000            # inputs 0 to 19,999, all kinds in turn
    python benchmarks/fuzz.py 0 500 forecasts    # the inputs of one kind
"""

import copy
import math
import random
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from sklearn.linear_model import LinearRegression

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    EarlyStopping,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    Posterior,
    compare,
    fit_parameters,
    infer,
    load,
    save,
)
from amortized.crowds import TruthInference
from amortized.debiased import debiased_regression
from amortized.diagnostics import (
    PosteriorTrial,
    PredictiveTrial,
    c2st,
    coverage,
    importance_efficiency,
    local_c2st,
    log_score,
    order_sensitivity,
    pit,
    predictive_check,
    sbc,
    tarp,
)
from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.estimators import (
    PFNDensity,
    PFNImputer,
    predict_tables,
    shapley_values,
    survivors,
)
from amortized.forecasting import (
    Autoregression,
    MarkovChain,
    PFNForecaster,
    StructuralForecaster,
    StructuralSeries,
)
from amortized.generators import (
    CurveGenerator,
    ParticleGibbs,
    TokenGenerator,
    learn_lookahead,
    sample_program,
    sample_sequences,
)
from amortized.hierarchy import learn_latent_prior
from amortized.infer.prior_sensitivity import prior_sensitivity
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
from amortized.training import TrainingConfig, train
from amortized.uncertainty import (
    ConformalRegressor,
    joint_log_prob,
    joint_sample,
    martingale_posterior,
    split_by_posterior,
    split_by_twins,
)

NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 1e3, 1e-30, 1e-310, 1e9, -1e9, 1e30, 1e200]
BROKEN = [np.nan, np.inf, -np.inf]
ODD = [None, -1, 0, 1.5, math.nan, math.inf, "a", [], 10**30, True, -0.5, "1", (1, 2)]
SAYS_WHAT = re.compile(
    r"[Ee]xpected|must be|should be|required|only supports|does not contain|Found (input|array)|"
    r"contains NaN|contains infinity|too large for dtype|not supported|needs at least|unknown|"
    r"Unknown|could not convert string|cannot be used to seed|[Ss]eed must be|array of shape"
)


class Source:
    """Generated values; it remembers the arrays that it made, and what they were."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.made: list[tuple[Any, Any]] = []

    def one(self, *values: Any) -> Any:
        """One of some values."""
        return self.rng.choice(values)

    def size(self, most: int) -> int:
        """A number of rows or columns, 0 included."""
        return self.rng.randrange(most + 1)

    def often(self, value: Any, *others: Any) -> Any:
        """A value that is usually in order."""
        return self.rng.choice(others or ODD) if self.rng.random() < 0.07 else value

    def kept(self, array: Any) -> Any:
        """An array that the call must not change."""
        self.made.append((array, copy.deepcopy(array)))
        return array

    def values(self, n: int, broken: float = 0.1) -> list[float]:
        """Numbers, mostly ordinary; some huge, tiny, equal or missing."""
        kind = self.rng.random()
        if kind < 0.6:
            found = [self.rng.gauss(0, 1) for _ in range(n)]
        elif kind < 0.8:
            found = [float(self.rng.randrange(4)) for _ in range(n)]
        else:
            found = [self.rng.choice(NUMBERS) for _ in range(n)]
        if n and self.rng.random() < broken:
            found[self.rng.randrange(n)] = self.rng.choice(BROKEN)
        return found

    def vector(self, n: int, broken: float = 0.1) -> Any:
        """Numbers as an array of any type."""
        found = self.values(n, broken)
        if self.rng.random() < 0.1:
            mask = [self.rng.random() < 0.2 for _ in range(n)]
            return self.kept(np.ma.array(found, mask=mask))
        types = [list, np.array, np.float32, torch.tensor, torch.tensor, np.array]
        made = self.rng.choice(types)
        with np.errstate(all="ignore"):
            return self.kept(made(found))

    def array(self, *shape: int, broken: float = 0.1) -> Any:
        """Numbers of a shape, as a NumPy array or a tensor."""
        found = np.array(self.values(math.prod(shape), broken)).reshape(shape)
        return self.kept(self.one(found, found, torch.as_tensor(found), found.tolist()))

    def tensor(self, *shape: int, broken: float = 0.1) -> torch.Tensor:
        """Numbers of a shape, as a tensor of either precision."""
        found = torch.tensor(self.values(math.prod(shape), broken), dtype=torch.float64)
        return self.kept(found.reshape(shape).to(self.one(torch.float64, torch.float32)))

    def table(self, n: int, d: int) -> Any:
        """A table, of which some columns are missing values, or names."""
        columns = [np.asarray(self.values(n, 0.05)) for _ in range(d)]
        found = np.stack(columns, 1) if d else np.zeros((n, 0))
        if self.rng.random() < 0.1:
            names = np.array([self.one("a", "b", None) for _ in range(n)], dtype=object)
            return self.kept(np.column_stack([found.astype(object), names]))
        return self.kept(found)

    def rows(self) -> tuple[Any, Any]:
        """Inputs and as many targets, or, rarely, more."""
        n, d = self.often(1 + self.size(5), 0), self.size(2)
        return self.array(n, d, broken=0.05), self.vector(n if self.rng.random() < 0.95 else n + 1)


def law(holds: Any, what: str) -> None:
    """A law of every answer."""
    assert bool(holds), f"broken law: {what}"


def normal(x: Any, y: Any = None) -> Any:
    """Normal mean: closed form."""
    mean = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def scaled(x: Any, y: Any = None) -> Any:
    """Mean and noise."""
    mean = pyro.sample("m", dist.Normal(0.0, 3.0))
    noise = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)


def counts(x: Any, y: Any = None) -> Any:
    """Rate of counts."""
    rate = pyro.sample("m", dist.Gamma(2.0, 1.0))
    return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)


def shares(x: Any, y: Any = None) -> Any:
    """Numbers between 0 and 1."""
    a = pyro.sample("m", dist.Uniform(0.5, 4.0))
    return pyro.sample("y", dist.Beta(a, 2.0).expand([len(x)]).to_event(1), obs=y)


def line(x: Any, y: Any = None) -> Any:
    """A regression with heavy tails."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    mean = slope * x.sum(-1)
    return pyro.sample("y", dist.StudentT(3.0, mean, 1.0).to_event(1), obs=y)


def kinds(x: Any, y: Any = None) -> Any:
    """A discrete latent for each row."""
    share = pyro.sample("m", dist.Beta(1.0, 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share))
        return pyro.sample("y", dist.Normal(3.0 * z, 1.0), obs=y)


def with_parameter(x: Any, y: Any = None) -> Any:
    """A parameter to fit."""
    mean = pyro.param("mean", torch.tensor(0.1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def switched(x: Any, y: Any = None) -> Any:
    """A parameter under discrete latents."""
    share = pyro.param("share", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share))
        return pyro.sample("y", dist.Normal(4.0 * z, 1.0), obs=y)


PROGRAMS = [normal, scaled, counts, shares, line, kinds]
METHODS: dict[str, dict[str, Any]] = {
    "exact": {},
    "auto": {},
    "smc": {},
    "laplace": {},
    "importance": {},
    "vi": {"n_steps": 5},
    "nuts": {"n_warmup": 4, "n_chains": 2},
    "hmc": {},
    "nested": {"n_live": 25},
    "surrogate": {},
    "dt": {},
}


def posterior(g: Source) -> list[Any]:
    """`infer` by every method, and every method of its answer."""
    method = g.one(*METHODS)
    x, y = g.rows()
    options = {k: g.often(v) for k, v in METHODS[method].items()}
    found = infer(
        g.one(*PROGRAMS), x, y, method=method, n_draws=g.often(8), seed=g.often(1), **options
    )
    level = g.often(g.rng.random())
    answers = [*found.mean.values(), *found.std.values(), *found.quantile(level).values()]
    if found.log_evidence is not None:
        answers.append(found.log_evidence)
    return answers + g.one(summarised, predicted, updated, stored, no_more)(g, found, x)


def no_more(g: Source, found: Posterior, x: Any) -> list[Any]:
    """Nothing further."""
    return []


def summarised(g: Source, found: Posterior, x: Any) -> list[Any]:
    """Draws and summaries."""
    repr(found)
    drawn = found.sample(g.often(3), seed=g.often(0, -1, 1.5, "a", 10**30))
    rows = found.summary().values()
    means = [row[key] for row in rows for key in ("mean", "sd", "q5", "q95")]
    return [*drawn.values(), np.array(means)]


def predicted(g: Source, found: Posterior, x: Any) -> list[Any]:
    """The predictive at inputs of any kind."""
    d = np.asarray(x).shape[-1]
    new = g.array(g.size(3), g.often(d, 0, 1, 3))
    predictive = found.predictive(new)
    level = g.one(1e-300, 1e-9, 0.3, 1 - 1e-12)
    return [
        predictive.mean,
        predictive.variance,
        predictive.icdf(torch.tensor(level, dtype=torch.float64)),
    ]


def updated(g: Source, found: Posterior, x: Any) -> list[Any]:
    """Further rows."""
    n = 1 + g.size(2)
    new = found.update(g.array(n, np.asarray(x).shape[-1]), g.vector(n), n_draws=g.often(8))
    return list(new.mean.values())


def stored(g: Source, found: Posterior, x: Any) -> list[Any]:
    """A file, and what is read from it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / g.one("a", "b.zip", "ü")
        if g.rng.random() < 0.2:
            path.write_bytes(b"mine")
        path = found.save(path)
        if g.rng.random() < 0.2:
            content = bytearray(path.read_bytes())
            content[g.rng.randrange(len(content))] ^= 1 << g.rng.randrange(8)
            path.write_bytes(content)
        return list(Posterior.load(path).mean.values())


def batches(g: Source) -> list[Any]:
    """Many datasets, lists of datasets, data by names, and other priors of the latents."""
    program, n, b = g.one(normal, scaled, line), 1 + g.size(3), 1 + g.size(3)
    options: dict[str, Any] = {"method": g.one("auto", "smc", "exact"), "n_draws": 8}
    if g.rng.random() < 0.3:
        laws = [dist.Normal(0.0, 2.0), dist.Uniform(-1.0, 1.0), dist.StudentT(2.0)]
        name = g.often("slope" if program is line else "m", "nothing")
        options["latent_prior"] = {name: g.one(*laws)}
    way = g.rng.random()
    if way < 0.4:
        found = infer(program, g.array(b, n, 1), g.array(b, n), **options)
    elif way < 0.7:
        sizes = [1 + g.size(3) for _ in range(b)]
        xs = [g.array(m, 1) for m in sizes]
        found = infer(program, xs, [g.vector(m) for m in sizes], **options)
    else:
        data = {"x": g.array(n, 1), g.often("y", "z"): g.vector(n)}
        found = infer(program, data=data, **options)
    return [*found.mean.values(), *found.std.values()]


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


def regression(g: Source) -> list[Any]:
    """Regressors: fit, and every way to predict."""
    n, d = g.size(6), g.size(2)
    X, y = g.table(n, d), g.vector(g.often(n, n + 1))
    made = g.one(
        lambda: PFNRegressor("gp"),
        lambda: PFNRegressor("gp-1d"),
        lambda: PFNRegressor("tabular-regressor", n_estimators=g.often(1)),
        lambda: BayesianRegressor(method="exact", n_draws=g.often(8), random_state=g.often(0)),
        lambda: BayesianRegressor(line, method="smc", n_draws=8, random_state=0),
        lambda: ConformalRegressor(LinearRegression(), level=g.often(0.5), random_state=0),
    )()
    if isinstance(made, PFNRegressor) and g.rng.random() < 0.2:
        fitted = made.fit(X, y, sample_weight=g.vector(n))
    else:
        fitted = made.fit(X, y)
    if isinstance(made, ConformalRegressor):
        return [fitted.predict_interval(X)[:, :1], fitted.predict(X)]
    mean, sd = fitted.predict(X, return_std=True)
    law((sd >= 0).all(), "a standard deviation is not negative")
    if g.rng.random() < 0.3:
        return [mean, sd, fitted.sample_y(X, g.often(2), random_state=g.often(0))]
    if isinstance(made, PFNRegressor) and g.rng.random() < 0.2:
        return [mean, sd, fitted.partial_fit(g.table(1, d), g.vector(1)).predict(X)]
    quantiles = fitted.predict_quantiles(X, g.often(g.one([0.5], [1e-12, 0.5], [0.1, 0.9999999])))
    law((np.diff(quantiles, axis=-1) >= 0).all(), "quantiles ascend")
    return [mean, sd, quantiles]


def classification(g: Source) -> list[Any]:
    """Classifiers."""
    n, d = g.size(6), g.size(2)
    X = g.table(n, d)
    y = g.one(g.vector(n), [g.one("a", "b") for _ in range(n)], [True, False] * n)
    made = g.one(
        lambda: PFNClassifier(n_estimators=g.often(1), temperature=g.often(1.0)),
        lambda: PFNClassifier(n_estimators=1, class_weight=g.often("balanced", {"a": 2.0}, "b")),
        lambda: BayesianClassifier(method="laplace", n_draws=g.often(8), random_state=g.often(0)),
    )()
    fitted = made.fit(X, y)
    probabilities = fitted.predict_proba(X)
    law(np.allclose(probabilities.sum(1), 1, atol=1e-5), "probabilities sum to one")
    fitted.predict(X)
    return [probabilities]


def whole_tables(g: Source) -> list[Any]:
    """Densities, imputation, attribution and many tables."""
    n, d = 2 + g.size(4), 1 + g.size(1)
    X, way = g.table(n, d), g.rng.random()
    if way < 0.25:
        density = PFNDensity(n_orders=g.often(1)).fit(X)
        return [density.score_samples(X)]
    if way < 0.35:
        return [PFNDensity(n_orders=1).fit(X).sample(g.often(2), random_state=g.often(0))]
    if way < 0.6:
        filled = PFNImputer(n_estimators=g.often(1)).fit(X).transform(X)
        return [] if X.dtype == object else [filled]
    if way < 0.8:
        fitted = PFNRegressor("gp").fit(X, g.vector(n))
        values = shapley_values(fitted, X[:1], n_permutations=g.often(2), random_state=g.often(0))
        return [values.values]
    tables = [(X, g.vector(n), X), (X, g.vector(n), g.table(2, d))]
    method = g.often("predict", "predict_proba", "nothing")
    return predict_tables(PFNRegressor("gp"), tables, method=method, n_jobs=g.often(1))


def curves(g: Source) -> list[Any]:
    """Learning curves, and when to stop."""
    n = g.size(5)
    low, high = g.one((0.0, 1.0), (0.0, np.inf), (-np.inf, np.inf))
    curve = LearningCurveRegressor(horizon=g.often(20), low=g.often(low), high=g.often(high))
    way = g.rng.random()
    if way < 0.3:
        stopping = EarlyStopping(curve, threshold=g.often(0.05), fewest=g.often(3))
        for value in g.vector(n):
            stopping.update(g.often(value))
        return []
    if way < 0.5:
        chosen = survivors(curve, g.array(1 + g.size(2), 1 + g.size(3)), share=g.often(0.5))
        return [np.asarray(chosen, dtype=float)]
    fitted = curve.fit(g.often(np.arange(1, n + 1), None), g.vector(n))
    asked = g.often([9, 20])
    quantiles = fitted.predict_quantiles(asked, g.often([0.01, 0.9]))
    law((np.diff(quantiles, axis=-1) >= 0).all(), "quantiles ascend")
    chance = fitted.probability_of_exceeding(g.often(0.5, 1e30), g.often(9))
    return [fitted.predict(asked), quantiles, chance, fitted.sample_y(asked, g.often(2))]


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


def variance_of_programs(g: Source) -> list[Any]:
    """Noise and uncertainty of a program."""
    n = 1 + g.size(3)
    x, y = g.array(n, 1), g.vector(n)
    found = infer(scaled, x, y, method="importance", n_draws=20)
    split = split_by_posterior(scaled, found, g.array(2, 1), x, y, n_draws=g.often(10))
    law((split.epistemic >= 0).all(), "a variance is not negative")
    return list(split)


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


def judged(g: Source) -> list[Any]:
    """Diagnostics of a method."""
    trial = PosteriorTrial.run(
        ProgramPrior(g.one(normal, scaled, counts)),
        g.often(g.one("importance", "laplace")),
        n_datasets=g.often(1 + g.size(4)),
        n_context=g.often(1 + g.size(3)),
        n_draws=g.often(1 + g.size(11)),
        seed=g.often(3),
        progress=False,
    )
    check = g.one(sbc, coverage, tarp, importance_efficiency)
    verdict = check(trial)
    p_values = getattr(verdict, "p_values", None)
    return [np.array(list(p_values.values()) if p_values else [verdict.p_value])]


def judged_draws(g: Source) -> list[Any]:
    """Diagnostics of draws from elsewhere."""
    n, m = g.size(12), g.size(10)
    trial = PosteriorTrial({"m": g.tensor(n, broken=0.05)}, {"m": g.tensor(m, n, broken=0.05)})
    way = g.rng.random()
    if way < 0.4:
        return list(g.one(sbc, coverage, tarp)(trial, seed=g.often(0)).p_values.values())
    if way < 0.7:
        other = PosteriorTrial({"m": trial.truth["m"]}, {"m": g.tensor(m, n, broken=0.02)})
        return list(c2st(trial, other, seed=g.often(0), progress=False).p_values.values())
    predictive = PredictiveTrial(g.tensor(n, 1), g.tensor(n, 1), g.tensor(n, 1).abs() % 1)
    if way < 0.85:
        return [log_score(predictive).mean]
    return list(pit(predictive).p_values.values())


def judged_networks(g: Source) -> list[Any]:
    """Diagnostics of predictives."""
    prior = ProgramPrior(g.one(normal, scaled))
    sizes = {"n_datasets": g.often(2), "n_context": g.often(3), "n_query": g.often(2)}
    way = g.rng.random()
    if way < 0.4:
        trial = PredictiveTrial.run(prior, "importance", **sizes, progress=False, n_draws=10)
        return [log_score(trial).mean, *pit(trial).p_values.values()]
    if way < 0.7:
        found = order_sensitivity(prior, "importance", **sizes, n_orders=g.often(2),
                                  progress=False, n_draws=10)  # fmt: skip
        return [found.mean]
    del sizes["n_query"]
    drawn = PosteriorTrial.run(prior, "importance", **sizes, n_draws=10, progress=False)
    if way < 0.9:
        checked = predictive_check(drawn, prior, n_replicates=g.often(5), seed=g.often(0))
        return list(checked.p_values.values())
    return [local_c2st(drawn, n_inspected=g.often(1), n_null=g.often(2), progress=False).p_value]


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
                      random_state=g.often(0))  # fmt: skip
    X = g.array(n, 1) if g.rng.random() < 0.15 else None
    t = g.often(None, np.arange(n), g.vector(n), np.arange(n)[::-1])
    forecaster.fit(y, X, t)
    h = g.often(3)
    future = None if X is None else g.array(3, 1)
    if way < 0.4:
        return [forecaster.sample_paths(h, g.often(2), X=future, random_state=g.often(0))]
    quantiles = forecaster.predict_quantiles(h, g.often([0.01, 0.5, 0.99]), future)
    law((np.diff(quantiles, axis=-1) >= 0).all(), "quantiles ascend")
    return [quantiles]


def symbols(g: Source) -> list[Any]:
    """Chains of symbols."""
    n = g.size(9)
    sequence = g.one("".join(g.one(*"abc") for _ in range(n)), g.vector(n), [g.vector(n)] * 2)
    chain = MarkovChain(order=g.often(g.one(1, (0, 1, 2))), concentration=g.often(1.0),
                        symbols=g.often(None, "abc", "x"), random_state=g.often(0))  # fmt: skip
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


def compared(g: Source) -> list[Any]:
    """Programs compared, and priors compared."""
    x, y = g.rows()
    if g.rng.random() < 0.6:
        shares = g.often(None, {"a": 1.0, "b": 2.0}, {"a": 1.0}, {"a": -1, "b": 1})
        method = g.often("importance", "laplace", "auto")
        found = compare({"a": normal, "b": g.one(scaled, line, normal)}, x, y,
                        prior=shares, method=method, n_draws=g.often(20))  # fmt: skip
        chance = torch.stack(list(found.probabilities.values()))
        law(abs(chance.sum() - 1) < 1e-6, "probabilities sum to one")
        return [chance, *found.log_bayes_factor(g.often("a", "c"), "b", g.often(0.95))]
    grid = g.often([{"m": dist.Normal(0.0, 1.0)}, {"m": dist.Normal(0.0, 3.0)}], [], {}, [None])
    told = prior_sensitivity(scaled, x, y, latent_priors=grid, method="importance",
                             n_components=g.often(2), n_draws=g.often(20))  # fmt: skip
    return [told.distance, *told.posterior.mean.values()]


def parameters(g: Source) -> list[Any]:
    """Parameters fitted by marginal likelihood."""
    x, y = g.rows()
    program, method = g.one((with_parameter, "iwae"), (switched, "exact"), (switched, "mcem"))
    options = {"n_steps": g.often(3)}
    if method == "exact":
        options["n_starts"] = g.often(1)
    start = g.often(None, {"mean": 1.0}, {"share": 2.0}, {"nothing": 1.0}, {"mean": math.nan})
    fitted = fit_parameters(program, x, y, method=g.often(method, "auto", "a"), start=start,
                            seed=g.often(0), **options)  # fmt: skip
    return list(fitted.values.values())


def related(g: Source) -> list[Any]:
    """A prior learned from tasks."""
    tasks = [(None, g.vector(1 + g.size(2), 0.05)) for _ in range(g.often(2, 0, 1))]
    found = learn_latent_prior(normal, tasks, n_components=g.often(1), n_draws=g.often(320),
                               thin=g.often(1), seed=g.often(0))  # fmt: skip
    return [found.mixture.mean]


def crowds(g: Source) -> list[Any]:
    """Answers of several workers."""
    n = g.size(8)
    answers = g.one([g.one("a", "b", "c") for _ in range(n)], g.vector(n, 0.05))
    crowd = TruthInference(g.often(g.one("dawid-skene", "one-coin", "top-two")),
                           n_draws=g.often(8), n_warmup=g.often(2), n_chains=g.often(2),
                           random_state=g.often(0))  # fmt: skip
    workers = g.often([g.size(2) for _ in range(n)], [None] * n, [1])
    classes = g.often(None, ["a", "b", "c", "d"], ["a"], [])
    crowd.fit([g.size(3) for _ in range(n)], workers, answers, classes)
    chance = crowd.predict_proba()
    law(np.allclose(chance.sum(1), 1), "probabilities sum to one")
    return [chance, crowd.worker_skill_, *crowd.worker_skill_interval(g.often(0.9))]


def debiased(g: Source) -> list[Any]:
    """Regression on surrogate labels."""
    n = g.size(30)
    kind = g.often(g.one("mean", "linear", "logistic", "quantile"))
    label = g.vector(n, 0.05)
    gold = [float(g.size(1)) for _ in range(n)] if kind == "logistic" else label
    sampled = [g.size(1) for _ in range(n)]
    X = g.often(g.array(n, 1, broken=0.03), None)
    chance = g.often(0.5, 0.0, 2.0, [0.5] * n, math.nan)
    nuisance = _Naive() if kind == "logistic" else LinearRegression()
    found = debiased_regression(X, label, gold, sampled, chance, kind=kind, q=g.often(0.5),
                                nuisance=nuisance, n_folds=g.often(2), level=g.often(0.95),
                                random_state=g.often(0))  # fmt: skip
    return [found.debiased.estimate, found.debiased.error, found.classical.estimate]


class _Naive(LinearRegression):  # type: ignore[misc]
    """A quick classifier."""

    def predict_proba(self, X: Any) -> Any:
        p = np.clip(self.predict(X), 0.01, 0.99)
        return np.stack([1 - p, p], -1)


def trained(g: Source) -> list[Any]:
    """Trainings of one step, and networks in files."""
    config = TrainingConfig(
        n_steps=g.often(1), n_tasks=g.often(2), n_context=g.often((1, 3)), n_query=g.often(2),
        lr=g.often(1e-3), warmup=g.often(0.05), clip=g.often(1.0), seed=g.often(0),
        optimizer=g.often("adamw", "sgd"),
    )  # fmt: skip
    if g.rng.random() < 0.7:
        return []  # the configuration alone
    prior = g.often(ProgramPrior(scaled, inputs=1), ProgramPrior(normal), None, scaled)
    network = train(prior, g.often("pfn", "dt", "nothing"), config, progress=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net"
        save(network, path)
        again = load(path)
    return [p for p in again.parameters()]


def files(g: Source) -> list[Any]:
    """Estimators in files, damaged or not."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fitted"
        made = g.one(fitted_regressor, fitted_curve)()
        made.save(path)
        victims = sorted(p for p in ([path] if path.is_file() else path.rglob("*")) if p.is_file())
        if g.rng.random() < 0.7:
            victim = g.one(*victims)
            content = bytearray(victim.read_bytes())
            if g.rng.random() < 0.3:
                content = content[: g.rng.randrange(len(content) + 1)]
            else:
                content[g.rng.randrange(len(content))] ^= 1 << g.rng.randrange(8)
            victim.write_bytes(bytes(content))
        return [type(made).load(path).predict([[9.0], [20.0]])]


@cache
def fitted_regressor() -> Any:
    """One that is fitted once."""
    return PFNRegressor("gp-1d").fit([[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])


@cache
def fitted_curve() -> Any:
    """One that is fitted once."""
    return LearningCurveRegressor(horizon=20).fit(None, [0.1, 0.5, 0.6])


# How many inputs of a hundred are of each kind; those that take long are few.
KINDS: dict[Callable[[Source], list[Any]], int] = {
    posterior: 14, batches: 5, states: 4, filters: 8, static_parameters: 1, regression: 8,
    classification: 4, whole_tables: 2, curves: 5, joint: 4, variance_of_programs: 2, bars: 5,
    mixtures: 4, judged: 2, judged_draws: 4, judged_networks: 1, priors: 4, forecasts: 5,
    symbols: 4, components: 2, chains: 5, sequences: 3, compared: 2, parameters: 1, related: 1,
    crowds: 3, debiased: 3, trained: 2, files: 2,
}  # fmt: skip
ORDER = [kind for kind, n in KINDS.items() for _ in range(n)]
random.Random(0).shuffle(ORDER)


def random_states() -> list[Any]:
    """The global random states that no call may change."""
    return [torch.get_rng_state(), np.random.get_state()[1], random.getstate()[1]]  # type: ignore[index]


def equal(a: Any, b: Any) -> bool:
    """Whether two arrays are the same to the bit, mask and dtype included."""
    if isinstance(a, np.ma.MaskedArray):
        return np.array_equal(a.mask, b.mask) and equal(a.data, b.data)
    x, y = np.asarray(a), np.asarray(b)
    if x.dtype == object or x.shape != y.shape:
        return repr(a) == repr(b)
    return x.dtype == y.dtype and x.tobytes() == y.tobytes()


class Hang(BaseException):
    """An input that takes longer than anyone waits."""


@contextmanager
def limited(seconds: float) -> Any:
    """Interrupts what takes too many CPU seconds."""

    def stop(*_: Any) -> None:
        raise Hang(f"more than {seconds:g} CPU seconds")

    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def outcome(kind: Callable[[Source], list[Any]], seed: int) -> str:
    """What a generated call comes to, in a word; raises what nobody should see."""
    source = Source(seed)
    torch.manual_seed(seed)
    before = random_states()
    result, answers = "answered", []
    with warnings.catch_warnings(), limited(10.0):
        warnings.simplefilter("ignore")
        try:
            answers = kind(source)
        except (ValueError, TypeError) as reason:
            if not SAYS_WHAT.search(str(reason)):
                raise
            result = "refused"
    assert all(equal(*pair) for pair in zip(before, random_states(), strict=True)), "random state"
    assert all(equal(*pair) for pair in source.made), "the caller's arrays changed"
    for i, value in enumerate(answers):
        value = value.detach() if isinstance(value, torch.Tensor) else value
        numbers = np.asarray(value, dtype=np.float64)
        assert np.isfinite(numbers).all(), f"not finite: answer {i}, {numbers.ravel()[:5]}"
    return result


def main() -> None:
    """Prints each failure with its kind and seed, and a table of all calls."""
    first, last, *names = sys.argv[1:]
    chosen = [kind for kind in KINDS if kind.__name__ in names]
    found: Counter[tuple[str, str]] = Counter()
    seconds: Counter[str] = Counter()
    for seed in range(int(first), int(last)):
        kind = chosen[seed % len(chosen)] if chosen else ORDER[seed % len(ORDER)]
        began = time.process_time()
        try:
            result = outcome(kind, seed)
        except KeyboardInterrupt:
            break
        except BaseException as reason:
            result = "failed"
            line = str(reason).strip().split("\n")[0][:200]
            print(f"FAILED {kind.__name__} {seed}: {type(reason).__name__}: {line}", flush=True)
        found[kind.__name__, result] += 1
        seconds[kind.__name__] += time.process_time() - began
        if (seed + 1) % 500 == 0:
            print(f"to {seed + 1}: {time.process_time():.0f} CPU s", flush=True)
    print(f"{'call':>22}{'inputs':>8}{'refused':>9}{'answered':>10}{'failed':>8}{'CPU s':>8}")
    for name in [*seconds, "all"]:
        of = [sum(n for (k, r), n in found.items() if name in (k, "all") and r == result)
              for result in ("refused", "answered", "failed")]  # fmt: skip
        spent = sum(seconds.values()) if name == "all" else seconds[name]
        print(f"{name:>22}{sum(of):>8}{of[0]:>9}{of[1]:>10}{of[2]:>8}{spent:>8.0f}")


if __name__ == "__main__":
    main()
