"""`infer` by every method, its answers, comparisons, fitted parameters and learned priors."""

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

from amortized import (
    Posterior,
    compare,
    fit_parameters,
    infer,
)
from amortized.hierarchy import learn_latent_prior
from amortized.infer.prior_sensitivity import prior_sensitivity
from amortized.uncertainty import (
    split_by_posterior,
)
from fuzz_calls.programs import PROGRAMS, line, normal, scaled, switched, with_parameter
from fuzz_calls.source import Source, law

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
    "surrogate": {"most_calls": 200},  # its rounds end at as many calls
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


def variance_of_programs(g: Source) -> list[Any]:
    """Noise and uncertainty of a program."""
    n = 1 + g.size(3)
    x, y = g.array(n, 1), g.vector(n)
    found = infer(scaled, x, y, method="importance", n_draws=20)
    split = split_by_posterior(scaled, found, g.array(2, 1), x, y, n_draws=g.often(10))
    law((split.epistemic >= 0).all(), "a variance is not negative")
    return list(split)


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


KINDS = {posterior: 14, batches: 5, variance_of_programs: 2, compared: 2, parameters: 1, related: 1}
