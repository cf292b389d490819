"""Gaussian processes with hyperpriors: one forward pass against NUTS, type-II ML and exact Bayes.

Prints two tables. The first is the standard one-dimensional benchmark of neural processes with
the network ``gp-1d``, whose Bayes answer a grid gives. The second compares, on tasks drawn from
the prior ``gp``, the network ``gp`` with NUTS on that same prior and with scikit-learn's type-II
maximum likelihood (5 restarts), one task after the other.

Scores are nats per query point. Seconds are CPU seconds of this process on one thread for one
task, fitting and predicting together; the same tasks, the same device, turn by turn.

    python benchmarks/gp_posterior.py --tasks-1d 3000 --tasks 4

NUTS takes hours for many tasks, so its answers, which do not depend on the network, are kept in
``--references`` and reused.
"""

import argparse
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
from amortized.sampling.hyperposterior_grid import HyperposteriorGrid

N_FEATURES, N_CONTEXT, N_QUERY = (1, 3, 8), (5, 20, 50), 50


def benchmark_1d(network: PFN, n_tasks: int) -> dict[str, float]:
    """Mean log-likelihood per query point; context 3 to 46, query 3 to 49 - context."""
    prior, sizes = named_prior("gp-1d"), np.random.default_rng(0)
    scores = []
    for step in range(-(-n_tasks // 16)):
        n_context = int(sizes.integers(3, 47))
        n_query = int(sizes.integers(3, max(4, 50 - n_context)))
        batch = prior.sample(16, n_context, n_query, seed=10**7 + step)
        with torch.inference_mode():
            predictive = network(batch.x_context, batch.y_context, batch.x_query)
            ours = predictive.log_prob(batch.y_query).mean(-1)
        exact = HyperposteriorGrid(prior, batch, n_nodes=20).predictive(batch)
        scores.append(torch.stack((ours, exact.log_prob(batch.y_query.double()).mean(-1).float())))
    pfn, bayes = torch.cat(scores, dim=1)
    return {
        "tasks": len(pfn),
        "pfn": pfn.mean().item(),
        "bayes": bayes.mean().item(),
        "gap": (bayes - pfn).mean().item(),
        "gap_se": (bayes - pfn).std().item() / len(pfn) ** 0.5,
    }


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


def references(path: Path, n_tasks: int) -> dict[str, dict[str, dict[str, float]]]:
    """NUTS and type-II answers for every task of every cell, kept in a file as they come."""
    kept: dict[str, Any] = torch.load(path, weights_only=True) if path.exists() else {}
    for i in range(n_tasks):
        for n_features in N_FEATURES:
            for n_context in N_CONTEXT:
                key = f"{n_features}/{n_context}/{i}"
                if key in kept:
                    continue
                batch = cell_tasks(n_features, n_context, i + 1)[i]
                kept[key] = {"nuts": nuts_answer(batch), "type-ii": type_ii_answer(batch)}
                path.parent.mkdir(parents=True, exist_ok=True)
                torch.save(kept, path)
                print(key, kept[key], flush=True)
    return kept


def print_cells(network: PFN, kept: dict[str, Any], n_tasks: int) -> None:
    """The second table."""
    print(
        f"\n{'features':>8} {'context':>8} {'tasks':>6} {'NUTS NLL':>9} {'PFN gap':>8} "
        f"{'ML-II gap':>9} {'NUTS s':>8} {'ML-II s':>8} {'PFN ms':>7} {'NUTS/PFN':>9} "
        f"{'ML-II/PFN':>9} {'R-hat':>6}"
    )
    gaps, ratios = [], []
    for n_features in N_FEATURES:
        for n_context in N_CONTEXT:
            tasks = cell_tasks(n_features, n_context, n_tasks)
            rows = [kept[f"{n_features}/{n_context}/{i}"] for i in range(n_tasks)]
            pfn = [pfn_answer(network, batch) for batch in tasks]
            nuts = np.array([row["nuts"]["nll"] for row in rows])
            gap = np.array([answer["nll"] for answer in pfn]) - nuts
            type_ii = np.array([row["type-ii"]["nll"] for row in rows]) - nuts
            seconds = [
                np.mean([row["nuts"]["seconds"] for row in rows]),
                np.mean([row["type-ii"]["seconds"] for row in rows]),
                np.mean([answer["seconds"] for answer in pfn]),
            ]
            gaps.append((gap, type_ii))
            ratios.append((seconds[0] / seconds[2], seconds[1] / seconds[2]))
            print(
                f"{n_features:8d} {n_context:8d} {n_tasks:6d} {nuts.mean():9.3f} "
                f"{gap.mean():8.3f} {type_ii.mean():9.3f} {seconds[0]:8.1f} {seconds[1]:8.2f} "
                f"{1000 * seconds[2]:7.2f} {ratios[-1][0]:9.0f} {ratios[-1][1]:9.0f} "
                f"{max(row['nuts']['r_hat'] for row in rows):6.3f}"
            )
    every = np.concatenate([np.stack(pair, axis=1) for pair in gaps])
    error = every.std(axis=0, ddof=1) / len(every) ** 0.5
    faster = np.exp(np.log(ratios).mean(axis=0))
    print(
        f"mean gap to NUTS: PFN {every[:, 0].mean():.3f} +- {error[0]:.3f}, type-II ML "
        f"{every[:, 1].mean():.3f} +- {error[1]:.3f} nats; PFN is {faster[0]:,.0f} times as fast "
        f"as NUTS and {faster[1]:,.0f} times as fast as type-II ML (geometric means)"
    )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks-1d", type=int, default=3000, help="tasks of the first table")
    parser.add_argument("--tasks", type=int, default=4, help="tasks a cell of the second")
    parser.add_argument("--references", type=Path, default=Path("runs/gp_references.pt"))
    parser.add_argument("--only-references", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    kept = references(arguments.references, arguments.tasks)
    if arguments.only_references:
        return
    row = benchmark_1d(load("gp-1d"), arguments.tasks_1d)
    print(
        f"gp-1d, {row['tasks']} tasks: log-likelihood per query point {row['pfn']:.3f}, Bayes "
        f"{row['bayes']:.3f}, gap {row['gap']:.3f} +- {row['gap_se']:.3f}"
    )
    print_cells(load("gp"), kept, arguments.tasks)


if __name__ == "__main__":
    main()
