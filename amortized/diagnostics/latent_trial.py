"""A Distribution Transformer on trial: its answers to tasks under many latent priors."""

import time

import torch
from torch import Tensor
from tqdm import tqdm

from amortized.diagnostics.trial import PosteriorTrial, batch_seed
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.networks import DistributionTransformer
from amortized.program.density import ProgramDensity
from amortized.seeding import seeded


def latent_trial(
    network: DistributionTransformer,
    tasks: LatentTasks,
    *,
    n_datasets: int = 1000,
    n_context: int = 20,
    n_draws: int = 100,
    exact_density: bool = False,
    batch_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> PosteriorTrial:
    """Draws priors, latents and data, and asks the network for the posterior of each.

    The latents are those in unconstrained space, where the network's mixtures live; ranks and
    coverage are the same in the latents' own units.

    Args:
        network: answers.
        tasks: that it was trained on, of `amortized.latent_priors.problems.named_tasks`.
        n_datasets: how many; those at which the program overflows are left out.
        n_context: rows of each.
        n_draws: posterior draws for each.
        exact_density: whether to evaluate the exact density too, for `importance_efficiency`.
        batch_size: datasets drawn and answered together.
        seed: of the tasks and the draws.
        progress: shows a bar.

    Example:
        >>> from amortized.latent_priors.problems import named_tasks
        >>> from amortized.networks import DistributionTransformerConfig
        >>> tasks = named_tasks("dt-mean")
        >>> config = DistributionTransformerConfig(d_model=16, n_layers=1, n_components=3)
        >>> untrained = DistributionTransformer.new(tasks, config)
        >>> trial = latent_trial(untrained, tasks, n_datasets=4, n_context=1, progress=False)
        >>> trial.draws["mean"].shape
        torch.Size([100, 4])
    """
    parts, seconds = [], 0.0
    for start in tqdm(range(0, n_datasets, batch_size), unit="batch", disable=not progress):
        size = min(batch_size, n_datasets - start)
        batch = tasks.sample(size, n_context, seed=batch_seed(seed, start))
        began = time.perf_counter()
        with seeded(seed + start), torch.no_grad():
            posterior = network(batch.latent_prior, batch.observations, batch.masks, batch.sketch)
            draws = posterior.sample((n_draws,))
        seconds += time.perf_counter() - began
        with torch.no_grad():
            log_probs = posterior.log_prob(batch.u), posterior.log_prob(draws)
        exact = _log_density(tasks, batch, draws) if exact_density else None
        rows = batch.observations["data"]
        seen = batch.masks["data"].all(-1)  # not where the program overflowed: no data were given
        rows, at_truth, at_draws = rows[seen], log_probs[0][seen], log_probs[1][:, seen]
        exact = None if exact is None else exact[:, seen]
        kept = batch.u[seen], draws[:, seen], at_truth, at_draws
        parts.append((*kept, rows[..., :-1], rows[..., -1], exact))
    u, drawn, truths, scored, x, y, exacts = zip(*parts, strict=True)
    layout = tasks.simulator.layout
    truth, joined = torch.cat(u), torch.cat(drawn, 1)

    def named(values: Tensor) -> dict[str, Tensor]:
        return {
            name: values[..., where].reshape(*values.shape[:-1], *shape)
            for name, (where, shape) in layout.items()
        }

    return PosteriorTrial(
        named(truth),
        named(joined),
        method="dt",
        log_prob_truth=torch.cat(truths),
        log_prob_draws=torch.cat(scored, 1),
        log_density_draws=torch.cat(exacts, 1) if exact_density else None,
        x=torch.cat(x).double(),
        y=torch.cat(y).double(),
        n_drawn=n_draws,
        seconds=seconds,
    )


def _log_density(tasks: LatentTasks, batch: LatentTaskBatch, draws: Tensor) -> Tensor:
    """The given prior's density times the program's likelihood, ``(n_draws, n_datasets)``."""
    rows = batch.observations["data"].double()
    density = ProgramDensity(tasks.prior.model, rows[..., :-1], rows[..., -1])
    prior = batch.latent_prior.to(torch.float64)
    u = draws.double()
    return prior.log_prob(u) + density.log_likelihood(u.movedim(1, 0)).T
