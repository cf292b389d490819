"""How often each diagnostic cries wolf, and how often it sees the wolf.

Prints one table: for every diagnostic the share of alarms at level 0.05 on exact answers, and on
answers that are 20% too narrow, shifted by half a standard deviation, or half of two modes. All
answers are normals or pairs of normals in closed form, so that a repetition costs milliseconds.

    python benchmarks/diagnostics.py [--repetitions 200] [--datasets 1000]

C2ST compares 1,000 draws of one dataset with as many exact ones; the rest sees that many datasets
with 100 draws each. "neighbours" is highest-density coverage without a density, on 200 datasets.
"""

import argparse
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

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
from amortized.priors import ProgramPrior, TaskBatch
from amortized.priors.regression.linear_regression import LinearRegressionPrior

FAULTS = ("exact", "narrow", "shifted", "one mode")
ALARM = 0.05


class Problem:
    """``z ~ N(0, 1)``, ``y ~ N(z, 1)`` and ``theta = z``, or ``z`` plus or minus 2 at random.

    So z given y is N(y / 2, 1 / 2), and theta one such normal or an even pair of them.
    """

    def __init__(self, n_datasets: int, modes: bool, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        z = self.rng.normal(size=n_datasets)
        self.y = z + self.rng.normal(size=n_datasets)
        self.modes = modes
        self.theta = z + 2 * modes * self.rng.choice([-1, 1], size=n_datasets)

    def answer(self, fault: str) -> Distribution:
        """The posterior of theta with a fault, of batch shape (datasets,)."""
        scale = np.sqrt(0.5)
        mean = torch.as_tensor(self.y / 2 + 0.5 * scale * (fault == "shifted"))
        scale *= 0.8 if fault == "narrow" else 1.0
        if not self.modes:
            return Normal(mean, scale)
        middle = torch.stack([mean - 2, mean + 2], -1)
        weights = torch.tensor([0.0, 1.0] if fault == "one mode" else [0.5, 0.5])
        return MixtureSameFamily(
            Categorical(weights.double().expand(len(mean), 2)), Normal(middle, scale)
        )

    def trial(self, fault: str, n_draws: int = 100, density: bool = True) -> PosteriorTrial:
        """The answer's draws, beside the truth."""
        torch.manual_seed(int(self.rng.integers(2**31)))
        answer, theta = self.answer(fault), torch.as_tensor(self.theta)
        draws = answer.sample((n_draws,))
        return PosteriorTrial(
            {"theta": theta},
            {"theta": draws},
            method=fault,
            log_prob_truth=answer.log_prob(theta) if density else None,
            log_prob_draws=answer.log_prob(draws) if density else None,
            log_density_draws=self.answer("exact").log_prob(draws),
            x=torch.zeros(len(theta), 1, 0, dtype=torch.float64),
            y=torch.as_tensor(self.y)[:, None],
        )

    def predictive_trial(self, fault: str) -> PredictiveTrial:
        """The answer as a predictive of theta, which stands for a held-out answer."""
        answer, theta = self.answer(fault), torch.as_tensor(self.theta)[:, None]
        log_prob, cdf = answer.log_prob(theta[:, 0]), answer.cdf(theta[:, 0])
        return PredictiveTrial(theta, log_prob[:, None], cdf[:, None])


def _of_trial(test: Callable[..., float], **options: bool) -> Callable[..., float]:
    def p_value(fault: str, modes: bool, n: int, seed: int) -> float:
        return test(Problem(n, modes, seed).trial(fault, **options))

    return p_value


def _c2st(fault: str, modes: bool, n: int, seed: int) -> float:
    problem = Problem(1, modes, seed)
    trials = problem.trial(fault, n_draws=1000), problem.trial("exact", n_draws=1000)
    return c2st(*trials, seed=seed, progress=False).p_value


def _neighbours(fault: str, modes: bool, n: int, seed: int) -> float:
    trial = Problem(200, modes, seed).trial(fault, density=False)
    return coverage(trial, "highest").p_value


def _pit(fault: str, modes: bool, n: int, seed: int) -> float:
    return pit(Problem(n, modes, seed).predictive_trial(fault)).p_value


def _log_score(fault: str, modes: bool, n: int, seed: int) -> float:
    problem = Problem(n, modes, seed)
    oracle = problem.predictive_trial("exact")
    return log_score(problem.predictive_trial(fault), oracle).p_value


def _program(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The problem with one mode, as a program."""
    import pyro
    import pyro.distributions as dist

    theta = pyro.sample("theta", dist.Normal(x.new_zeros(()), 1.0))
    return pyro.sample("y", dist.Normal(theta, 1.0).expand([len(x)]).to_event(1), obs=y)


def _predictive_check(fault: str, modes: bool, n: int, seed: int) -> float:
    if (
        modes
    ):  # data of one row cannot tell the modes apart: a program of one mode has no such check
        return float("nan")
    trial = Problem(n, modes, seed).trial(fault)
    statistic = {"y": lambda x, y: y[:, 0]}
    return predictive_check(trial, ProgramPrior(_program), statistic, seed=seed).p_value


def _order(fault: str, modes: bool, n: int, seed: int) -> float:
    """Its fault is another: the answer forgets the first row, or looks at it alone, or is noisy."""
    prior = LinearRegressionPrior(1)

    def method(batch: TaskBatch) -> Distribution:
        exact = prior.posterior_predictive(batch)
        noise = 0.1 * torch.randn(batch.n_tasks, 1)
        moved = 0.1 * batch.y_context[:, :1] if fault == "shifted" else 0.0
        return Normal(exact.mean + noise + moved, exact.stddev)

    if modes or fault == "narrow":
        return float("nan")
    size = {"n_datasets": min(n, 200), "n_orders": 2, "progress": False}
    return order_sensitivity(prior, method, seed=seed, **size).p_value


DIAGNOSTICS: dict[str, Callable[..., float]] = {
    "SBC": _of_trial(lambda trial: sbc(trial).p_value),
    "central coverage": _of_trial(lambda trial: coverage(trial).p_value),
    "highest-density coverage": _of_trial(lambda trial: coverage(trial, "highest").p_value),
    "neighbours": _neighbours,
    "TARP": _of_trial(lambda trial: tarp(trial).p_value),
    "PIT": _pit,
    "C2ST": _c2st,
    "local C2ST": _of_trial(lambda trial: local_c2st(trial, n_inspected=0, progress=False).p_value),
    "log score, gap to oracle": _log_score,
    "importance efficiency": _of_trial(lambda trial: importance_efficiency(trial).p_value),
    "predictive check": _predictive_check,
    "order of context": _order,
}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=200)
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    columns = ("exact", "exact pair", *FAULTS[1:])
    print(f"{'share of alarms':>26}" + "".join(f"{c:>12}" for c in columns) + f"{'s':>8}")
    for name, p_value in DIAGNOSTICS.items():
        if arguments.only not in name:
            continue
        began, shares = time.perf_counter(), []
        for column in columns:
            fault, modes = column.split(" pair")[0], column in ("exact pair", "one mode")
            p = [
                p_value(fault, modes, arguments.datasets, seed)
                for seed in range(arguments.repetitions)
            ]
            shares.append(np.mean(np.array(p) < ALARM) if np.isfinite(p).all() else np.nan)
        cells = "".join(f"{share:12.3f}" for share in shares)
        print(f"{name:>26}{cells}{time.perf_counter() - began:8.0f}", flush=True)


if __name__ == "__main__":
    main()
