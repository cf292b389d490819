"""What the card of a network over rows or tables states: its compute and its held-out score."""

from dataclasses import replace
from typing import Any, cast

import torch
from torch.utils.flop_counter import FlopCounterMode

from amortized.priors import Prior, TaskBatch, named_prior
from amortized.recipes.table import Recipe
from amortized.training import TrainingConfig
from amortized.training.data import NumberedBatches


def held_out(prior: Prior, config: TrainingConfig, n_batches: int = 100) -> list[TaskBatch]:
    """Batches with the sizes of the training that no training step has seen."""
    batches = NumberedBatches(prior, replace(config, seed=config.seed + 10**9))
    return [cast(TaskBatch, batches.batch(step)) for step in range(n_batches)]


def log_likelihood(network: Any, batches: list[TaskBatch]) -> tuple[float, float]:
    """Mean log-likelihood per query point and its standard error over tasks of these sizes."""
    with torch.inference_mode():
        per_task = torch.cat(
            [
                network(b.x_context, b.y_context, b.x_query).log_prob(b.y_query).mean(-1)
                for b in batches
            ]
        )
    return per_task.mean().item(), per_task.std().item() / len(per_task) ** 0.5


def training_flops(network: Any, batches: list[TaskBatch], n_steps: int) -> float:
    """Floating-point operations of a training in matrix products and attention."""
    counter = FlopCounterMode(display=False)
    with counter:
        for batch in batches:
            network.loss(batch).backward()
    network.zero_grad(set_to_none=True)
    return counter.get_total_flops() / len(batches) * n_steps


def described(name: str, recipe: Recipe, network: Any, n_stages: int) -> dict[str, str]:
    """The rows of a card that describe a network and its training so far."""
    prior, config = named_prior(name), network.config
    stages = recipe.stages[:n_stages]
    flops = sum(training_flops(network, held_out(prior, s, 20), s.last_step) for s in stages)
    return {
        "Context": f"up to {config.max_context} rows, {config.n_features} features",
        "Compute": f"{flops:.2g} FLOPs",
        "Gap to the oracle": "not measured",  # filled in from a benchmark
    }


def scored(name: str, recipe: Recipe, network: Any) -> dict[str, str]:
    """The row of a card that states the held-out log-likelihood."""
    batches = held_out(named_prior(name), recipe.stages[-1])
    mean, error = log_likelihood(network, batches)
    return {
        "Held-out log-likelihood": f"{mean:.4f} +- {error:.4f} nats per query point, "
        f"{sum(len(b.y_query) for b in batches):,} tasks of the last schedule's sizes"
    }
