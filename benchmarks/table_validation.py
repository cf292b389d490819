"""Log-likelihood of table networks on fresh tasks of every generator of their prior.

Each generator draws the same tables for all networks: contexts of 64, 256 and 1,000 rows, columns
as the prior draws them. What is printed is the mean log-likelihood in nats per query point, over
tasks, with the standard error of the difference from the first network. Where boosted trees are
asked for (``--trees``), theirs is beside it: a generator on which a network loses to them deserves
more weight.

    python benchmarks/table_validation.py tabular-classifier runs/tabular-classifier-2/1/last.ckpt

A network is the name of a released one, a folder, or the state of a training in the folder of its
recipe, of which the moving average is taken.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier
from torch import Tensor

from amortized.networks import TabularPFN
from amortized.pretrained import load
from amortized.priors import TaskBatch
from amortized.priors.tabular.table_mixtures import DIVERSE, DIVERSE_NUMBERS
from amortized.recipes.release import average_so_far

SIZES = ((8, 64), (4, 256), (2, 1000))
N_QUERY = 96


def network(source: str) -> TabularPFN:
    """A released network, or the average of a training so far."""
    path = Path(source)
    found = average_so_far(path.parents[1].name, path) if path.suffix == ".ckpt" else load(source)
    if not isinstance(found, TabularPFN):
        raise TypeError(f"Expected a network over tables; got {type(found).__name__}.")
    return found.eval()


def batches(target: str, n_rounds: int) -> dict[str, list[TaskBatch]]:
    """Tasks of each generator by its name."""
    kinds = DIVERSE if target == "classification" else {**DIVERSE, **DIVERSE_NUMBERS}
    priors = {kind.__name__: kind(target, max_features=100, max_cells=24_000) for kind in kinds}
    return {
        name: [
            prior.sample(n_tasks, n_context, N_QUERY, seed=10**6 + 10 * round_ + size)
            for round_ in range(n_rounds)
            for size, (n_tasks, n_context) in enumerate(SIZES)
        ]
        for name, prior in priors.items()
    }


def scores(one: TabularPFN, tasks: list[TaskBatch]) -> Tensor:
    """Mean log-likelihood of each task; answers that are impossible count -10."""
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = [
            one(b.x_context, b.y_context, b.x_query).log_prob(b.y_query).clamp_min(-10.0)
            for b in tasks
        ]
    return torch.cat([each.float().mean(-1) for each in found])


def of_trees(tasks: list[TaskBatch]) -> Tensor:
    """The same of boosted trees at their defaults, with the share of unseen classes at 1e-4."""
    means = []
    for batch in tasks:
        for x, y, z, answers in zip(
            batch.x_context.numpy(),
            batch.y_context.numpy(),
            batch.x_query.numpy(),
            batch.y_query.numpy().astype(int),
            strict=True,
        ):
            model = HistGradientBoostingClassifier(random_state=0).fit(x, y)
            proba = np.clip(model.predict_proba(z), 1e-4, None)
            means.append(np.log(proba[np.arange(len(z)), answers]).mean())
    return torch.tensor(means)


def main() -> None:
    """Print a line for each generator."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="+")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--trees", action="store_true", help="of classifications")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    networks = [network(source) for source in arguments.networks]
    target = networks[0].config.target
    print(f"{target}, nats per query point; of the others the gain on the first +- its error")
    every: list[list[Tensor]] = []
    for name, tasks in batches(target, arguments.rounds).items():
        found = [scores(one, tasks) for one in networks]
        if arguments.trees:
            found.append(of_trees(tasks).float())
        every.append(found)
        print(_line(name, found), flush=True)
    print(_line("mean", [torch.cat(part) for part in zip(*every, strict=True)]))


def _line(name: str, found: list[Tensor]) -> str:
    gains = [each - found[0] for each in found[1:]]
    errors = [f"{g.mean():+9.4f} +- {g.std() / len(g) ** 0.5:.4f}" for g in gains]
    return f"{name:22} {found[0].mean():9.4f}" + "".join(errors)


if __name__ == "__main__":
    main()
