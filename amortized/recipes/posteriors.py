"""What the card of a Distribution Transformer states: its latents, and its gap to the posterior."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.problems import named_tasks
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks, posterior_draws
from amortized.networks import DistributionTransformer
from amortized.recipes.table import Recipe
from amortized.sampling.exact.latent_reference import reference_log_prob
from amortized.seeding import seeded
from amortized.training import TrainingConfig
from amortized.training.data import batch_seed


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
        return [network(b.latent_prior, b.observations, b.masks, b.summary) for b in batches]


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


def described(
    name: str, recipe: Recipe, network: DistributionTransformer, n_stages: int
) -> dict[str, str]:
    """The rows of a card that describe a network's latents and data."""
    tasks, (low, high) = named_tasks(name), recipe.stages[-1].n_context
    return {
        "Latents": f"{', '.join(tasks.names)}: {tasks.dim} in unconstrained space",
        "Data": f"{low} to {high} rows",
    }


def scored(name: str, recipe: Recipe, network: DistributionTransformer) -> dict[str, str]:
    """The row of a card that states the KL divergence from the exact posterior."""
    tasks, config = named_tasks(name), recipe.stages[-1]
    batches = held_out(tasks, config, recipe.n_reference or 1000)
    mixtures = answers(network, batches)
    by = "quadrature" if recipe.n_reference else "importance weights"
    with seeded(0):
        gap = gaps(tasks, batches, mixtures, bool(recipe.n_reference))
    low, high = config.n_context
    return {
        "Gap to the exact posterior": f"mean KL {gap.mean():.4f} +- "
        f"{gap.std() / len(gap) ** 0.5:.4f} nats by {by}, {len(gap)} fresh priors and datasets of "
        f"{low} to {high} rows"
    }
