"""How the pretrained Distribution Transformers are trained: one problem, size and schedule a name.

``python -m amortized.dt_recipes dt-normal`` trains that network in ``runs/dt-normal``, resuming
what is there, and writes it with its card to ``pretrained/dt-normal`` when the schedule is done.
``--stop-at 5000`` stops there; the same command goes on. ``--card`` trains nothing: it measures the
released network again and renews its card.
"""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from amortized.diagnostics import calibration_rows
from amortized.gaussian_mixture import GaussianMixture
from amortized.infer.ladder import weigh
from amortized.latent_priors.catalogue import TASKS, named_tasks
from amortized.latent_priors.density import LatentPriorDensity
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.pretrained import card_rows, card_text, load, replace_card, save
from amortized.priors.density import ProgramDensity
from amortized.sampling.latent_reference import reference_log_prob
from amortized.sampling.start import FromMixture
from amortized.training import TrainingConfig, train
from amortized.training.data import step_seed
from amortized.training.train import CHECKPOINT


class Recipe(NamedTuple):
    """All that a training needs beside its tasks, which have the same name.

    Attributes:
        network: size of the network.
        training: length, sizes and rates.
        n_reference: fresh tasks that the exact posterior is computed for by quadrature; 0 where
            there are too many latents for that.
    """

    network: DistributionTransformerConfig
    training: TrainingConfig
    n_reference: int


def _training(n_steps: int, n_context: tuple[int, int], **changes: Any) -> TrainingConfig:
    settings = TrainingConfig(
        n_steps=n_steps,
        n_tasks=512,
        n_context=n_context,
        n_query=1,
        log_uniform_context=n_context[0] < n_context[1],
        weight_decay=1e-4,
        ema_decay=0.999,
    )
    return replace(settings, **changes)


# Sizes and lengths for half an hour of one core. Where the program's sketch holds sufficient
# statistics, rows need not be read: a step then costs the same for one row and for a hundred.
_SIZE = DistributionTransformerConfig()
_SUMMARY = replace(_SIZE, reads_rows=False)
RECIPES: Mapping[str, Recipe] = {
    "dt-mean": Recipe(replace(_SUMMARY, d_model=32, n_layers=2), _training(8000, (1, 1)), 1000),
    "dt-variance": Recipe(_SUMMARY, _training(10_000, (1, 1)), 1000),
    "dt-normal": Recipe(_SUMMARY, _training(18_000, (1, 50)), 1000),
    "dt-linear": Recipe(_SUMMARY, _training(16_000, (5, 100)), 500),
    "dt-logistic": Recipe(_SIZE, _training(12_000, (5, 200), n_rows=6000), 0),
    "dt-oup": Recipe(replace(_SIZE, n_components=8), _training(12_000, (25, 25), n_tasks=256), 500),
    "dt-sir": Recipe(replace(_SIZE, n_components=8), _training(12_000, (10, 10), n_tasks=256), 300),
    "dt-filter": Recipe(replace(_SIZE, n_components=6), _training(12_000, (2, 2), n_tasks=384), 0),
}


OF_THE_TRAINING = {"Parameters", "Latents", "Data", "Training", "Software", "Command"}
"""Rows of a card that are written when a network is trained, and stay."""


def held_out(tasks: LatentTasks, config: TrainingConfig, n_tasks: int) -> list[LatentTaskBatch]:
    """Tasks that no training step has seen, in ten sizes of datasets."""
    low, high = config.n_context
    sizes = [round(low * (high / low) ** (i / 9)) for i in range(10)]
    n = max(1, n_tasks // 10)
    return [tasks.sample(n, size, seed=step_seed(10**9, i)) for i, size in enumerate(sizes)]


def answers(
    network: DistributionTransformer, batches: list[LatentTaskBatch]
) -> list[GaussianMixture]:
    """What a network answers to batches of tasks."""
    with torch.no_grad():
        return [network(b.latent_prior, b.observations, b.masks, b.sketch) for b in batches]


def gaps(
    tasks: LatentTasks, batches: list[LatentTaskBatch], mixtures: list[GaussianMixture]
) -> Tensor:
    """Exact minus answered log density of each task's latents: its mean is the mean KL."""
    pairs = zip(batches, mixtures, strict=True)
    return torch.cat([reference_log_prob(tasks, b) - q.log_prob(b.u) for b, q in pairs])


def implied_gaps(
    tasks: LatentTasks, batches: list[LatentTaskBatch], mixtures: list[GaussianMixture]
) -> Tensor:
    """What `gaps` says, with the evidence that importance weights give: for many latents too."""
    gap = []
    for batch, mixture in zip(batches, mixtures, strict=True):
        rows = batch.observations["data"].double()
        own = ProgramDensity(tasks.prior.model, rows[..., :-1], rows[..., -1])
        density, answer = LatentPriorDensity(own, batch.latent_prior), mixture.to(torch.float64)
        draws, _ = weigh(density, FromMixture(answer), 1000, prior_share=0.0)
        u = batch.u.double()
        assert draws.log_evidence is not None
        exact = density.log_density(u.unsqueeze(1))[:, 0] - draws.log_evidence
        there = batch.masks["data"].all(-1)  # not where the program overflowed
        gap.append((exact - answer.log_prob(u))[there])
    return torch.cat(gap)


def card(
    name: str, network: DistributionTransformer, tasks: LatentTasks, seconds: float | None = None
) -> str:
    """What CARD.md says of a trained network; every number is measured here or given.

    Args:
        name: of the recipe.
        network: in eval mode.
        tasks: that it was trained on.
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
    return card_text(name, TASKS[name].__doc__ or "", rows | measured(name, network, tasks))


def measured(name: str, network: DistributionTransformer, tasks: LatentTasks) -> dict[str, str]:
    """The rows of a card that are measured on the network itself: its gap and its calibration."""
    recipe = RECIPES[name]
    batches = held_out(tasks, recipe.training, recipe.n_reference or 1000)
    mixtures = answers(network, batches)
    if recipe.n_reference:
        by, gap = "quadrature", gaps(tasks, batches, mixtures)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            by, gap = "importance weights", implied_gaps(tasks, batches, mixtures)
    low, high = recipe.training.n_context
    found = {
        "Gap to the exact posterior": f"mean KL {gap.mean():.4f} +- "
        f"{gap.std() / len(gap) ** 0.5:.4f} nats by {by}, {len(gap)} fresh priors and datasets of "
        f"{low} to {high} rows"
    }
    return found | calibration_rows(network)


def renewed_card(name: str, folder: Path) -> str:
    """The card of a released network with all that can be measured on it measured again."""
    kept = {key: row for key, row in card_rows(folder).items() if key in OF_THE_TRAINING}
    again = measured(name, load(folder), named_tasks(name))
    return card_text(name, TASKS[name].__doc__ or "", kept | again)


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
        stored = torch.load(options.runs / options.name / CHECKPOINT, weights_only=False)
        text = card(options.name, network, tasks, stored["seconds"])
        print(text, save(network, options.out / options.name, text))


if __name__ == "__main__":
    main()
