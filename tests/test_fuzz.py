"""Generated inputs to every kind of public call: a finite answer, or an error that says what to do.

python tests/test_fuzz.py 20000    # a long run: prints what is neither, and how to have it again
"""

import random
import sys
import time
import warnings
from collections import Counter

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    EarlyStopping,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    infer,
    load,
)
from amortized.diagnostics import PosteriorTrial, coverage, sbc, tarp
from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders
from amortized.priors import ProgramPrior
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.uncertainty import joint_log_prob, joint_sample, martingale_posterior

NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 1e3, 1e-30, 1e-310, 1e9, -1e9, 1e30, 1e200]
BROKEN = [np.nan, np.inf, -np.inf]


def normal(x, y=None):
    mean = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def scaled(x, y=None):
    mean = pyro.sample("m", dist.Normal(0.0, 3.0))
    noise = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)


def counts(x, y=None):
    rate = pyro.sample("m", dist.Gamma(2.0, 1.0))
    return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)


def shares(x, y=None):
    a = pyro.sample("m", dist.Uniform(0.5, 4.0))
    return pyro.sample("y", dist.Beta(a, 2.0).expand([len(x)]).to_event(1), obs=y)


PROGRAMS = [normal, scaled, counts, shares]
METHODS = {
    "exact": {},
    "auto": {},
    "smc": {},
    "laplace": {},
    "importance": {},
    "vi": {"n_steps": 5},
    "nuts": {"n_warmup": 4, "n_chains": 2},
    "hmc": {},
}


def vector(rng, n, broken=0.1):
    """Numbers, mostly ordinary; some huge, tiny, equal or missing; of any type of array."""
    kind = rng.random()
    if kind < 0.6:
        values = [rng.gauss(0, 1) for _ in range(n)]
    elif kind < 0.8:
        values = [float(rng.randrange(4)) for _ in range(n)]
    else:
        values = [rng.choice(NUMBERS) for _ in range(n)]
    if n and rng.random() < broken:
        values[rng.randrange(n)] = rng.choice(BROKEN)
    if rng.random() < 0.1:
        return np.ma.array(values, mask=[rng.random() < 0.2 for _ in range(n)])
    made = rng.choice([list, np.array, np.float32, torch.tensor, torch.tensor, np.array])
    with np.errstate(all="ignore"):
        return made(values)


def table(rng, n, d):
    columns = [np.asarray(vector(rng, n, 0.05), dtype=np.float64) for _ in range(d)]
    return np.stack(columns, 1) if d else np.zeros((n, 0))


def posterior(rng):
    method = rng.choice(list(METHODS))
    y = vector(rng, rng.randrange(5))
    answer = infer(rng.choice(PROGRAMS), y, method=method, n_draws=8, seed=1, **METHODS[method])
    predictive = answer.predictive(np.zeros((2, 0)))
    level = rng.choice([1e-300, 1e-9, 0.3, 1 - 1e-12])
    return method, [*answer.mean.values(), predictive.mean, predictive.icdf(np.array(level))]


def states(rng):
    d = rng.choice([1, 2])
    eye, size = torch.eye(d), rng.choice([1e-6, 0.1, 1.0, 1e6])
    model = LinearGaussianModel(eye, size * eye, eye, eye, torch.zeros(d), eye)
    series = [vector(rng, d, 0.2) for _ in range(rng.randrange(4))]
    method = rng.choice(["auto", "particle"])
    options = {} if method == "auto" else {"method": "particle", "n_particles": 50}
    answer = infer(model, np.array([np.ma.filled(row, np.nan) for row in series]), **options)
    return f"states {method}", list(answer.mean.values())


def regression(rng):
    n, d = rng.randrange(7), rng.randrange(3)
    X, y = table(rng, n, d), vector(rng, n)
    made = rng.choice(
        [
            lambda: PFNRegressor("gp"),
            lambda: PFNRegressor("gp-1d"),
            lambda: PFNRegressor("tabular-regressor", n_estimators=1),
            lambda: BayesianRegressor(method="exact", n_draws=8, random_state=0),
        ]
    )()
    levels = rng.choice([[0.5], [1e-12, 0.5], [0.1, 0.9999999]])
    fitted = made.fit(X, y)
    mean, sd = fitted.predict(X, return_std=True)
    return type(made).__name__, [mean, sd, fitted.predict_quantiles(X, levels)]


def classification(rng):
    n, d = rng.randrange(7), rng.randrange(3)
    X = table(rng, n, d)
    y = rng.choice([vector(rng, n), [rng.choice("ab") for _ in range(n)], [True, False] * n])
    made = rng.choice(
        [
            lambda: PFNClassifier(n_estimators=1),
            lambda: BayesianClassifier(method="laplace", n_draws=8, random_state=0),
        ]
    )()
    return type(made).__name__, [made.fit(X, y).predict_proba(X)]


def curves(rng):
    n = rng.randrange(1, 6)
    low, high = rng.choice([(0.0, 1.0), (0.0, np.inf), (-np.inf, np.inf)])
    curve = LearningCurveRegressor(horizon=20, low=low, high=high)
    if rng.random() < 0.5:
        stopping = EarlyStopping(curve)
        for value in vector(rng, n):
            stopping.update(value)
        return "EarlyStopping", [np.zeros(1)]
    fitted = curve.fit(np.arange(1, n + 1), vector(rng, n))
    return "LearningCurveRegressor", [
        fitted.predict([9, 20]),
        fitted.predict_quantiles([9], [0.01]),
    ]


def joint(rng):
    n = rng.randrange(5)
    y = np.ma.filled(np.ma.asarray(np.asarray(vector(rng, n), dtype=np.float64)), np.nan)
    x = table(rng, n, 1)
    network = load("gp-1d")
    if rng.random() < 0.3:
        return "joint_log_prob", [joint_log_prob(network, x[None], y[None], x[None], y[None])]
    if rng.random() < 0.5:
        return "joint_sample", [joint_sample(network, x[None], y[None], x[None], 2)]
    mean = martingale_posterior(network, x, y, lambda x, y: y.mean(1), n_draws=2, n_future=2)
    return "martingale", [mean]


def bars(rng):
    n = rng.randrange(3, 8)
    borders = torch.as_tensor(np.sort(np.asarray(vector(rng, n + 1, 0.05), dtype=np.float64)))
    if rng.random() < 0.3:
        borders = equal_mass_borders(borders.repeat(9) + torch.rand(9 * (n + 1)), n)
        n = len(borders) - 1
    law = BarDistribution(torch.randn(n, dtype=torch.float64), borders)
    y = torch.tensor(rng.choice([0.0, 1.0, -7.0, 1e9]), dtype=torch.float64)
    if borders.abs().max() > 1e150:  # squares of such numbers are infinite
        return "bars", [law.cdf(y), law.icdf(torch.tensor(0.2))]
    within = law.icdf(law.cdf(y)).clamp(-1e300, 1e300)
    return "bars", [law.mean, law.variance, law.entropy(), law.crps(y), law.cdf(y), within]


def judged(rng):
    found = PosteriorTrial.run(
        ProgramPrior(rng.choice(PROGRAMS)),
        rng.choice(["importance", "laplace"]),
        n_datasets=rng.randrange(1, 5),
        n_context=rng.randrange(1, 4),
        n_draws=rng.randrange(1, 12),
        seed=rng.randrange(9),
        progress=False,
    )
    verdict = rng.choice([sbc, coverage, tarp])(found)
    return "diagnostics", [np.array(list(verdict.p_values.values()))]


KINDS = [posterior, states, regression, classification, curves, joint, bars, judged]


def outcome(kind, seed):
    """What a generated call comes to, in a word; raises what nobody should see."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            name, values = kind(random.Random(seed))
        except (ValueError, TypeError) as reason:
            assert str(reason), "an error without a word"
            return "refused"
    for value in values:
        value = value.detach() if hasattr(value, "detach") else value
        assert np.isfinite(np.asarray(value)).all(), name
    return "answered"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_answer_or_an_error_that_helps(kind, no_shape_checks):
    found = Counter(outcome(kind, seed) for seed in range(12))
    assert found["answered"] > 0


def main(n):
    found = Counter()
    for seed in range(n):
        kind = KINDS[seed % len(KINDS)]
        began = time.monotonic()
        try:
            found[kind.__name__, outcome(kind, seed)] += 1
        except BaseException as reason:
            found[kind.__name__, "WRONG"] += 1
            print(kind.__name__, seed, type(reason).__name__, str(reason)[:200], flush=True)
            if isinstance(reason, KeyboardInterrupt):
                break
        if time.monotonic() - began > 20:
            print(kind.__name__, seed, f"{time.monotonic() - began:.0f} s", flush=True)
    for key, count in sorted(found.items()):
        print(*key, count)


if __name__ == "__main__":
    main(int(sys.argv[1]))
