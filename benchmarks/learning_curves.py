"""Learning curves: one forward pass against SMC, NUTS, emcee, a power law and the last value.

Prints three tables, or those of ``--tables``.

1. On whole curves of the prior ``learning-curve``, known up to 10, 20, 40 and 80% of their steps:
   the mean log-likelihood of all later values, beside emcee with the published settings (see
   ``curve_baselines``). On the first of them also the gaps to the exact answer: importance
   sampling from millions of prior curves (``curve_oracle``), and where too few of them resemble
   the curve this project's SMC, four independent runs a curve: R-hat is that of the curve's end
   over the runs, and the log evidence has the runs' standard deviation.
2. Seconds a curve, CPU time on the threads given: one curve alone, and 1,000 at once. emcee is
   timed as published, one walker after the other, and with all its walkers at once.
3. On LCDB's curves of accuracy against training size (``lcdb_extract``), which no network has seen;
   priors and rules were chosen on the half of its datasets that is not judged on:
   log-likelihood of all later values, absolute error and 90% coverage at the last one. The last
   value and the power law answer with a normal distribution of the spread that their errors have
   on the other half of the datasets, at the same cut-off. Then trainings of all learners, one after
   the other, on each dataset, stopped by ``EarlyStopping``'s rule, for both halves.

    python benchmarks/learning_curves.py --curves 100 --exact 16 --real 300

The answers of all but the network take hours (``curve_references``); they are kept in
``--references`` and reused.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve_baselines import EmceeCurve
from curve_references import (
    CUTOFFS,
    ENOUGH,
    SEED,
    Kept,
    curve_prior,
    exact,
    prior_curves,
    references,
)
from real_curves import early_stopping_table, real_table

from amortized import LearningCurveRegressor, load
from amortized.networks import PFN

TABLES = ("prior", "speed", "real")


def network_log_likelihoods(network: PFN, curves: torch.Tensor, cutoff: int) -> np.ndarray:
    """Mean log-likelihood of each curve's later values by the network."""
    prior = curve_prior()
    x = prior.features(torch.arange(1.0, curves.shape[1] + 1)).expand(len(curves), -1, 1)
    scores = []
    for at, y in zip(x.split(50), curves.float().split(50), strict=True):
        with torch.inference_mode():
            predictive = network(at[:, :cutoff], y[:, :cutoff], at[:, cutoff:])
        scores.append(predictive.log_prob(y[:, cutoff:]).mean(-1))
    return torch.cat(scores).double().numpy()


def prior_table(model: str, kept: Kept, n_curves: int, n_exact: int) -> None:
    """The first table."""
    network = load(model)
    print(
        f"{'':>6} | {'all curves':^38} | {'those with an exact answer':^42} | SMC and others\n"
        f"{'known':>6} | {'number':>6} {'network':>8} {'emcee':>7} {'ahead':>7} {'+-':>6} | "
        f"{'number':>6} {'exact':>7} {'gap':>7} {'+-':>6} {'of emcee':>8} {'+-':>6} | "
        f"{'curves':>6} {'R-hat':>6} {'evid. sd':>8} {'IS-SMC':>7} {'NUTS-SMC':>9}"
    )
    for cutoff in CUTOFFS:
        ours = network_log_likelihoods(network, prior_curves(n_curves), cutoff)
        mcmc = np.array([kept[f"emcee/{cutoff}/{i}"]["ll"] for i in range(n_curves)])
        best = np.array([exact(kept, cutoff, i) for i in range(n_exact)])
        smc = [value for key, value in kept.items() if key.startswith(f"smc/{cutoff}/")]
        print(
            f"{cutoff:5d}% | {n_curves:6d} {ours.mean():8.3f} {mcmc.mean():7.3f} "
            f"{with_error(ours - mcmc)} | {n_exact:6d} {best.mean():7.3f} "
            f"{with_error(best - ours[:n_exact])}  {with_error(best - mcmc[:n_exact])} | "
            f"{len(smc):6d} {max(answer['r_hat'] for answer in smc):6.3f} "
            f"{np.mean([answer['evidence_sd'] for answer in smc]):8.3f} "
            f"{differences(kept, 'sampled', 'smc', cutoff):7.3f} "
            f"{differences(kept, 'nuts', 'smc', cutoff):9.3f}"
        )


def differences(kept: Kept, one: str, other: str, cutoff: int) -> float:
    """Mean difference of two methods over the curves that both answered."""
    found = [
        kept[key]["ll"] - kept[key.replace(one, other, 1)]["ll"]
        for key in kept
        if key.startswith(f"{one}/{cutoff}/") and key.replace(one, other, 1) in kept
        if one != "sampled" or kept[key]["ess"] > ENOUGH
    ]
    return float(np.mean(found)) if found else np.nan


def with_error(differences: np.ndarray) -> str:
    """A mean and its standard error."""
    return f"{differences.mean():7.3f} {differences.std(ddof=1) / len(differences) ** 0.5:6.3f}"


def seconds_of(function: Callable[[], Any], n: int) -> float:
    """Median CPU seconds of a call, after one to warm up."""
    function()
    seconds = []
    for _ in range(n):
        began = time.process_time()
        function()
        seconds.append(time.process_time() - began)
    return float(np.median(seconds))


def speed_table(model: str) -> None:
    """The second table."""
    prior = curve_prior()
    curves = prior.whole_curves(1000, seed=SEED).clamp(0, 1).double().numpy()[:, :40]
    later, fitted = np.arange(41.0, 101), LearningCurveRegressor(load(model))
    # Bars are normalised where they are first read: an answer is one whose masses have been.
    one = seconds_of(lambda: fitted.fit(None, curves[0]).predict_distribution(later).log_masses, 20)
    ends = seconds_of(lambda: fitted.fit(None, curves).predict_distribution([100.0]).log_masses, 3)
    batch = seconds_of(lambda: [p.log_masses for p in fitted.fit(None, curves)._answers(later)], 1)
    draws = seconds_of(lambda: prior.whole_curves(20_000, seed=1), 3)
    curve = EmceeCurve(prior, np.arange(1.0, 41), curves[0])
    began = time.process_time()
    curve.draws(0, vectorised=True)
    middle = time.process_time()
    curve.draws(0, vectorised=False)
    together, single = middle - began, time.process_time() - middle
    print(
        f"\n40 known steps, 60 asked: network {1e3 * one:.1f} ms alone, {batch:.3f} ms in a "
        f"batch of 1,000 ({ends:.2f} s for all their ends); emcee {single:.1f} s as published, "
        f"{together:.1f} s vectorised: {single / one:,.0f} ({together / one:,.0f}) times slower "
        f"singly, {1e3 * single / batch:,.0f} ({1e3 * together / batch:,.0f}) in batches; "
        f"the sampler draws {20_000 / draws:,.0f} curves a second"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="learning-curve", help="a name or a folder")
    parser.add_argument("--curves", type=int, default=100, help="curves of the first table")
    parser.add_argument("--exact", type=int, default=16, help="those with an exact answer")
    parser.add_argument("--smc", type=int, default=3, help="curves that SMC answers anyway")
    parser.add_argument("--nuts", type=int, default=1, help="curves that NUTS answers")
    parser.add_argument(
        "--real-models",
        nargs="+",
        default=["learning-curve-discrepancy", "learning-curve"],
        help="for the third table; the first stops trainings",
    )
    parser.add_argument("--real", type=int, default=300, help="curves of LCDB")
    parser.add_argument("--real-emcee", type=int, default=30, help="of them answered by emcee")
    parser.add_argument(
        "--datasets", type=int, default=60, help="of each half, in the stopping table"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--references", type=Path, default=Path("runs/learning_curve_references.pt")
    )
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "prior" in arguments.tables:
        numbers = arguments.curves, arguments.exact, arguments.smc, arguments.nuts
        kept = references(arguments.references, *numbers)
        prior_table(arguments.model, kept, arguments.curves, arguments.exact)
    if "speed" in arguments.tables:
        speed_table(arguments.model)
    if "real" in arguments.tables:
        real_table(arguments.real_models, arguments.real, arguments.real_emcee)
        early_stopping_table(arguments.real_models[0], arguments.datasets)


if __name__ == "__main__":
    main()
