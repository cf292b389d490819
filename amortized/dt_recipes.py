"""How the pretrained Distribution Transformers are trained: one problem, size and schedule a name.

``python -m amortized.dt_recipes dt-normal`` trains that network in ``runs/dt-normal``, resuming
what is there, and writes it with its card to ``pretrained/dt-normal`` when the schedule is done.
``--stop-at 5000`` stops there; the same command goes on.
"""

import argparse
import inspect
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch

from amortized.latent_priors.catalogue import TASKS, named_tasks
from amortized.latent_priors.tasks import LatentTasks
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.pretrained import save
from amortized.sampling.latent_reference import reference_log_prob
from amortized.training import TrainingConfig, train
from amortized.training.data import step_seed


class Recipe(NamedTuple):
    """All that a training needs beside its tasks, which have the same name.

    Attributes:
        network: size of the network.
        training: length, sizes and rates.
        n_reference: fresh tasks that the exact posterior is computed for; 0 where there is none.
    """

    network: DistributionTransformerConfig
    training: TrainingConfig
    n_reference: int


def _training(n_steps: int, n_context: tuple[int, int]) -> TrainingConfig:
    return TrainingConfig(
        n_steps=n_steps,
        n_tasks=512,
        n_context=n_context,
        log_uniform_context=n_context[0] < n_context[1],
        optimizer="adamw",
        weight_decay=1e-4,
        ema_decay=0.999,
    )


_SIZE = DistributionTransformerConfig()
RECIPES: Mapping[str, Recipe] = {
    "dt-mean": Recipe(replace(_SIZE, d_model=32, n_layers=2), _training(10_000, (1, 1)), 1000),
    "dt-variance": Recipe(_SIZE, _training(10_000, (1, 1)), 1000),
    "dt-normal": Recipe(replace(_SIZE, n_data_layers=2), _training(30_000, (1, 50)), 1000),
    "dt-linear": Recipe(replace(_SIZE, n_data_layers=2), _training(30_000, (5, 100)), 500),
    "dt-logistic": Recipe(replace(_SIZE, n_data_layers=2), _training(30_000, (5, 200)), 0),
    "dt-oup": Recipe(replace(_SIZE, n_components=8), _training(30_000, (25, 25)), 500),
    "dt-sir": Recipe(replace(_SIZE, n_components=8), _training(30_000, (10, 10)), 300),
}


def gaps(
    network: DistributionTransformer, tasks: LatentTasks, recipe: Recipe, n_tasks: int
) -> torch.Tensor:
    """Exact minus answered log density of the latents of fresh tasks: its mean is the mean KL.

    Args:
        network: in eval mode.
        tasks: those that it was trained on.
        recipe: the sizes of datasets.
        n_tasks: how many, in ten sizes of datasets.
    """
    low, high = recipe.training.n_context
    results = []
    for i in range(10):
        n = round(low * (high / low) ** (i / 9))
        batch = tasks.sample(max(1, n_tasks // 10), n, seed=step_seed(10**9, i))
        with torch.no_grad():
            answer = network(batch.latent_prior, batch.observations, batch.masks, batch.sketch)
        results.append(reference_log_prob(tasks, batch) - answer.log_prob(batch.u))
    return torch.cat(results)


def card(name: str, network: DistributionTransformer, tasks: LatentTasks) -> str:
    """What CARD.md says of a trained network; every number is measured here."""
    recipe = RECIPES[name]
    config = recipe.training
    rows = {
        "Parameters": f"{sum(p.numel() for p in network.parameters()):,}, stored in float16",
        "Latents": f"{', '.join(tasks.names)}: {tasks.dim} in unconstrained space",
        "Data": f"{config.n_context[0]} to {config.n_context[1]} rows",
        "Training": f"{config.n_steps:,} steps of {config.n_tasks} tasks",
        "Seed": str(config.seed),
        "Command": f"`python -m amortized.dt_recipes {name}`",
    }
    if recipe.n_reference:
        gap = gaps(network, tasks, recipe, recipe.n_reference)
        rows["Gap to the exact posterior"] = (
            f"mean KL {gap.mean():.4f} +- {gap.std() / len(gap) ** 0.5:.4f} nats over "
            f"{len(gap)} fresh priors and datasets"
        )
    text = inspect.cleandoc(TASKS[name].__doc__ or "")
    lines = [f"# {name}", "", text, "", "| | |", "| --- | --- |"]
    return "\n".join(lines + [f"| {key} | {value} |" for key, value in rows.items()]) + "\n"


def main() -> None:
    """Trains the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--stop-at", type=int, help="step after which to stop, to be resumed")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("pretrained"))
    parser.add_argument("--accelerator", default="auto", help="Lightning's, such as cpu or gpu")
    options = parser.parse_args()
    recipe, tasks = RECIPES[options.name], named_tasks(options.name)
    network = train(
        tasks,
        replace(recipe.network, prior=options.name),
        replace(recipe.training, stop_at=options.stop_at),
        directory=options.runs / options.name,
        accelerator=options.accelerator,
    ).cpu()
    if options.stop_at is None or options.stop_at >= recipe.training.n_steps:
        print(save(network, options.out / options.name, card(options.name, network, tasks)))


if __name__ == "__main__":
    main()
