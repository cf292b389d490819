"""From a recipe to a released network: its training, its weights and its card.

``python -m amortized.recipes gp-1d`` trains that network in ``runs/gp-1d``, resuming an earlier
run, and writes it with its card to ``pretrained/gp-1d`` after each stage. ``--stop-at 5000`` stops
at that step; the same command resumes. ``--card`` does not train but repeats the measurements of
the released network; the rows about training are kept.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch

from amortized.diagnostics import calibration_rows
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.networks import TabularPFN, TabularPFNConfig, new_network
from amortized.pretrained import as_stored, card_rows, card_text, load, replace_card, save
from amortized.pretrained.storage import SHIPPED
from amortized.priors import named_prior
from amortized.priors.named import PRIORS
from amortized.recipes import posteriors, predictives
from amortized.recipes.table import RECIPES
from amortized.training import TrainingConfig, train
from amortized.training.checkpoint import read_checkpoint
from amortized.training.train import CHECKPOINT

OF_THE_TRAINING = (
    "Parameters",
    "Context",
    "Latents",
    "Data",
    "Begins with",
    "Training",
    "Compute",
    "Software",
    "Seed",
    "Command",
    "Gap to the oracle",  # a benchmark of hours
)
"""Rows of a card that are written after training and kept when the card is renewed."""


def _card_of(name: str) -> ModuleType:
    """The measurements for the card: of a posterior, or of a predictive."""
    return posteriors if name in PROBLEMS else predictives


def _about(name: str) -> str:
    return PROBLEMS[name].about if name in PROBLEMS else PRIORS[name].__doc__ or ""


def tasks_of(name: str) -> Any:
    """What the network of a recipe is trained on: a prior, or the tasks of a problem."""
    return named_tasks(name) if name in PROBLEMS else named_prior(name)


def _released(name: str, folder: Path) -> Path:
    return folder / name if (folder / name).exists() else SHIPPED / name


def untrained(name: str, released: Path) -> Any:
    """The network with which the first stage of a recipe starts.

    Args:
        name: name of the recipe.
        released: folder of released networks, preferred to those of the package.
    """
    recipe = RECIPES[name]
    config, seed = replace(recipe.network, prior=name), recipe.stages[0].seed
    begun = None if recipe.begins_with is None else load(_released(recipe.begins_with, released))
    if isinstance(begun, TabularPFN) and begun.config.target == getattr(config, "target", None):
        return begun.extended(cast(TabularPFNConfig, config))
    network = new_network(tasks_of(name), config, seed)
    if begun is not None:
        own = dict(network.named_parameters())
        for key, weight in begun.named_parameters():
            if key in own and own[key].shape == weight.shape:
                own[key].data.copy_(weight)
    return network


def average_so_far(name: str, checkpoint: Path) -> Any:
    """The moving average of the weights of an unfinished training.

    Args:
        name: name of the recipe.
        checkpoint: the training state as saved by ``train``.
    """
    network = untrained(name, SHIPPED)
    state = read_checkpoint(checkpoint)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    return network.eval()


def _stage(config: TrainingConfig, seconds: float) -> str:
    """One training stage as a line of text."""
    low, high = config.n_context
    last = f"{config.last_step:,}"
    steps = last if config.last_step == config.n_steps else f"{last} of {config.n_steps:,}"
    queries = f", {config.n_query} query rows per task" if config.n_query > 1 else ""
    return (
        f"{steps} steps of up to {config.n_tasks} tasks, context {low} to {high} rows"
        f"{queries}, seed {config.seed}; {seconds:,.0f} s"
    )


def card(name: str, network: Any, seconds: tuple[float, ...]) -> str:
    """Builds CARD.md of a trained network; all numbers are measured here.

    Args:
        name: name of the recipe.
        network: in eval mode.
        seconds: wall time of each completed stage.
    """
    recipe = RECIPES[name]
    stages = zip(recipe.stages[: len(seconds)], seconds, strict=True)
    n_parameters = sum(p.numel() for p in network.parameters())
    begins_with = recipe.begins_with
    rows = {
        "Parameters": f"{n_parameters:,}, stored in float16",
        "Begins with": f"the weights of `{begins_with}`" if begins_with else "random weights",
        **{f"Training {i}": _stage(*stage) for i, stage in enumerate(stages, 1)},
        "Software": f"torch {torch.__version__}",
        "Command": f"`python -m amortized.recipes {name}`",
    }
    rows |= _card_of(name).described(name, recipe, network, len(seconds))
    return card_text(name, _about(name), rows | measured(name, network))


def measured(name: str, network: Any) -> dict[str, str]:
    """The rows of a card that are measured on the network: score and calibration.

    Args:
        name: name of the recipe.
        network: in eval mode.
    """
    return _card_of(name).scored(name, RECIPES[name], network) | calibration_rows(network)


def renewed_card(name: str, folder: Path) -> str:
    """The card of a released network with all measurements repeated.

    Args:
        name: name of the recipe.
        folder: folder of the released network.
    """
    kept = {key: row for key, row in card_rows(folder).items() if key.startswith(OF_THE_TRAINING)}
    return card_text(name, _about(name), kept | measured(name, load(folder)))


def _train_and_release(name: str, options: argparse.Namespace) -> None:
    """Trains one stage after another and releases the network after each.

    A run that is to stop earlier is kept, but not released.
    """
    recipe, seconds = RECIPES[name], []
    network, remaining = untrained(name, options.to), options.stop_at
    for number, stage in enumerate(recipe.stages, 1):
        if remaining == 0:
            return
        whole = stage.last_step
        if remaining is not None and remaining < whole:
            stage = replace(stage, stop_at=remaining)
        directory = options.runs / name / str(number)
        accelerator = options.accelerator
        network = train(
            tasks_of(name), network, stage, directory=directory, accelerator=accelerator
        )
        if stage.last_step < whole:
            return
        remaining = None if remaining is None else remaining - whole
        seconds.append(read_checkpoint(directory / CHECKPOINT)["seconds"])
        text = card(name, as_stored(network.cpu()), tuple(seconds))
        print(text, save(network, options.to / name, text))


def main() -> None:
    """Trains a network by its recipe and releases it."""
    parser = argparse.ArgumentParser(prog="amortized.recipes", description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--stop-at", type=int, help="step after which to stop, to be resumed")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where its state is kept")
    parser.add_argument("--to", type=Path, default=Path("pretrained"), help="where it is released")
    parser.add_argument("--accelerator", default="auto", help="Lightning's, such as cpu or gpu")
    parser.add_argument("--card", action="store_true", help="only measure again for the card")
    options = parser.parse_args()
    if options.card:
        folder = options.to / options.name
        text = renewed_card(options.name, folder)
        print(text, replace_card(folder, text))
    else:
        _train_and_release(options.name, options)
