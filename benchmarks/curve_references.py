"""Answers of SMC, NUTS, emcee and importance sampling to curves of the prior `learning-curve`.

None of them depends on a network, and they take minutes a curve: they are kept in a file.
"""

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from curve_baselines import EmceeCurve, log_likelihood
from curve_oracle import exact_log_likelihoods

from amortized import infer
from amortized.priors import LearningCurvePrior, named_prior
from amortized.sampling.checks.convergence import r_hat

CUTOFFS = (10, 20, 40, 80)
N_RUNS, N_PARTICLES = 4, 1024
N_SAMPLED, ENOUGH = 5_000_000, 200  # prior curves, and effective ones to be compared with
SEED = 10**7

Kept = dict[str, dict[str, float]]


def curve_prior() -> LearningCurvePrior:
    """The prior of `learning-curve`."""
    prior = named_prior("learning-curve")
    assert isinstance(prior, LearningCurvePrior)
    return prior


def prior_curves(n: int) -> torch.Tensor:
    """Curves of the prior, ``(n, steps)``; more of them begin with the same ones."""
    prior = curve_prior()
    return torch.cat([prior.whole_curves(1, seed=SEED + i) for i in range(n)]).double()


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


def is_sampled(kept: Kept, cutoff: int, number: int) -> bool:
    """Whether enough curves of the prior resemble this one."""
    return kept[f"sampled/{cutoff}/{number}"]["ess"] > ENOUGH


def unanswered(kept: Kept, n_curves: int, n_exact: int, n_smc: int, n_nuts: int) -> Iterator[str]:
    """Keys of the answers that are missing, ``method/cutoff/number``, the cheapest first.

    SMC answers the first curves, and those of the exact ones that too few curves of the prior
    resemble.
    """
    for number in range(n_curves):
        yield from (f"emcee/{cutoff}/{number}" for cutoff in CUTOFFS)
    for number in range(n_exact):
        for cutoff in CUTOFFS:
            if number < n_smc or not is_sampled(kept, cutoff, number):
                yield f"smc/{cutoff}/{number}"
            if number < n_nuts:
                yield f"nuts/{cutoff}/{number}"


def sample(kept: Kept, curves: torch.Tensor) -> Iterator[Kept]:
    """Importance sampling from the prior of all curves at once, a cut-off after the other."""
    for cutoff in CUTOFFS:
        keys = [f"sampled/{cutoff}/{number}" for number in range(len(curves))]
        if not all(key in kept for key in keys):
            answers = exact_log_likelihoods(curve_prior(), curves, cutoff, N_SAMPLED)
            rows = torch.stack(answers, -1).tolist()
            yield {
                key: dict(zip(("ll", "evidence", "ess"), row, strict=True))
                for key, row in zip(keys, rows, strict=True)
            }


def references(path: Path, n_curves: int, n_exact: int, n_smc: int, n_nuts: int) -> Kept:
    """Answers to every curve and cut-off, kept in a file as they come.

    Args:
        path: of the file.
        n_curves: that emcee answers.
        n_exact: of them, that have an exact answer, by importance sampling or SMC.
        n_smc: of them, that SMC answers whether it has to or not.
        n_nuts: of them, that NUTS answers.
    """
    kept: Kept = torch.load(path, weights_only=True) if path.exists() else {}
    prior, curves = curve_prior(), prior_curves(n_curves)
    path.parent.mkdir(parents=True, exist_ok=True)
    for answers in sample(kept, curves[:n_exact]):
        kept |= answers
        torch.save(kept, path)
    methods: dict[str, Any] = {"emcee": emcee_answer, "smc": smc_answer, "nuts": nuts_answer}
    for key in unanswered(kept, n_curves, n_exact, n_smc, n_nuts):
        if key not in kept:
            method, cutoff, number = key.split("/")
            kept[key] = methods[method](prior, curves[int(number)], int(cutoff))
            torch.save(kept, path)
            print(key, {k: round(v, 3) for k, v in kept[key].items()}, flush=True)
    return kept


def exact(kept: Kept, cutoff: int, number: int) -> float:
    """Importance sampling where enough curves of the prior resemble this one, otherwise SMC."""
    method = "sampled" if is_sampled(kept, cutoff, number) else "smc"
    return kept[f"{method}/{cutoff}/{number}"]["ll"]
