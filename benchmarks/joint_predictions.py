"""Joint log-likelihood of ``gp-1d`` by autoregression, beside the exact one, on the same tasks.

The standard one-dimensional benchmark of neural processes: 3 to 46 context rows and at least 3
queries, 50 rows at most. Prints nats per query point and seconds a task for several ``refresh``:
the number of answers after which the context is encoded anew.

    python benchmarks/joint_predictions.py [--tasks 480]
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import torch

from amortized import load
from amortized.priors import TaskBatch, named_prior
from amortized.sampling.exact.hyperposterior_grid import HyperposteriorGrid
from amortized.uncertainty import joint_log_prob

BATCH = 16
REFRESH = (1, 4, 50)


def tasks(n_tasks: int) -> list[TaskBatch]:
    """Batches of 16 tasks of one size each."""
    prior, sizes = named_prior("gp-1d"), np.random.default_rng(0)
    batches = []
    for step in range(-(-n_tasks // BATCH)):
        n_context = int(sizes.integers(3, 47))
        n_query = int(sizes.integers(3, max(4, 50 - n_context)))
        batches.append(prior.sample(BATCH, n_context, n_query, seed=2 * 10**7 + step))
    return batches


def exact(batch: TaskBatch) -> torch.Tensor:
    """Joint log density of the queries per point, hyperparameters integrated out on a grid."""
    prior = named_prior("gp-1d")
    everything = replace(
        batch,
        x_context=torch.cat([batch.x_context, batch.x_query], 1),
        y_context=torch.cat([batch.y_context, batch.y_query], 1),
    )
    evidence = [HyperposteriorGrid(prior, b, n_nodes=20).log_evidence for b in (batch, everything)]
    return (evidence[1] - evidence[0]) / batch.n_query


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=480)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    network, batches = load("gp-1d"), tasks(arguments.tasks)
    bayes = torch.cat([exact(batch) for batch in batches])
    error = bayes.std() / len(bayes) ** 0.5
    print(f"{'exact':>20} {bayes.mean():8.3f} +- {error:.3f}, {len(bayes)} tasks")
    for refresh in REFRESH:
        began, scores = time.process_time(), []
        for batch in batches:
            data = (batch.x_context, batch.y_context, batch.x_query, batch.y_query)
            scores.append(joint_log_prob(network, *data, refresh=refresh) / batch.n_query)
        seconds = (time.process_time() - began) / len(bayes)
        ours = torch.cat(scores)
        gap = bayes - ours
        print(
            f"{f'refresh {refresh}':>20} {ours.mean():8.3f}, gap {gap.mean():.3f} +- "
            f"{gap.std() / len(gap) ** 0.5:.3f}, {1000 * seconds:.1f} ms of CPU a task",
            flush=True,
        )
    with torch.no_grad():
        alone = torch.cat(
            [
                network(b.x_context, b.y_context, b.x_query).log_prob(b.y_query).mean(-1)
                for b in batches
            ]
        )
    print(f"{'each query alone':>20} {alone.mean():8.3f}")


if __name__ == "__main__":
    main()
