"""A prior-data fitted network that is told the latent prior, beside the Distribution Transformer.

    python benchmarks/told_pfn.py [--problems dt-mean ...] [--tasks 1000] [--runs runs/told_pfn]

For problems of one latent and a set of rows. The PFN sees the same tasks, as many of them, with the
latent prior beside every row of the data and the query as numbers: weight, mean and logarithm of
the standard deviation of each component, the heaviest first. It learns from each task's own latent,
without the density (and for dt-gp-hyper the sketch of it) that the transformer learns from, and
answers with 1,000 bars, which hold equal mass over all priors. "gap" is the mean of the exact minus
the answered log density of the true latent, which is the mean Kullback-Leibler divergence from the
exact posterior, with its standard error over fresh tasks. A training that was cut off goes on where
it stopped.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from amortized import load, train
from amortized.distributions.bar_distribution import equal_mass_borders
from amortized.latent_priors import LatentTaskBatch, LatentTasks
from amortized.latent_priors.problems import named_tasks
from amortized.networks import PFN, PFNConfig
from amortized.priors import Prior, TaskBatch
from amortized.recipes.posteriors import answers, held_out
from amortized.recipes.table import RECIPES
from amortized.sampling.exact.latent_reference import reference_log_prob

PROBLEMS = ("dt-mean", "dt-variance", "dt-gp-hyper")


class ToldTasks(Prior):
    """Latent tasks as rows for a PFN: every row has the latent prior beside it.

    Args:
        tasks: of one latent.
    """

    def __init__(self, tasks: LatentTasks) -> None:
        self.tasks = tasks

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        seed = int(torch.randint(2**62, ()))
        return self.told(self.tasks.sample(n_tasks, n_context, seed=seed))

    def told(self, batch: LatentTaskBatch) -> TaskBatch:
        """The batch with one query, whose answer is the latent in its unit."""
        rows, mask = batch.observations["data"], batch.masks["data"]
        prior = self._numbers(batch).unsqueeze(1)
        x = torch.cat((rows[..., :-1], prior.expand(-1, rows.shape[1], -1)), -1)
        query = torch.cat((torch.zeros_like(rows[:, :1, :-1]), prior), -1)
        u = (batch.u - self.tasks.location) / self.tasks.scale
        return TaskBatch(x, rows[..., -1], query, u, context_mask=mask)

    def _numbers(self, batch: LatentTaskBatch) -> Tensor:
        """The latent priors, ``(batch, 3 components)``."""
        prior, location, scale = batch.latent_prior, self.tasks.location, self.tasks.scale
        weights, order = prior.log_weights.exp().sort(-1, descending=True)
        means = ((prior.means - location) / scale)[..., 0].gather(-1, order)
        log_sd = (prior.scale_tril[..., 0] / scale)[..., 0].log().gather(-1, order)
        there = weights > 0
        return torch.cat((weights, means.where(there, 0.0), log_sd.where(there, 0.0)), -1)


def trained(name: str, tasks: LatentTasks, runs: Path) -> PFN:
    """The PFN after as many steps as the Distribution Transformer of that name had."""
    config = RECIPES[name].stages[-1]
    told = ToldTasks(tasks)
    some = told.sample(20_000, config.n_context[1], 1, seed=1)
    size = PFNConfig(
        n_features=some.n_features,
        max_context=config.n_context[1],
        d_model=64,
        n_layers=4,
        d_hidden=128,
        frequencies=(0.01, 1.0),
    )
    torch.manual_seed(0)
    network = PFN(size, equal_mass_borders(some.y_query.flatten(), size.n_bars))
    config = replace(config, weight_decay=0.0)
    found = train(told, network, config, directory=runs / name, progress=False, accelerator="cpu")
    assert isinstance(found, PFN)
    return found


def compare(name: str, n_tasks: int, runs: Path) -> None:
    """The rows of one problem."""
    tasks = named_tasks(name)
    pfn, transformer = trained(name, tasks, runs), load(name)
    batches = held_out(tasks, RECIPES[name].stages[-1], n_tasks)
    found: dict[str, list[Tensor]] = {"PFN": [], "DT": []}
    with torch.no_grad():
        for batch, mixture in zip(batches, answers(transformer, batches), strict=True):
            told = ToldTasks(tasks).told(batch)
            bars = pfn(told.x_context, told.y_context, told.x_query, told.context_mask)
            found["PFN"].append(bars.log_prob(told.y_query)[:, 0] - tasks.scale.log())
            found["DT"].append(mixture.log_prob(batch.u))
    seen = torch.cat([batch.masks["data"].all(-1) for batch in batches])
    exact = torch.cat([reference_log_prob(tasks, batch) for batch in batches])[seen]
    for method, network in (("PFN", pfn), ("DT", transformer)):
        gap = exact - torch.cat(found[method]).double()[seen]
        size = sum(p.numel() for p in network.parameters())
        print(
            f"{name:14} {method:4} {size:9,} {gap.mean():9.4f} +- {gap.std() / len(gap) ** 0.5:.4f}"
            f" {gap.median():9.4f}",
            flush=True,
        )


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=PROBLEMS)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--runs", type=Path, default=Path("runs/told_pfn"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'problem':14} {'':4} {'weights':>9} {'gap':>9}    {'error':6} {'median':>9}")
    for name in options.problems:
        compare(name, options.tasks, options.runs)


if __name__ == "__main__":
    main()
