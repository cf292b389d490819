r"""A network's calibration after its training, measured on fresh tasks in seconds.

Where the truth ranks in the answer is uniform over tasks if the answer is exact: the answer of a
query in its predictive; each latent, and the log density of all, among the posterior's draws. Where
the program has a density, draws are weighted by it, which sees also an answer that is calibrated on
average and far too wide.

References:
    Talts et al., Validating Bayesian inference algorithms with simulation-based calibration
    (2018), arXiv 1804.06788.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor
from torch.distributions import Categorical

from amortized.latent_priors.tasks import LatentTaskBatch
from amortized.networks import PFN, DistributionTransformer, SeriesPFN, TabularPFN
from amortized.networks.calibration import Calibration
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.training.config import TrainingConfig
from amortized.training.data import batch_seed

N_DATASETS, N_DRAWS = 200, 99
_MOST_ROWS = 12_000  # of all tasks of one size


def measure(network: Any, prior: Any, config: TrainingConfig) -> Calibration | None:
    """The calibration over small, middle and large tasks; None of a network of another kind.

    Args:
        network: trained, in eval mode.
        prior: that it was trained on.
        config: of its training, whose batches are avoided.
    """
    if not isinstance(network, PFN | SeriesPFN | TabularPFN | DistributionTransformer):
        return None
    device = next(network.parameters()).device
    values: dict[str, list[Tensor]] = {}
    efficiencies: list[Tensor] = []
    sizes = _sizes(network, prior, config)
    for size in sizes:
        n_tasks = int(np.clip(_MOST_ROWS // (size + 1), 40, N_DATASETS))
        seed = batch_seed(config.seed, size, rank=2**31)  # no rank has such a number
        batch = prior.sample(n_tasks, size, 1, seed=seed, device=device)
        with seeded(seed), torch.no_grad():
            if isinstance(batch, TaskBatch):
                found = _of_predictives(network, batch)
            else:
                found = _of_posteriors(network, batch, getattr(prior, "names", []))
                efficiencies += _efficiency(network, batch)
        for label, u in found.items():
            values.setdefault(label, []).append(u)
    joined = {label: torch.cat(parts).double().cpu().numpy() for label, parts in values.items()}
    return _verdict(joined, sizes, torch.cat(efficiencies) if any(map(len, efficiencies)) else None)


def _sizes(network: Any, prior: Any, config: TrainingConfig) -> tuple[int, ...]:
    if getattr(prior, "ordered", 0):
        return (prior.ordered,)
    low, high = config.n_context
    low = max(low, 1) if not isinstance(network, TabularPFN) else max(low, 2)
    return tuple(sorted({low, round((low * max(high, low)) ** 0.5), max(high, low)}))


def _verdict(
    values: dict[str, NDArray[np.float64]], sizes: tuple[int, ...], efficiency: Tensor | None
) -> Calibration:
    # Where an answer is NaN the truth has no rank; zero speaks against the network.
    tests = {label: stats.kstest(np.nan_to_num(u), "uniform") for label, u in values.items()}
    worst = min(tests, key=lambda label: float(tests[label].pvalue))
    return Calibration(
        n_datasets=len(values[worst]),
        n_context=sizes,
        p_value=min(1.0, float(tests[worst].pvalue) * len(tests)),
        deviation=float(tests[worst].statistic),
        worst=worst,
        efficiency=None if efficiency is None else float(efficiency.median()),
    )


def _of_predictives(network: Any, batch: TaskBatch) -> dict[str, Tensor]:
    """Where each task's answer lies in its predictive; of a class, at random within its step."""
    predictive = network(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
    y = batch.y_query
    if not isinstance(predictive, Categorical):
        return {"y": predictive.cdf(y)[:, 0].clamp(0, 1)}
    at = y[:, 0].long().unsqueeze(-1)
    step, top = (
        p[:, 0].gather(-1, at)[:, 0] for p in (predictive.probs, predictive.probs.cumsum(-1))
    )
    known = step > 0  # a class that the context lacks has no probability
    return {"y": (top - torch.rand_like(top) * step)[known].clamp(0, 1)}


def _of_posteriors(network: Any, batch: LatentTaskBatch, names: list[str]) -> dict[str, Tensor]:
    """The rank of each latent, and of the log density, among the draws of each task's answer."""
    answer = network(batch.latent_prior, batch.observations, batch.masks, batch.sketch)
    draws = answer.sample((N_DRAWS,))
    seen = torch.stack([mask.all(-1) for mask in batch.masks.values()]).all(0)
    dim = batch.u.shape[-1]
    labels = names if len(names) == dim else [f"latent {i}" for i in range(dim)]
    found = {label: _rank(batch.u[:, i], draws[..., i])[seen] for i, label in enumerate(labels)}
    at_truth, at_draws = answer.log_prob(batch.u), answer.log_prob(draws)
    return found | {"the log density": _rank(at_truth, at_draws)[seen]}


def _rank(truth: Tensor, draws: Tensor) -> Tensor:
    """In (0, 1), at random between its neighbours."""
    return ((draws < truth).sum(0) + torch.rand_like(truth)) / (len(draws) + 1)


def _efficiency(network: Any, batch: LatentTaskBatch) -> list[Tensor]:
    """Effective share of the draws under the exact density, task by task; nothing without one."""
    if batch.density is None:
        return []
    answer = network(batch.latent_prior, batch.observations, batch.masks, batch.sketch)
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
