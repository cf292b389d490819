"""Distribution Transformers beside exact answers, SMC and NUTS, under priors of the hyperprior.

    python benchmarks/distribution_transformers.py [--problems dt-normal ...] [--tasks 1000]
        [--methods dt auto smc vi nuts] [--few 5] [--networks folder]

Every task has its own latent prior, told to each method, and latents drawn from it. "gap" is the
mean of exact minus answered log density of the true latents, which is the mean KL from the exact
posterior; the error beside it is its standard error over tasks. "nll" is of the same latents in
unconstrained space. "sbc" is the smallest Kolmogorov-Smirnov p-value of the latents' levels, times
their number. "one" and "batch" are seconds for a single task and for all tasks in one call, per
task. VI (a normal guide) and NUTS take the first few tasks one after another; their density is a
mixture of 5 normals fitted to 4,000 draws. Not for a busy machine: times are wall times.
"""

import argparse
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from scipy.stats import kstest
from torch import Tensor

from amortized.infer import infer
from amortized.infer.inputs.problem import make_problem
from amortized.latent_priors import LatentTaskBatch, LatentTasks, fit_draws
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.posterior import Posterior
from amortized.pretrained import load
from amortized.sampling.exact.latent_reference import reference_log_prob

SIZES = {"dt-mean": 1, "dt-variance": 1, "dt-normal": 10, "dt-linear": 30, "dt-logistic": 50}
SIZES |= {"dt-oup": 25, "dt-sir": 10, "dt-filter": 2}
SIZES |= {"dt-quantum": 10, "dt-nonlinear": 2, "dt-gp-hyper": 10}
ONE_BY_ONE = {"nuts", "vi"}
REPEATED = 5.0  # seconds; in shorter ones page faults and other processes show


class Row(NamedTuple):
    """One method on one problem."""

    problem: str
    method: str
    n_tasks: int
    log_prob: Tensor
    levels: Tensor
    one: float
    batch: float
    note: str


def ask(
    tasks: LatentTasks, batch: LatentTaskBatch, rows: Tensor, method: str, network: Any
) -> tuple[Posterior, float]:
    """A method's posterior of some tasks, and its seconds."""
    data = batch.observations["data"][rows]
    options = {"network": network} if method in ("dt", "auto") else {}
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = infer(
            tasks.prior,
            data[..., :-1],
            data[..., -1],
            method=method,
            latent_prior=batch.latent_prior[rows],
            n_draws=4000 if method in ONE_BY_ONE else 1000,
            **options,
        )
    return posterior, time.perf_counter() - began


def judge(
    tasks: LatentTasks, batch: LatentTaskBatch, rows: Tensor, method: str, posterior: Posterior
) -> tuple[Tensor, Tensor]:
    """Log density of the true u, ``(tasks,)``, and their levels among the draws."""
    data, u = batch.observations["data"][rows].double(), batch.u[rows].double()
    problem = make_problem(tasks.prior, data[..., :-1], data[..., -1], batch.latent_prior[rows])
    density = problem.density()
    draws, log_weights = posterior.weighted_draws()
    ours = density.unconstrain({name: value.movedim(0, 1) for name, value in draws.items()})
    weights = log_weights.exp().T.unsqueeze(-1)
    levels = (weights * (ours < u.unsqueeze(1))).sum(1)
    if method in ONE_BY_ONE:
        fits = [fit_draws(each) for each in ours]
        return torch.stack([f.log_prob(v) for f, v in zip(fits, u, strict=True)]), levels
    if method == "dt":
        assert posterior.mixture is not None
        return posterior.mixture.log_prob(u), levels
    assert posterior.log_evidence is not None
    return density.log_density(u.unsqueeze(1))[:, 0] - posterior.log_evidence, levels


def compare(
    name: str, methods: Sequence[str], n_tasks: int, n_few: int, network: Any
) -> tuple[list[Row], Tensor | None]:
    """Every method on one problem, and the exact log densities where they are known."""
    tasks = named_tasks(name)
    batch = tasks.sample(n_tasks, SIZES[name], seed=20_000)
    seen = batch.masks["data"].all(-1).nonzero()[:, 0]  # not where no data were given
    results = []
    for method in methods:
        is_batched = method not in ONE_BY_ONE
        rows = seen if is_batched else seen[:n_few]
        if is_batched:
            ask(tasks, batch, seen[:2], method, network)  # what is cached is not timed
        posterior, seconds = ask(tasks, batch, rows, method, network)
        if seconds < REPEATED:
            again = [ask(tasks, batch, rows, method, network)[1] for _ in range(4)]
            seconds = median([seconds, *again])
        log_prob, levels = judge(tasks, batch, rows, method, posterior)
        stages = posterior.diagnostics.get("stage", [])
        note = ", ".join(f"{stages.count(r)} {r}" for r in sorted(set(stages)))
        n = len(log_prob)
        one = ask(tasks, batch, seen[:1], method, network)[1] if is_batched else seconds / n
        results.append(Row(name, method, n, log_prob, levels, one, seconds / n, note))
    return results, reference_log_prob(tasks, batch)[seen] if PROBLEMS[name].n_reference else None


def line(row: Row, exact: Tensor | None) -> str:
    """A row of the table."""
    gap = "-"
    if exact is not None:
        off = exact[: row.n_tasks] - row.log_prob
        known = off[off.isfinite()]  # an answer of NUTS on the cascade has no evidence
        gap = f"{known.mean():.4f} +- {known.std() / len(known) ** 0.5:.4f}"
        gap += "" if len(known) == len(off) else f" on {len(known)}"
    dim = row.levels.shape[-1]
    p = min(kstest(row.levels[:, i].numpy(), "uniform").pvalue for i in range(dim))
    return (
        f"| {row.problem} | {row.method} | {row.n_tasks} | {-row.log_prob.nanmean():.4f} | {gap} | "
        f"{min(1.0, dim * p):.3f} | {row.one:.2g} | {row.batch:.2g} | {row.note} |"
    )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=sorted(PROBLEMS), default=sorted(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=["dt", "auto", "smc", "vi", "nuts"])
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--few", type=int, default=5, help="tasks for VI and NUTS")
    parser.add_argument("--networks", type=Path, help="folder of networks; default: pretrained")
    options = parser.parse_args()
    print("| problem | method | tasks | nll | gap | sbc | one | batch | stages |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in options.problems:
        network = load(name if options.networks is None else options.networks / name)
        rows, exact = compare(name, options.methods, options.tasks, options.few, network)
        if exact is not None:
            print(f"| {name} | exact | {len(exact)} | {-exact.mean():.4f} | 0 | | | | |")
        for row in rows:
            print(line(row, exact), flush=True)


if __name__ == "__main__":
    main()
