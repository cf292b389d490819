"""Learning curves: one forward pass against SMC, NUTS, emcee, a power law and the last value.

Prints four tables, or those of ``--tables``.

1. On whole curves of the prior ``learning-curve``, known up to 10, 20, 40 and 80% of their steps:
   the mean log-likelihood of all later values. The exact answer is that of importance sampling
   from millions of prior curves (``curve_oracle``), and where too few of them resemble the curve
   that of this project's SMC, four independent runs a curve: R-hat is that of the curve's end
   over the runs, and the log evidence has the runs' standard deviation. SMC and NUTS also answer
   the first curves. emcee runs with the published settings (see ``curve_baselines``).
2. The network against that importance sampling on three times as many curves, and on the first of
   them the gaps of both the network and emcee: minutes.
3. Seconds a curve, CPU time on the threads given: one curve alone, and 1,000 at once. emcee is
   timed as published, one walker after the other, and with all its walkers at once.
4. On LCDB's curves of accuracy against training size (``lcdb_extract``), which no network has seen;
   priors and rules were chosen on the half of its datasets that is not judged on:
   log-likelihood of all later values, absolute error and 90% coverage at the last one. The last
   value and the power law answer with a normal distribution of the spread that their errors have
   on the other half of the datasets, at the same cut-off. Then trainings of all learners, one after
   the other, on each dataset, stopped by ``EarlyStopping``'s rule, for both halves.

    python benchmarks/learning_curves.py --curves 16 --real 300

The answers of SMC, NUTS and emcee take minutes a curve and do not depend on the network; they are
kept in ``--references`` and reused.
"""

import argparse
import itertools
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve_baselines import EmceeCurve, log_likelihood
from curve_oracle import exact_log_likelihoods
from real_curves import early_stopping_table, real_table

from amortized import LearningCurveRegressor, infer, load
from amortized.networks import PFN
from amortized.priors import LearningCurvePrior, named_prior
from amortized.sampling.convergence import r_hat

CUTOFFS = (10, 20, 40, 80)
N_RUNS, N_PARTICLES, N_SMC, N_NUTS = 4, 1024, 3, 1
N_SAMPLED, ENOUGH = 5_000_000, 200  # prior curves, and effective ones to be compared with
TABLES = ("sampled", "prior", "speed", "real")
SEED = 10**7


def smc_answer(prior: LearningCurvePrior, y: torch.Tensor, cutoff: int) -> dict[str, float]:
    """Mean log-likelihood by SMC, with its R-hat over runs, the evidence and its spread."""
    x = prior.features(torch.arange(1, prior.n_steps + 1, dtype=torch.float64))
    began, runs = time.process_time(), []
    for seed in range(N_RUNS):
        runs.append(
            infer(
                prior,
                x[:cutoff],
                y[:cutoff],
                method="smc",
                n_draws=N_PARTICLES,
                n_particles=N_PARTICLES,
                start="prior",
                seed=seed,
            )
        )
    ends = torch.stack([prior.curve(torch.tensor([100.0]), run.draws) for run in runs])
    evidence = torch.tensor([float(run.log_evidence) for run in runs])
    latents = {name: torch.cat([run.draws[name] for run in runs]) for name in runs[0].names}
    steps = np.arange(cutoff + 1.0, prior.n_steps + 1)
    each = [log_likelihood(prior, run.draws, steps, y[cutoff:].numpy()).mean() for run in runs]
    return {
        "ll": float(log_likelihood(prior, latents, steps, y[cutoff:].numpy()).mean()),
        "ll_sd": float(np.std(each, ddof=1)),
        "r_hat": float(r_hat(ends).max()),
        "evidence": float(evidence.mean() - np.log(prior.acceptance())),
        "evidence_sd": float(evidence.std()),
        "seconds": (time.process_time() - began) / N_RUNS,
    }


def nuts_answer(prior: LearningCurvePrior, y: torch.Tensor, cutoff: int) -> dict[str, float]:
    """Mean log-likelihood by NUTS, and its R-hat."""
    x = prior.features(torch.arange(1, prior.n_steps + 1, dtype=torch.float64))
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = infer(
            prior,
            x[:cutoff],
            y[:cutoff],
            method="nuts",
            n_chains=2,
            n_warmup=1000,
            n_draws=2000,
            target_accept=0.95,
        )
    steps = np.arange(cutoff + 1.0, prior.n_steps + 1)
    return {
        "ll": float(log_likelihood(prior, posterior.draws, steps, y[cutoff:].numpy()).mean()),
        "r_hat": float(posterior.diagnostics["r_hat"]),
        "divergences": float(posterior.diagnostics["divergences"]),
        "seconds": time.process_time() - began,
    }


def emcee_answer(prior: LearningCurvePrior, y: torch.Tensor, cutoff: int) -> dict[str, float]:
    """Mean log-likelihood by emcee, its walkers evaluated at once."""
    steps = np.arange(1.0, prior.n_steps + 1)
    began = time.process_time()
    curve = EmceeCurve(prior, steps[:cutoff], y[:cutoff].numpy())
    draws = curve.draws(0, vectorised=True)
    ll = log_likelihood(prior, draws, steps[cutoff:], y[cutoff:].numpy()).mean()
    return {"ll": float(ll), "seconds": time.process_time() - began}


def sampled_answer(prior: LearningCurvePrior, y: torch.Tensor, cutoff: int) -> dict[str, float]:
    """Mean log-likelihood by importance sampling from the prior, which has nothing to converge."""
    began = time.process_time()
    ll, evidence, ess = exact_log_likelihoods(prior, y[None], cutoff, N_SAMPLED)
    return {
        "ll": ll.item(),
        "evidence": evidence.item(),
        "ess": ess.item(),
        "seconds": time.process_time() - began,
    }


def references(path: Path, n_curves: int, n_smc: int, n_nuts: int) -> dict[str, dict[str, float]]:
    """Answers to every curve and cut-off, kept in a file as they come.

    SMC answers the first curves, and those that too few curves of the prior resemble.
    """
    kept: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {}
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    methods: dict[str, Callable[..., dict[str, float]]] = {
        "emcee": emcee_answer,
        "sampled": sampled_answer,
        "smc": smc_answer,
        "nuts": nuts_answer,
    }
    for number, y in enumerate(prior_curves(n_curves)):
        for cutoff, method in itertools.product(CUTOFFS, methods):
            key = f"{method}/{cutoff}/{number}"
            enough = method == "smc" and kept[f"sampled/{cutoff}/{number}"]["ess"] > ENOUGH
            if (
                key in kept
                or (enough and number >= n_smc)
                or (method == "nuts" and number >= n_nuts)
            ):
                continue
            kept[key] = methods[method](prior, y, cutoff)
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(kept, path)
            print(key, {k: round(v, 3) for k, v in kept[key].items()}, flush=True)
    return kept


def prior_curves(n: int) -> torch.Tensor:
    """The curves of the first table, ``(n, steps)``; more of them begin with the same ones."""
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    return torch.cat([prior.whole_curves(1, seed=SEED + i) for i in range(n)]).double()


def network_log_likelihoods(network: PFN, curves: torch.Tensor, cutoff: int) -> np.ndarray:
    """Mean log-likelihood of each curve's later values by the network."""
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    x = prior.features(torch.arange(1.0, curves.shape[1] + 1)).expand(len(curves), -1, 1)
    scores = []
    for at, y in zip(x.split(50), curves.float().split(50), strict=True):
        with torch.inference_mode():
            predictive = network(at[:, :cutoff], y[:, :cutoff], at[:, cutoff:])
        scores.append(predictive.log_prob(y[:, cutoff:]).mean(-1))
    return torch.cat(scores).double().numpy()


def reference_of(kept: dict[str, Any], cutoff: int, number: int) -> float:
    """Importance sampling where enough curves of the prior resemble this one, otherwise SMC."""
    sampled = kept[f"sampled/{cutoff}/{number}"]
    return sampled["ll"] if sampled["ess"] > ENOUGH else kept[f"smc/{cutoff}/{number}"]["ll"]


def differences(kept: dict[str, Any], one: str, other: str, cutoff: int) -> float:
    """Mean difference of two methods over the curves that both answered."""
    found = [
        kept[key]["ll"] - kept[key.replace(one, other, 1)]["ll"]
        for key in kept
        if key.startswith(f"{one}/{cutoff}/") and key.replace(one, other, 1) in kept
        if one != "sampled" or kept[key]["ess"] > ENOUGH
    ]
    return float(np.mean(found)) if found else np.nan


def prior_table(model: str, kept: dict[str, Any], n_curves: int, n_more: int) -> None:
    """The first table."""
    network, prior = load(model), named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    more = prior.whole_curves(n_more, seed=SEED - 1).double()
    print(
        f"{'known':>6} {'exact':>7} {'network':>8} {'gap':>7} {'+-':>6} {'emcee':>7} {'gap':>7} "
        f"{'SMC: curves':>11} {'R-hat':>6} {'evid. sd':>8} {'IS-SMC':>7} {'NUTS-SMC':>9} | "
        f"{f'on {n_more}':>9}"
    )
    for cutoff in CUTOFFS:
        exact = np.array([reference_of(kept, cutoff, i) for i in range(n_curves)])
        mcmc = np.array([kept[f"emcee/{cutoff}/{i}"]["ll"] for i in range(n_curves)])
        ours = network_log_likelihoods(network, prior_curves(n_curves), cutoff)
        smc = [value for key, value in kept.items() if key.startswith(f"smc/{cutoff}/")]
        error = (exact - ours).std(ddof=1) / n_curves**0.5
        print(
            f"{cutoff:5d}% {exact.mean():7.3f} {ours.mean():8.3f} {(exact - ours).mean():7.3f} "
            f"{error:6.3f} {mcmc.mean():7.3f} {(exact - mcmc).mean():7.3f} {len(smc):11d} "
            f"{max(answer['r_hat'] for answer in smc):6.3f} "
            f"{np.mean([answer['evidence_sd'] for answer in smc]):8.3f} "
            f"{differences(kept, 'sampled', 'smc', cutoff):7.3f} "
            f"{differences(kept, 'nuts', 'smc', cutoff):9.3f} | "
            f"{network_log_likelihoods(network, more, cutoff).mean():9.3f}"
        )


def sampled_table(model: str, n_curves: int, n_emcee: int) -> None:
    """The second table, with a fifth of the sampled curves and half of the effective ones."""
    network, prior = load(model), named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    curves = prior.whole_curves(n_curves, seed=77).double()
    print(
        f"{'known':>6} {'curves':>7} {'exact':>7} {'network':>8} {'gap':>7} {'+-':>6} | "
        f"{'curves':>6} {'network':>8} {'emcee':>7}"
    )
    for cutoff in CUTOFFS:
        exact, _, ess = exact_log_likelihoods(prior, curves, cutoff, N_SAMPLED // 5)
        there = (ess > ENOUGH / 2).numpy()
        ours = network_log_likelihoods(network, curves, cutoff)[there]
        gap = exact.numpy()[there] - ours
        asked = curves[there][:n_emcee]
        mcmc = [emcee_answer(prior, y, cutoff)["ll"] for y in asked]
        off = exact.numpy()[there][:n_emcee] - mcmc
        print(
            f"{cutoff:5d}% {len(gap):7d} {gap.mean() + ours.mean():7.3f} {ours.mean():8.3f} "
            f"{gap.mean():7.3f} {gap.std(ddof=1) / len(gap) ** 0.5:6.3f} | "
            f"{len(asked):6d} {gap[:n_emcee].mean():8.3f} {off.mean():7.3f}",
            flush=True,
        )


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
    """The third table."""
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    curves = prior.whole_curves(1000, seed=SEED).clamp(0, 1).double().numpy()[:, :40]
    later, fitted = np.arange(41.0, 101), LearningCurveRegressor(load(model))
    one = seconds_of(lambda: fitted.fit(None, curves[0]).predict_distribution(later), 20)
    ends = seconds_of(lambda: fitted.fit(None, curves).predict_distribution([100.0]), 3)
    batch = seconds_of(lambda: [*fitted.fit(None, curves)._answers(later)], 1)
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
    parser.add_argument("--curves", type=int, default=16, help="curves of the first table")
    parser.add_argument("--smc", type=int, default=N_SMC, help="curves that SMC answers anyway")
    parser.add_argument("--nuts", type=int, default=N_NUTS, help="curves that NUTS answers")
    parser.add_argument("--more", type=int, default=1000, help="curves of the network's own score")
    parser.add_argument(
        "--real-models",
        nargs="+",
        default=["learning-curve-discrepancy", "learning-curve"],
        help="for the fourth table; the first stops trainings",
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
    parser.add_argument("--only-references", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if "prior" in arguments.tables or arguments.only_references:
        kept = references(arguments.references, arguments.curves, arguments.smc, arguments.nuts)
        if arguments.only_references:
            return
        prior_table(arguments.model, kept, arguments.curves, arguments.more)
    if "sampled" in arguments.tables:
        sampled_table(arguments.model, 3 * arguments.curves, arguments.curves)
    if "speed" in arguments.tables:
        speed_table(arguments.model)
    if "real" in arguments.tables:
        real_table(arguments.real_models, arguments.real, arguments.real_emcee)
        early_stopping_table(arguments.real_models[0], arguments.datasets)


if __name__ == "__main__":
    main()
