"""Training recipes of the released networks: each name fixes prior, network size and schedule.

``python -m amortized.recipes gp-1d`` trains that network in ``runs/gp-1d``, resuming an earlier
run, and writes it with its card to ``pretrained/gp-1d`` after each stage. With ``--card`` it does
not train but repeats the measurements of the released network; the rows about training are kept.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from amortized.diagnostics import calibration_rows
from amortized.networks import (
    PFN,
    PFNConfig,
    SeriesPFN,
    SeriesPFNConfig,
    TabularPFN,
    TabularPFNConfig,
    new_network,
)
from amortized.pretrained import as_stored, card_rows, card_text, load, replace_card, save
from amortized.pretrained.storage import SHIPPED
from amortized.priors import Prior, TaskBatch, named_prior
from amortized.priors.named import PRIORS
from amortized.training import TrainingConfig, train
from amortized.training.checkpoint import read_checkpoint
from amortized.training.data import NumberedBatches
from amortized.training.train import CHECKPOINT


class Recipe(NamedTuple):
    """The training of a network, except its prior, which has the same name.

    Attributes:
        network: size of the network.
        stages: steps, batch sizes and learning rates of each stage, which continues the previous
            one.
        begins_with: released network whose weights initialise the new one, as far as shapes agree.
    """

    network: PFNConfig | SeriesPFNConfig | TabularPFNConfig
    stages: tuple[TrainingConfig, ...]
    begins_with: str | None = None


_TABLES = TrainingConfig(
    n_steps=6000,
    n_tasks=16,
    n_rows=1536,
    n_context=(32, 512),
    log_uniform_context=True,
    n_query=64,
    ema_decay=0.999,
    precision="bf16-mixed",
)


# Small tables first, then larger ones.
_LARGER_TABLES = replace(
    _TABLES, n_steps=4000, n_rows=2048, n_context=(32, 1000), lr=7e-4, muon_lr=2e-3, seed=1
)
_CLASSES = TabularPFNConfig(max_context=1000, n_features=30)


# Harder tables of up to 2,000 rows and 100 columns. The moving average can be released at any time,
# and the schedule of a run can be changed while it continues.
_DIVERSE_TABLES = replace(
    _TABLES,
    n_steps=24_000,
    n_context=(32, 2000),
    n_query=96,
    lr=4e-4,
    muon_lr=1.2e-3,
    warmup=0.01,
    ema_decay=0.998,
    checkpoint_every=100,
    seed=3,
)
_DIVERSE_CLASSES = replace(
    _CLASSES, max_context=2000, n_features=100, classes_at_once=10, n_hashes=4
)


_GP = TrainingConfig(
    n_steps=16_000,
    n_tasks=32,
    n_context=(1, 200),
    log_uniform_context=True,
    n_query=24,
    ema_decay=0.999,
    precision="bf16-mixed",
    compile=True,
)
_GP_1D = replace(_GP, n_steps=22_000, n_context=(1, 50), log_uniform_context=False)

# Neighbouring steps are 0.002 units apart at the end of a curve and 0.15 at its start.
_CURVES = PFNConfig(n_features=1, max_context=100, d_hidden=192, frequencies=(0.5, 100.0))
_CURVE_STEPS = replace(_GP, n_context=(1, 99), log_uniform_context=False)

# It begins at an average of exact answers, from which hundreds of steps go far; a later stop is
# better still.
_SERIES = TrainingConfig(
    n_steps=1600,
    stop_at=500,
    n_context=(6, 512),
    log_uniform_context=True,
    n_query=12,
    checkpoint_every=100,
)

RECIPES: Mapping[str, Recipe] = {
    "gp-1d": Recipe(
        PFNConfig(n_features=1, max_context=50, d_hidden=192, frequencies=(0.1, 20.0)),
        (_GP_1D, replace(_GP_1D, n_steps=8_000, lr=7e-4, muon_lr=2e-3, seed=1)),
    ),
    "gp": Recipe(
        PFNConfig(n_features=10, max_context=200, d_hidden=192, frequencies=(0.05, 5.0)),
        (_GP, replace(_GP, n_steps=32_000, lr=7e-4, muon_lr=2e-3, seed=1)),
    ),
    "learning-curve": Recipe(
        _CURVES,
        (
            replace(_CURVE_STEPS, n_steps=20_000),
            replace(_CURVE_STEPS, n_steps=12_000, lr=7e-4, muon_lr=2e-3, seed=1),
            replace(_CURVE_STEPS, n_steps=12_000, lr=7e-4, muon_lr=2e-3, seed=2),
        ),
    ),
    "learning-curve-discrepancy": Recipe(
        _CURVES,
        (replace(_CURVE_STEPS, n_steps=14_000, lr=7e-4, muon_lr=2e-3),),
        begins_with="learning-curve",
    ),
    "series": Recipe(SeriesPFNConfig(), (_SERIES,)),
    "tabular-classifier": Recipe(
        _CLASSES, (_TABLES, _LARGER_TABLES, replace(_LARGER_TABLES, n_steps=2400, seed=2))
    ),
    # The relations between the cells of a table are the same for every target type.
    "tabular-regressor": Recipe(
        replace(_CLASSES, target="regression"),
        (_TABLES, _LARGER_TABLES, replace(_LARGER_TABLES, n_steps=3000, seed=2)),
        begins_with="tabular-classifier",
    ),
    "tabular-classifier-2": Recipe(
        _DIVERSE_CLASSES, (_DIVERSE_TABLES,), begins_with="tabular-classifier"
    ),
    "tabular-regressor-2": Recipe(
        replace(_DIVERSE_CLASSES, target="regression"),
        (_DIVERSE_TABLES,),
        begins_with="tabular-regressor",
    ),
}


OF_THE_TRAINING = (
    "Parameters",
    "Context",
    "Begins with",
    "Training",
    "Compute",
    "Seed",
    "Command",
    "Gap to the oracle",  # a benchmark of hours
)
"""Rows of a card that are written after training and kept when the card is renewed."""


def untrained(name: str, released: Path) -> PFN | SeriesPFN | TabularPFN:
    """The network with which the first stage of a recipe starts.

    Args:
        name: name of the recipe.
        released: folder of released networks.
    """
    recipe = RECIPES[name]
    config, seed = replace(recipe.network, prior=name), recipe.stages[0].seed
    begun = None if recipe.begins_with is None else load(released / recipe.begins_with)
    if isinstance(begun, TabularPFN) and begun.config.target == getattr(config, "target", None):
        return begun.extended(cast(TabularPFNConfig, config))
    network = cast(PFN | SeriesPFN | TabularPFN, new_network(named_prior(name), config, seed))
    if begun is not None:
        own = dict(network.named_parameters())
        for key, weight in begun.named_parameters():
            if key in own and own[key].shape == weight.shape:
                own[key].data.copy_(weight)
    return network


def average_so_far(
    name: str, checkpoint: Path, released: Path = SHIPPED
) -> PFN | SeriesPFN | TabularPFN:
    """The moving average of the weights of an unfinished training.

    Args:
        name: name of the recipe.
        checkpoint: the training state as saved by ``train``.
        released: folder of released networks.
    """
    network = untrained(name, released)
    state = read_checkpoint(checkpoint)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    return network.eval()


def held_out(prior: Prior, config: TrainingConfig, n_batches: int = 100) -> list[TaskBatch]:
    """Batches with the sizes of the training that no training step has seen."""
    batches = NumberedBatches(prior, replace(config, seed=config.seed + 10**9))
    return [cast(TaskBatch, batches.batch(step)) for step in range(n_batches)]


def log_likelihood(
    network: PFN | SeriesPFN | TabularPFN, batches: list[TaskBatch]
) -> tuple[float, float]:
    """Mean log-likelihood per query point and its standard error over tasks of these sizes."""
    with torch.inference_mode():
        per_task = torch.cat(
            [
                network(b.x_context, b.y_context, b.x_query).log_prob(b.y_query).mean(-1)
                for b in batches
            ]
        )
    return per_task.mean().item(), per_task.std().item() / len(per_task) ** 0.5


def training_flops(
    network: PFN | SeriesPFN | TabularPFN, batches: list[TaskBatch], n_steps: int
) -> float:
    """Floating-point operations of a training in matrix products and attention."""
    counter = FlopCounterMode(display=False)
    with counter:
        for batch in batches:
            network.loss(batch).backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batches) * n_steps


def _stage(config: TrainingConfig, seconds: float) -> str:
    """One training stage as a line of text."""
    of = "" if config.last_step == config.n_steps else f" of {config.n_steps:,}"
    fewest, most = config.n_context
    return (
        f"{config.last_step:,}{of} steps of up to {config.n_tasks} tasks, context {fewest} to "
        f"{most} rows, {config.n_query} query rows a task, seed {config.seed}; {seconds:,.0f} s"
    )


def card(name: str, network: PFN | SeriesPFN | TabularPFN, seconds: tuple[float, ...]) -> str:
    """Builds CARD.md of a trained network; all numbers are measured here.

    Args:
        name: name of the recipe.
        network: in eval mode.
        seconds: wall time of each completed stage.
    """
    stages, prior = RECIPES[name].stages[: len(seconds)], named_prior(name)
    flops = sum(training_flops(network, held_out(prior, s, 20), s.last_step) for s in stages)
    n_parameters = sum(p.numel() for p in network.parameters())
    begins_with = RECIPES[name].begins_with
    rows = {
        "Parameters": f"{n_parameters:,}, stored in float16",
        "Context": f"up to {network.config.max_context} rows, {network.config.n_features} features",
        "Begins with": f"the weights of `{begins_with}`" if begins_with else "random weights",
        **{
            f"Training {i}": _stage(stage, spent)
            for i, (stage, spent) in enumerate(zip(stages, seconds, strict=True), 1)
        },
        "Compute": f"{flops:.2g} FLOPs, torch {torch.__version__}",
        "Command": f"`python -m amortized.recipes {name}`",
        "Gap to the oracle": "not measured",  # filled in from a benchmark
    }
    return card_text(name, PRIORS[name].__doc__ or "", rows | measured(name, network))


def measured(name: str, network: PFN | SeriesPFN | TabularPFN) -> dict[str, str]:
    """The rows of a card that are measured on the network: score and calibration.

    Args:
        name: name of the recipe.
        network: in eval mode.
    """
    batches = held_out(named_prior(name), RECIPES[name].stages[-1])
    mean, error = log_likelihood(network, batches)
    score = {
        "Held-out log-likelihood": f"{mean:.4f} +- {error:.4f} nats per query point, "
        f"{sum(len(b.y_query) for b in batches):,} tasks of the last schedule's sizes",
    }
    return score | calibration_rows(network)


def renewed_card(name: str, folder: Path) -> str:
    """The card of a released network with all measurements repeated.

    Args:
        name: name of the recipe.
        folder: folder of the released network.
    """
    kept = {key: row for key, row in card_rows(folder).items() if key.startswith(OF_THE_TRAINING)}
    return card_text(name, PRIORS[name].__doc__ or "", kept | measured(name, load(folder)))


def main() -> None:
    """Trains a network by its recipe and releases it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where its state is kept")
    parser.add_argument("--to", type=Path, default=Path("pretrained"), help="where it is released")
    parser.add_argument("--card", action="store_true", help="only measure again for the card")
    arguments = parser.parse_args()
    name, recipe = arguments.name, RECIPES[arguments.name]
    if arguments.card:
        text = renewed_card(name, arguments.to / name)
        print(text, replace_card(arguments.to / name, text))
        return
    network = untrained(name, arguments.to)
    seconds = []
    for number, stage in enumerate(recipe.stages, 1):
        directory = arguments.runs / name / str(number)
        network = train(named_prior(name), network, stage, directory=directory)
        seconds.append(read_checkpoint(directory / CHECKPOINT)["seconds"])
        text = card(name, as_stored(network), tuple(seconds))
        print(text, save(network, arguments.to / name, text))


if __name__ == "__main__":
    main()
