"""Gaussian processes with hyperpriors: one forward pass against NUTS, type-II ML and exact Bayes.

Prints two tables. The first is the standard one-dimensional benchmark of neural processes with
the network ``gp-1d``, whose Bayes answer a grid gives. The second compares, on tasks drawn from
the prior ``gp``, the network ``gp`` with tempered SMC and NUTS on that same prior and with
scikit-learn's type-II maximum likelihood (5 restarts). SMC answers every task, NUTS the first few
of each cell, where it has to agree with SMC.

Scores are nats per query point. Seconds are CPU seconds of this process on one thread for one
task, fitting and predicting together; the same tasks, the same device, turn by turn, but for SMC,
which takes all tasks of a cell at once.

    python benchmarks/gp_posterior.py

The references take an hour and do not depend on the network, so they are kept in
``--references`` and reused.
"""

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from amortized import infer, load
from amortized.networks import PFN
from amortized.priors import TaskBatch, named_prior
from amortized.sampling.exact.hyperposterior_grid import HyperposteriorGrid

N_FEATURES, N_CONTEXT, N_QUERY = (1, 3, 8), (5, 20, 50), 50


def benchmark_1d(network: PFN, n_tasks: int) -> dict[str, float]:
    """Mean log-likelihood per query point; context 3 to 46, query 3 to 49 - context.

    And how wide the network's answers are: the median ratio of their standard deviation to the
    exact one, and of their 5% to 95% interval, in units of a normal distribution's, to it.
    """
    prior, sizes = named_prior("gp-1d"), np.random.default_rng(0)
    scores, wide = [], []
    for step in range(-(-n_tasks // 16)):
        n_context = int(sizes.integers(3, 47))
        n_query = int(sizes.integers(3, max(4, 50 - n_context)))
        batch = prior.sample(16, n_context, n_query, seed=10**7 + step)
        with torch.inference_mode():
            predictive = network(batch.x_context, batch.y_context, batch.x_query)
            ours = predictive.log_prob(batch.y_query).mean(-1)
        exact = HyperposteriorGrid(prior, batch, n_nodes=20).predictive(batch)
        scores.append(torch.stack((ours, exact.log_prob(batch.y_query.double()).mean(-1).float())))
        ends = [predictive.icdf(torch.full_like(batch.y_query, level)) for level in (0.05, 0.95)]
        own = torch.stack((predictive.stddev, (ends[1] - ends[0]) / (2 * norm.ppf(0.95))))
        wide.append((own / exact.stddev).flatten(1))
    pfn, bayes = torch.cat(scores, dim=1)
    sd_ratio, width_ratio = torch.cat(wide, dim=1).median(1).values.tolist()
    return {
        "tasks": len(pfn),
        "pfn": pfn.mean().item(),
        "bayes": bayes.mean().item(),
        "gap": (bayes - pfn).mean().item(),
        "sd_ratio": sd_ratio,
        "width_ratio": width_ratio,
        "gap_se": (bayes - pfn).std().item() / len(pfn) ** 0.5,
    }


def smc_answers(batch: TaskBatch) -> list[dict[str, float]]:
    """Mean NLL of tempered SMC on every task at once, and CPU seconds a task."""
    began = time.process_time()
    posterior = infer(
        named_prior("gp"), batch.x_context, batch.y_context, method="smc", n_particles=512
    )
    log_prob = posterior.predictive(batch.x_query).log_prob(batch.y_query.double())
    seconds = (time.process_time() - began) / batch.n_tasks
    return [{"nll": -value, "seconds": seconds} for value in log_prob.mean(-1).tolist()]


def nuts_answer(batch: TaskBatch) -> dict[str, float]:
    """Mean NLL of NUTS, its R-hat and its CPU seconds; longer chains until R-hat < 1.01."""
    prior = named_prior("gp")
    for n_draws in (1000, 4000, 12000):
        began = time.process_time()
        posterior = infer(
            prior,
            batch.x_context[0],
            batch.y_context[0],
            method="nuts",
            n_chains=2,
            n_warmup=300,
            n_draws=n_draws,
        )
        predictive = posterior.predictive(batch.x_query[0])
        nll = -predictive.log_prob(batch.y_query[0].double()).mean().item()
        seconds = time.process_time() - began
        if posterior.diagnostics["r_hat"] < 1.01:
            break
    return {"nll": nll, "r_hat": posterior.diagnostics["r_hat"], "seconds": seconds}


def type_ii_answer(batch: TaskBatch) -> dict[str, float]:
    """Mean NLL of scikit-learn's Gaussian process and its CPU seconds."""
    x, y, z, y_query = (
        part[0].double().numpy()
        for part in (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
    )
    began = time.process_time()
    kernel = ConstantKernel(1.0) * Matern(np.ones(x.shape[1]), (1e-2, 1e3), nu=2.5) + WhiteKernel(
        0.1, (1e-6, 1e2)
    )
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=5, random_state=0).fit(x, y)
    mean, std = model.predict(z, return_std=True)
    seconds = time.process_time() - began
    return {"nll": float(-norm.logpdf(y_query, mean, std).mean()), "seconds": seconds}


def pfn_answer(network: PFN, batch: TaskBatch) -> dict[str, float]:
    """Mean NLL of the network and its CPU seconds, the median of 5 runs after one to warm up."""
    seconds = []
    for _ in range(6):
        began = time.process_time()
        with torch.inference_mode():
            predictive = network(batch.x_context, batch.y_context, batch.x_query)
        seconds.append(time.process_time() - began)
    nll = -predictive.log_prob(batch.y_query).mean().item()
    return {"nll": nll, "seconds": float(np.median(seconds[1:]))}


def cell_tasks(n_features: int, n_context: int, n_tasks: int) -> list[TaskBatch]:
    """Tasks of the prior ``gp`` with that many features and context rows, one a batch."""
    prior = named_prior("gp")
    prior.n_features = (n_features, n_features)
    seed = 10**6 * n_features + 10**3 * n_context
    return [prior.sample(1, n_context, N_QUERY, seed=seed + i) for i in range(n_tasks)]


def references(path: Path, n_tasks: int, n_nuts: int) -> dict[str, Any]:
    """Answers of SMC, type-II ML and NUTS to the tasks of every cell, kept in a file as they come.

    Args:
        path: of that file, JSON.
        n_tasks: tasks a cell for SMC and type-II ML.
        n_nuts: the first of them, for NUTS as well.
    """
    kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    for n_features, n_context in itertools.product(N_FEATURES, N_CONTEXT):
        answers = kept.setdefault(f"{n_features}/{n_context}", {"smc": [], "ml": [], "nuts": []})
        tasks = cell_tasks(n_features, n_context, n_tasks)
        if len(answers["smc"]) < n_tasks:
            answers["smc"] = smc_answers(joined(tasks))
        for task in tasks[len(answers["ml"]) :]:
            answers["ml"].append(type_ii_answer(task))
        for task in tasks[len(answers["nuts"]) : n_nuts]:
            answers["nuts"].append(nuts_answer(task))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1))
        print(f"references for {n_features} features, {n_context} rows", flush=True)
    return kept


def joined(tasks: list[TaskBatch]) -> TaskBatch:
    """Tasks of one size as one batch."""
    names = ("x_context", "y_context", "x_query", "y_query")
    return TaskBatch(*(torch.cat([getattr(task, name) for task in tasks]) for name in names))


def column(answers: list[dict[str, float]], name: str = "nll") -> np.ndarray:
    """One number of every answer."""
    return np.array([answer[name] for answer in answers])


def print_cells(network: PFN, kept: dict[str, Any], n_tasks: int, n_nuts: int) -> None:
    """The second table: gaps in nats to SMC over all tasks and to NUTS over its own."""
    print(
        f"\n{'features':>8} {'context':>8} {'SMC NLL':>8} {'PFN gap':>15} {'ML-II gap':>9} "
        f"{'NUTS-SMC':>9} {'NUTS s':>8} {'ML-II s':>8} {'SMC s':>6} {'PFN ms':>7} {'R-hat':>6}"
    )
    gaps, seconds = [], []
    for n_features, n_context in itertools.product(N_FEATURES, N_CONTEXT):
        answers = kept[f"{n_features}/{n_context}"]
        smc, ml, nuts = answers["smc"][:n_tasks], answers["ml"][:n_tasks], answers["nuts"][:n_nuts]
        pfn = [pfn_answer(network, task) for task in cell_tasks(n_features, n_context, n_tasks)]
        gaps.append(np.stack((column(pfn), column(ml))) - column(smc))
        s = [column(method, "seconds").mean() for method in (nuts, ml, smc, pfn)]
        seconds.append(s)
        error = gaps[-1][0].std(ddof=1) / n_tasks**0.5
        print(
            f"{n_features:8d} {n_context:8d} {column(smc).mean():8.3f} "
            f"{gaps[-1][0].mean():7.3f} +- {error:.3f} {np.median(gaps[-1][1]):9.3f} "
            f"{(column(nuts) - column(smc)[:n_nuts]).mean():9.3f} {s[0]:8.1f} {s[1]:8.2f} "
            f"{s[2]:6.2f} {1000 * s[3]:7.2f} {column(nuts, 'r_hat').max():6.3f}"
        )
    gap = np.concatenate(gaps, axis=1)
    error = gap.std(axis=1, ddof=1) / gap.shape[1] ** 0.5
    faster = np.exp(np.log(np.array(seconds) / np.array(seconds)[:, 3:]).mean(axis=0))
    print(
        f"mean gap over {gap.shape[1]} tasks: PFN {gap[0].mean():.3f} +- {error[0]:.3f} nats, "
        f"type-II ML {gap[1].mean():.2f} (median {np.median(gap[1]):.3f}; the column shows medians)"
        f"\nthe PFN is {faster[0]:,.0f} times as fast as NUTS, {faster[1]:,.0f} as type-II ML and "
        f"{faster[2]:,.0f} as SMC in a batch of {n_tasks} (geometric means over the rows)"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks-1d", type=int, default=3000, help="tasks of the first table")
    parser.add_argument("--tasks", type=int, default=32, help="tasks a cell of the second")
    parser.add_argument("--nuts", type=int, default=2, help="of which NUTS answers this many")
    parser.add_argument("--references", type=Path, default=Path("runs/gp_references.json"))
    parser.add_argument("--only-references", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kept = references(arguments.references, arguments.tasks, arguments.nuts)
    if arguments.only_references:
        return
    row = benchmark_1d(load("gp-1d"), arguments.tasks_1d)
    print(
        f"gp-1d, {row['tasks']} tasks: log-likelihood per query point {row['pfn']:.3f}, Bayes "
        f"{row['bayes']:.3f}, gap {row['gap']:.3f} +- {row['gap_se']:.3f}; widths over exact ones: "
        f"sd {row['sd_ratio']:.2f}, 90% interval {row['width_ratio']:.2f} (medians)"
    )
    print_cells(load("gp"), kept, arguments.tasks, arguments.nuts)


if __name__ == "__main__":
    main()
