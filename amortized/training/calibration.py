r"""Calibration of a network after training, measured on new tasks within seconds.

If the network were exact, the following ranks would be uniform over tasks: that of a query's target
in its predictive, and those of each latent and of the log density among posterior draws. If the
program has a density, the efficiency of importance weights is computed as well, which also detects
posteriors that are calibrated on average but far too wide.

References:
    Talts et al., Validating Bayesian inference algorithms with simulation-based calibration
    (2018), arXiv 1804.06788.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical

from amortized.latent_priors.tasks import LatentTaskBatch
from amortized.latent_priors.trained_prior import import_path
from amortized.networks import TabularPFN
from amortized.networks.calibration import Calibration, random_rank
from amortized.networks.catalogue import NETWORK_TYPES
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.training.config import TrainingConfig
from amortized.training.data import batch_seed

N_DATASETS, N_DRAWS = 200, 99
_MOST_ROWS = 12_000  # of all tasks of one size


def measure(network: Any, prior: Any, config: TrainingConfig) -> Calibration | None:
    """Calibration over small, medium and large tasks; None for other kinds of networks.

    Args:
        network: the trained network, in eval mode.
        prior: its training prior.
        config: its training configuration; training batches are avoided.
    """
    if not isinstance(network, NETWORK_TYPES):
        return None
    device = next(network.parameters()).device
    values: dict[str, list[Tensor]] = {}
    efficiencies: list[Tensor] = []
    sizes = _sizes(network, prior, config)
    for size in sizes:
        n_tasks = int(np.clip(_MOST_ROWS // (size + 1), 40, N_DATASETS))
        seed = batch_seed(config.seed, size, rank=2**31)  # no process has this rank
        batch = prior.sample(n_tasks, size, 1, seed=seed, device=device)
        with seeded(seed), torch.no_grad():
            if isinstance(batch, TaskBatch):
                found = _of_predictives(network, batch)
            else:
                found = _of_posteriors(network, batch, getattr(prior, "names", []))
                efficiencies += _efficiency(network, batch)
        for label, u in found.items():
            values.setdefault(label, []).append(u)
    joined = {label: torch.cat(parts) for label, parts in values.items()}
    weighted = any(map(len, efficiencies))
    efficiency = float(torch.cat(efficiencies).median()) if weighted else None
    return replace(Calibration.of_ranks(joined, sizes, efficiency), prior=import_path(prior))


def _sizes(network: Any, prior: Any, config: TrainingConfig) -> tuple[int, ...]:
    if getattr(prior, "ordered", 0):
        return (prior.ordered,)
    low, high = config.n_context
    low = max(low, 1) if not isinstance(network, TabularPFN) else max(low, 2)
    return tuple(sorted({low, round((low * max(high, low)) ** 0.5), max(high, low)}))


def _of_predictives(network: Any, batch: TaskBatch) -> dict[str, Tensor]:
    """PIT of one target per task; for a class, a random point within its step."""
    predictive = network(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
    y = batch.y_query
    if not isinstance(predictive, Categorical):
        return {"y": predictive.cdf(y)[:, 0].clamp(0, 1)}
    at = y[:, 0].long().unsqueeze(-1)
    step, top = (
        p[:, 0].gather(-1, at)[:, 0] for p in (predictive.probs, predictive.probs.cumsum(-1))
    )
    known = step > 0  # a class missing from the context has probability zero
    return {"y": (top - torch.rand_like(top) * step)[known].clamp(0, 1)}


def _of_posteriors(network: Any, batch: LatentTaskBatch, names: list[str]) -> dict[str, Tensor]:
    """Ranks of each latent and of the log density among the posterior draws of each task."""
    answer = network(batch.latent_prior, batch.observations, batch.masks, batch.summary)
    draws = answer.sample((N_DRAWS,))
    seen = torch.stack([mask.all(-1) for mask in batch.masks.values()]).all(0)
    dim = batch.u.shape[-1]
    labels = names if len(names) == dim else [f"latent {i}" for i in range(dim)]
    found = {
        label: random_rank(batch.u[:, i], draws[..., i])[seen] for i, label in enumerate(labels)
    }
    at_truth, at_draws = answer.log_prob(batch.u), answer.log_prob(draws)
    return found | {"the log density": random_rank(at_truth, at_draws)[seen]}


def _efficiency(network: Any, batch: LatentTaskBatch) -> list[Tensor]:
    """Efficiency of importance weights for each task; empty without an exact density."""
    if batch.density is None:
        return []
    answer = network(batch.latent_prior, batch.observations, batch.masks, batch.summary)
    answer = answer.to(torch.float64)
    u = answer.sample((N_DRAWS,))
    exact = batch.latent_prior.to(torch.float64).log_prob(u)
    exact = exact + batch.density.log_likelihood(u.transpose(0, 1)).T
    log_weights = exact - answer.log_prob(u)
    log_weights = log_weights.where(log_weights.isfinite(), -torch.inf)
    seen = torch.stack([mask.all(-1) for mask in batch.masks.values()]).all(0)
    alive = log_weights.isfinite().any(0)
    share = 1 / log_weights.softmax(0).square().sum(0) / N_DRAWS
    return [torch.where(alive, share, 0.0)[seen]]
