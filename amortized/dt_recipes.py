"""Training recipes of the released Distribution Transformers: problem, size and schedule by name.

``python -m amortized.dt_recipes dt-normal`` trains that network in ``runs/dt-normal``, resuming an
earlier run, and writes it with its card to ``pretrained/dt-normal`` when the schedule is complete.
``--stop-at 5000`` stops at that step; the same command resumes. ``--card`` does not train: it
repeats the measurements of the released network and renews its card.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amortized.diagnostics import calibration_rows
from amortized.gaussian_mixture import GaussianMixture
from amortized.latent_priors.problems import PROBLEMS, Problem, named_tasks
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks, posterior_draws
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.pretrained import as_stored, card_rows, card_text, load, replace_card, save
from amortized.sampling.exact.latent_reference import reference_log_prob
from amortized.seeding import seeded
from amortized.training import TrainingConfig, train
from amortized.training.checkpoint import read_checkpoint
from amortized.training.data import batch_seed
from amortized.training.train import CHECKPOINT


class Recipe(NamedTuple):
    """A problem's recipe, completed by the defaults of all problems.

    Attributes:
        network: size of the network.
        training: number of steps, batch sizes and learning rates.
        n_reference: number of fresh tasks whose exact posterior is computed by quadrature; 0 if
            there are too many latents for quadrature.
    """

    network: DistributionTransformerConfig
    training: TrainingConfig
    n_reference: int


def _recipe(problem: Problem) -> Recipe:
    low, high = problem.n_context
    settings: dict[str, Any] = {
        "n_steps": problem.n_steps,
        "n_tasks": 128,
        "n_context": problem.n_context,
        "n_query": 1,
        "log_uniform_context": low < high,
        "weight_decay": 1e-4,
        "ema_decay": 0.999,
    }
    training = TrainingConfig(**(settings | dict(problem.training)))
    return Recipe(DistributionTransformerConfig(**problem.network), training, problem.n_reference)


RECIPES = {name: _recipe(problem) for name, problem in PROBLEMS.items()}


OF_THE_TRAINING = {"Parameters", "Latents", "Data", "Training", "Software", "Command"}
"""Rows of a card that are written after training and kept when the card is renewed."""


def held_out(tasks: LatentTasks, config: TrainingConfig, n_tasks: int) -> list[LatentTaskBatch]:
    """Tasks not seen in training, with ten sizes of datasets."""
    low, high = config.n_context
    sizes = [round(low * (high / low) ** (i / 9)) for i in range(10)]
    n = max(1, n_tasks // 10)
    return [tasks.sample(n, size, seed=batch_seed(10**9, i)) for i, size in enumerate(sizes)]


def answers(
    network: DistributionTransformer, batches: list[LatentTaskBatch]
) -> list[GaussianMixture]:
    """A network's answers to batches of tasks."""
    with torch.no_grad():
        return [network(b.latent_prior, b.observations, b.masks, b.sketch) for b in batches]


def gaps(
    tasks: LatentTasks, batches: list[LatentTaskBatch], mixtures: list[GaussianMixture], exact: bool
) -> Tensor:
    """Kullback-Leibler divergence from the posterior to the answer, for each usable task.

    The estimate from `posterior_draws` is unbiased; single values may be negative.

    Args:
        tasks: the tasks from which the batches were drawn.
        batches: tasks with a density.
        mixtures: the answer to each batch.
        exact: whether the evidence is known by quadrature, instead of by importance weights.
    """
    gap = []
    for batch, mixture in zip(batches, mixtures, strict=True):
        assert batch.density is not None
        density = batch.density.of_data(batch.density.x.double(), batch.density.y.double())
        precise = replace(
            batch,
            u=batch.u.double(),
            latent_prior=batch.latent_prior.to(torch.float64),
            density=density,
        )
        _, log_ratio = posterior_draws(mixture.to(torch.float64), precise, 200)
        if exact:
            log_likelihood = density.log_likelihood(precise.u.unsqueeze(1)).squeeze(1)
            log_joint = precise.latent_prior.log_prob(precise.u) + log_likelihood
            log_evidence = log_joint - reference_log_prob(tasks, precise)
        else:
            log_evidence = log_ratio[1:].logsumexp(0) - math.log(len(log_ratio) - 1)
        weights = log_ratio.softmax(0)
        mean = torch.where(weights > 0, weights * log_ratio, 0.0).sum(0)
        gap.append((mean - log_evidence)[batch.masks["data"].all(-1)])
    return torch.cat(gap)


def card(
    name: str, network: DistributionTransformer, tasks: LatentTasks, seconds: float | None = None
) -> str:
    """Builds CARD.md of a trained network from measurements and the recipe.

    Args:
        name: name of the recipe.
        network: in eval mode.
        tasks: the tasks it was trained on.
        seconds: wall time of the training.
    """
    config = RECIPES[name].training
    rows = {
        "Parameters": f"{sum(p.numel() for p in network.parameters()):,}, stored in float16",
        "Latents": f"{', '.join(tasks.names)}: {tasks.dim} in unconstrained space",
        "Data": f"{config.n_context[0]} to {config.n_context[1]} rows",
        "Training": f"{config.n_steps:,} steps of up to {config.n_tasks} tasks, seed {config.seed}"
        + ("" if seconds is None else f"; {seconds:,.0f} s"),
        "Software": f"torch {torch.__version__}",
        "Command": f"`python -m amortized.dt_recipes {name}`",
    }
    return card_text(name, PROBLEMS[name].about, rows | measured(name, network, tasks))


def measured(name: str, network: DistributionTransformer, tasks: LatentTasks) -> dict[str, str]:
    """The rows of a card that are measured on the network: KL divergence and calibration."""
    recipe = RECIPES[name]
    batches = held_out(tasks, recipe.training, recipe.n_reference or 1000)
    mixtures = answers(network, batches)
    by = "quadrature" if recipe.n_reference else "importance weights"
    with seeded(0):
        gap = gaps(tasks, batches, mixtures, bool(recipe.n_reference))
    low, high = recipe.training.n_context
    found = {
        "Gap to the exact posterior": f"mean KL {gap.mean():.4f} +- "
        f"{gap.std() / len(gap) ** 0.5:.4f} nats by {by}, {len(gap)} fresh priors and datasets of "
        f"{low} to {high} rows"
    }
    return found | calibration_rows(network)


def renewed_card(name: str, folder: Path) -> str:
    """The card of a released network with all measurements repeated."""
    kept = {key: row for key, row in card_rows(folder).items() if key in OF_THE_TRAINING}
    again = measured(name, load(folder), named_tasks(name))
    return card_text(name, PROBLEMS[name].about, kept | again)


def main() -> None:
    """Trains the network that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--stop-at", type=int, help="step after which to stop, to be resumed")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("pretrained"))
    parser.add_argument("--accelerator", default="auto", help="Lightning's, such as cpu or gpu")
    parser.add_argument("--card", action="store_true", help="only measure again for the card")
    options = parser.parse_args()
    if options.card:
        text = renewed_card(options.name, options.out / options.name)
        print(text, replace_card(options.out / options.name, text))
        return
    recipe, tasks = RECIPES[options.name], named_tasks(options.name)
    network = train(
        tasks,
        replace(recipe.network, prior=options.name),
        replace(recipe.training, stop_at=options.stop_at),
        directory=options.runs / options.name,
        accelerator=options.accelerator,
    ).cpu()
    if options.stop_at is None or options.stop_at >= recipe.training.n_steps:
        stored = read_checkpoint(options.runs / options.name / CHECKPOINT)
        text = card(options.name, as_stored(network), tasks, stored["seconds"])
        print(text, save(network, options.out / options.name, text))


if __name__ == "__main__":
    main()
