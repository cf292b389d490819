"""Estimators: tables, curves, crowds, surrogate labels, and what they keep in files."""

import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LinearRegression

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    EarlyStopping,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    load,
    save,
)
from amortized.crowds import TruthInference
from amortized.debiased import debiased_regression
from amortized.estimators import (
    PFNDensity,
    PFNImputer,
    predict_tables,
    shapley_values,
    survivors,
)
from amortized.priors import (
    ProgramPrior,
)
from amortized.training import TrainingConfig, train
from amortized.uncertainty import (
    ConformalRegressor,
)
from fuzz_calls.programs import line, normal, scaled
from fuzz_calls.source import Source, law


def regression(g: Source) -> list[Any]:
    """Regressors: fit, and every way to predict."""
    n, d = g.size(6), g.size(2)
    X, y = g.table(n, d), g.vector(g.often(n, n + 1))
    made = g.one(
        lambda: PFNRegressor("gp"),
        lambda: PFNRegressor("gp-1d"),
        lambda: PFNRegressor("tabular-regressor", n_estimators=g.often(1)),
        lambda: BayesianRegressor(method="exact", n_draws=g.often(8), random_state=g.seed()),
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
        return [mean, sd, fitted.sample_y(X, g.often(2), random_state=g.seed())]
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
        lambda: BayesianClassifier(method="laplace", n_draws=g.often(8), random_state=g.seed()),
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
        return [PFNDensity(n_orders=1).fit(X).sample(g.often(2), random_state=g.seed())]
    if way < 0.6:
        filled = PFNImputer(n_estimators=g.often(1)).fit(X).transform(X)
        return [] if X.dtype == object else [filled]
    if way < 0.8:
        fitted = PFNRegressor("gp").fit(X, g.vector(n))
        values = shapley_values(fitted, X[:1], n_permutations=g.often(2), random_state=g.seed())
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


def crowds(g: Source) -> list[Any]:
    """Answers of several workers."""
    n = g.size(8)
    answers = g.one([g.one("a", "b", "c") for _ in range(n)], g.vector(n, 0.05))
    crowd = TruthInference(g.often(g.one("dawid-skene", "one-coin", "top-two")),
                           n_draws=g.often(8), n_warmup=g.often(2), n_chains=g.often(2),
                           random_state=g.seed())  # fmt: skip
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
                                random_state=g.seed())  # fmt: skip
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


KINDS = {
    regression: 8,
    classification: 4,
    whole_tables: 2,
    curves: 5,
    crowds: 3,
    debiased: 3,
    trained: 2,
    files: 2,
}
