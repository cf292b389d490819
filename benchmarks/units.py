"""``PFNRegressor`` in the units of its network's prior, beside the bare network and exact Bayes.

On tasks of the one-dimensional benchmark of neural processes, whose prior is in raw units, nats per
query point of three answers to the same tasks: the estimator "gp-1d", the network by itself, and
the exact one (a grid over lengthscale and scale). The fourth is the estimator as it would be if it
standardised the data all the same.

The second table is of a network of one's own, trained here for a minute on a prior in natural
units: heat (in J) against temperature (in K), for which the exact answer has a closed form.

    python benchmarks/units.py
"""

import argparse
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from amortized import PFNRegressor, load
from amortized.diagnostics import PredictiveTrial
from amortized.diagnostics.predictive_trial import predictive
from amortized.networks import PFNConfig
from amortized.priors import ProgramPrior, TaskBatch, named_prior
from amortized.sampling.exact.hyperposterior_grid import HyperposteriorGrid
from amortized.training import TrainingConfig, train

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


def heat(temperature: Tensor, y: Tensor | None = None) -> Tensor:
    """A capacity of 4.2 +- .3 J/K, and a noise of 20 J."""
    slope = pyro.sample("slope", dist.Normal(4.2, 0.3))
    mean = slope * (temperature[:, 0] - 273.0)
    return pyro.sample("y", dist.Normal(mean, 20.0).to_event(1), obs=y)


def exact_heat(batch: TaskBatch) -> torch.distributions.Normal:
    """Its predictive: the capacity has a normal posterior."""
    x, z = batch.x_context[..., 0].double() - 273, batch.x_query[..., 0].double() - 273
    precision = 0.3**-2 + (x / 20).square().sum(1)
    slope = (4.2 * 0.3**-2 + (x * batch.y_context.double() / 400).sum(1)) / precision
    variance = z.square() / precision[:, None] + 400
    return torch.distributions.Normal(slope[:, None] * z, variance.sqrt())


def own_network(n_tasks: int) -> None:
    """The second table."""
    prior = ProgramPrior(heat, inputs=lambda *shape: 273.0 + 100.0 * torch.rand(*shape, 1))
    size = PFNConfig(n_features=1, max_context=20, d_model=32, n_heads=2, n_layers=2, d_hidden=64)
    size = replace(size, n_bars=400, frequencies=(0.1, 1.0))
    rates = TrainingConfig(n_steps=1000, n_context=(1, 20), lr=5e-3, muon_lr=2e-2, ema_decay=0.98)
    network = train(prior, size, rates, progress=False)
    print(f"\nown network: {network.calibration}\n")
    print(f"{'context':>8} {'exact':>8} {'network behind':>15} {'estimator behind':>17}")
    for n_context in (1, 3, 10, 20):
        asked = {"n_context": n_context, "n_query": 8, "progress": False}
        exact, bare, ours = (
            PredictiveTrial.run(prior, method, n_datasets=n_tasks // 4, **asked).scores
            for method in (exact_heat, network, PFNRegressor(network))
        )
        print(
            f"{n_context:8d} {exact.mean():8.3f} {(exact - bare).mean():15.3f} "
            f"{(exact - ours).mean():17.3f}"
        )


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
    own_network(arguments.tasks)


if __name__ == "__main__":
    main()
