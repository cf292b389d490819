"""``PFNRegressor`` in the units of its network's prior, beside the bare network and exact Bayes.

On tasks of the one-dimensional benchmark of neural processes, whose prior is in raw units, nats per
query point of three answers to the same tasks: the estimator "gp-1d", the network by itself, and
the exact one (a grid over lengthscale and scale). The fourth is the estimator as it would be if it
standardised the data all the same.

    python benchmarks/units.py
"""

import argparse
from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from amortized import PFNRegressor, load
from amortized.diagnostics.predictive_trial import predictive
from amortized.priors import TaskBatch, named_prior
from amortized.sampling.hyperposterior_grid import HyperposteriorGrid

COVERAGE = (0.05, 0.95)


def scores(batch: TaskBatch) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean log score of each task by each method, and which answers its 90% interval holds."""
    prior, network = named_prior("gp-1d"), load("gp-1d")
    standardising = deepcopy(network)
    standardising.config = replace(network.config, units="standardised")
    methods = {
        "estimator": PFNRegressor("gp-1d"),
        "bare network": network,
        "estimator that standardises": PFNRegressor(standardising),
    }
    answers = {name: predictive(prior, method, batch) for name, method in methods.items()}
    answers["exact Bayes"] = HyperposteriorGrid(prior, batch, n_nodes=20).predictive(batch)
    found = {}
    for name, answer in answers.items():
        y = batch.y_query.double() if name != "bare network" else batch.y_query
        level = answer.cdf(y).double()
        inside = (COVERAGE[0] <= level) & (level <= COVERAGE[1])
        found[name] = answer.log_prob(y).double().mean(-1), inside.double().mean(-1)
    return found


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    sizes, parts = np.random.default_rng(0), []
    for step in range(-(-arguments.tasks // 16)):  # the tasks of benchmarks/gp_posterior.py
        n_context = int(sizes.integers(3, 47))
        n_query = int(sizes.integers(3, max(4, 50 - n_context)))
        prior = named_prior("gp-1d")
        parts.append(scores(prior.sample(16, n_context, n_query, seed=10**7 + step)))
    n = 16 * len(parts)
    print(f"{n} tasks of gp-1d, context 3 to 46 rows; nats per query point\n")
    print(f"{'':>28} {'score':>8} {'behind exact':>18} {'in 90% interval':>16}")
    exact = torch.cat([part["exact Bayes"][0] for part in parts])
    for name in parts[0]:
        score, inside = (torch.cat([part[name][i] for part in parts]) for i in (0, 1))
        gap = exact - score
        error = gap.std().item() / n**0.5
        print(
            f"{name:>28} {score.mean():8.3f} {gap.mean():9.3f} +- {error:.3f} {inside.mean():16.3f}"
        )


if __name__ == "__main__":
    main()
