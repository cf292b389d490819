"""Simulation-based evaluation: datasets drawn from a prior, and a method's posterior for each.

Inference is run once per dataset, and every diagnostic uses the same trial. `PosteriorTrial.run`
draws from one prior; `latent_trial` evaluates a Distribution Transformer under many latent priors.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortized.arrays import refuse_nan
from amortized.infer import infer
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.networks import DistributionTransformer
from amortized.posterior.posterior import Latents, Posterior
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch
from amortized.program.density import ProgramDensity
from amortized.progress import progress_bar
from amortized.seeding import seeded
from amortized.validation import seed_number, whole_number

PosteriorMethod = str | Callable[[TaskBatch, int], Posterior | Latents]
"""A method of `infer`, or a function of datasets and a number of draws that returns a `Posterior`
or draws ``{name: (n_draws, n_datasets, *event)}``."""

Array = np.ndarray


@dataclass(frozen=True)
class PosteriorTrial:
    """True latents of many datasets, and a method's posterior draws for each.

    Attributes:
        truth: latents that generated each dataset, ``{name: (n_datasets, *event)}``.
        draws: equally weighted posterior draws, ``{name: (n_draws, n_datasets, *event)}``.
        method: name of the method.
        log_prob_truth: the method's normalised log density at the truth, ``(n_datasets,)``; None if
            it provides none.
        log_prob_draws: the same at its draws, ``(n_draws, n_datasets)``.
        log_density_draws: exact log density at the draws, up to a constant for each dataset, or
            None.
        x: inputs of each dataset, ``(n_datasets, n_context, n_features)``.
        y: targets of each dataset, ``(n_datasets, n_context)``.
        n_drawn: draws that the method made for each dataset, before thinning.
        per_dataset: the method's own diagnostics, such as ``k_hat``, ``{name: (n_datasets,)}``.
        seconds: total time of the method.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> trial = PosteriorTrial.run(
        ...     NormalMeanPrior(), "exact", n_datasets=8, n_context=3, progress=False
        ... )
        >>> trial.draws["mean"].shape, trial.log_prob_truth.shape
        (torch.Size([100, 8]), torch.Size([8]))
    """

    truth: Mapping[str, Tensor]
    draws: Mapping[str, Tensor]
    method: str = "method"
    log_prob_truth: Tensor | None = None
    log_prob_draws: Tensor | None = None
    log_density_draws: Tensor | None = None
    x: Tensor | None = None
    y: Tensor | None = None
    n_drawn: int = 0
    per_dataset: Mapping[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.draws or any(0 in value.shape[:2] for value in self.draws.values()):
            raise ValueError(
                "Expected draws of at least one latent, for at least one dataset; got none."
            )
        for name, value in self.draws.items():
            if name not in self.truth:
                raise ValueError(
                    f"Expected draws of the prior's latents {sorted(self.truth)}; got {name!r}."
                )
            if value.shape[1:] != self.truth[name].shape:
                raise ValueError(
                    f"Expected draws of {name!r} of shape (n_draws, "
                    f"{', '.join(map(str, self.truth[name].shape))}); got {tuple(value.shape)}."
                )

    @classmethod
    def run(
        cls,
        prior: Prior,
        method: PosteriorMethod = "auto",
        *,
        n_datasets: int = 1000,
        n_context: int = 20,
        n_draws: int = 100,
        thin: int = 1,
        batch_size: int = 256,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> "PosteriorTrial":
        """Draws datasets from the prior and computes the method's posterior for each.

        Args:
            prior: a prior with latents; a `ProgramPrior` if ``method`` is a name.
            method: name of a method of `infer`, or a function of a `TaskBatch` and a number of
                draws that returns a `Posterior` or draws ``{name: (n_draws, n_datasets, *event)}``.
            n_datasets: number of datasets.
            n_context: number of observations in each.
            n_draws: number of draws kept for each.
            thin: number of draws made for each draw kept. Autocorrelated draws look like a wrong
                posterior: use about 10 for "nuts".
            batch_size: number of datasets processed together.
            seed: seed of the datasets and of the method.
            progress: whether a progress bar is shown.
            **options: options of `infer`.
        """
        if not isinstance(method, str) and not callable(method):
            raise TypeError(f"Expected the name of a method, or a function; got {method!r}.")
        n_draws, thin = whole_number("n_draws", n_draws), whole_number("thin", thin)
        parts, seconds = [], 0.0
        for start, batch in batches(prior, n_datasets, n_context, 0, batch_size, seed, progress):
            if not batch.latents:
                raise ValueError("Expected a prior with latents; this one draws none.")
            if batch.context_mask is not None:
                raise ValueError("Expected datasets without a mask; this prior draws masked ones.")
            began = time.perf_counter()
            answer = _answer(prior, method, batch, n_draws * thin, seed + start, options)
            seconds += time.perf_counter() - began
            parts.append(_part(answer, batch, n_draws, seed + start))
        return cls(
            **_joined(parts), method=method_name(method), seconds=seconds, n_drawn=n_draws * thin
        )

    @property
    def n_datasets(self) -> int:
        """Number of datasets."""
        return len(next(iter(self.truth.values())))

    @property
    def n_draws(self) -> int:
        """Number of draws for each dataset."""
        return len(next(iter(self.draws.values())))

    def log_densities(self) -> tuple[Array, Array] | None:
        """The method's log density at the truth and at the draws; None if it has none."""
        if self.log_prob_truth is None or self.log_prob_draws is None:
            return None
        at_truth, at_draws = self.log_prob_truth.double(), self.log_prob_draws.double()
        return at_truth.cpu().numpy(), at_draws.cpu().numpy()

    def matrices(self) -> tuple[Array, Array]:
        """Truth ``(n_datasets, dim)`` and draws ``(n_draws, n_datasets, dim)``, latents joined.

        Raises:
            ValueError: if they contain NaN, which no diagnostic can handle.
        """
        for name, value in self.draws.items():
            refuse_nan(f"true values of {name!r}", self.truth[name])
            refuse_nan(f"draws of {name!r} by {self.method}", value)
        truth = torch.cat(
            [self.truth[k].double().reshape(self.n_datasets, -1) for k in self.draws], -1
        )
        shape = (self.n_draws, self.n_datasets, -1)
        draws = torch.cat([value.double().reshape(shape) for value in self.draws.values()], -1)
        return truth.detach().cpu().numpy(), draws.detach().cpu().numpy()

    def labels(self) -> list[str]:
        """Name of each scalar latent, as in ``"weights[0]"``, in the order of `matrices`."""
        return [
            f"{name}[{', '.join(map(str, at))}]" if at else name
            for name in self.draws
            for at in np.ndindex(*self.truth[name].shape[1:])
        ]


def method_name(method: Any) -> str:
    """The name of a method in titles."""
    if isinstance(method, str):
        return method
    return getattr(method, "__name__", type(method).__name__)


def batch_seed(seed: int, start: int) -> int:
    """The seed of the datasets from number ``start`` on, unrelated to those of other batches."""
    return int(np.random.SeedSequence([seed_number(seed), start]).generate_state(1)[0])


def batches(
    prior: Any,
    n_datasets: int,
    n_context: int,
    n_query: int,
    batch_size: int,
    seed: int,
    progress: bool,
) -> Iterator[tuple[int, Any]]:
    """Draws datasets in batches, each with the number of its first dataset; may show a bar."""
    n_datasets = whole_number("n_datasets", n_datasets, 1)
    batch_size = whole_number("batch_size", batch_size, 1)
    with progress_bar("datasets", "dataset", n_datasets, shown=progress) as bar:
        for start in range(0, n_datasets, batch_size):
            size = min(batch_size, n_datasets - start)
            yield start, prior.sample(size, n_context, n_query, seed=batch_seed(seed, start))
            bar.update(size)


def _answer(
    prior: Prior,
    method: PosteriorMethod,
    batch: TaskBatch,
    n_draws: int,
    seed: int,
    options: dict[str, Any],
) -> Posterior | Latents:
    if isinstance(method, str):
        return infer(
            prior,
            batch.x_context,
            batch.y_context,
            method=method,
            n_draws=n_draws,
            seed=seed,
            **options,
        )
    with seeded(seed), torch.no_grad():
        return method(batch, n_draws, **options)


def _part(answer: Posterior | Latents, batch: TaskBatch, n_draws: int, seed: int) -> dict[str, Any]:
    assert batch.latents is not None
    truth = {name: value.double() for name, value in batch.latents.items()}
    part: dict[str, Any] = {
        "truth": truth,
        "x": batch.x_context.double(),
        "y": batch.y_context.double(),
    }
    if not isinstance(answer, Posterior):
        return part | {"draws": {k: _thinned(value, n_draws) for k, value in answer.items()}}
    draws = answer.sample(n_draws, seed=seed)
    part["draws"] = draws
    try:
        asked = {name: truth[name].unsqueeze(0) for name in draws if name in truth}
        part |= {"log_prob_truth": answer.log_prob(asked)[0]}
        part |= {"log_prob_draws": answer.log_prob(draws)}
    except ValueError:  # the method provides no normalised density
        part.pop("log_prob_truth", None)
    part["per_dataset"] = {
        name: value
        for name, value in answer.diagnostics.items()
        if isinstance(value, Tensor) and value.shape == (batch.n_tasks,)
    }
    return part


def _thinned(draws: Tensor, n_draws: int) -> Tensor:
    """Evenly spaced draws, including the last one."""
    if len(draws) < n_draws:
        raise ValueError(f"Expected a method that returns {n_draws} draws; got {len(draws)}.")
    step = len(draws) // n_draws
    return draws[-n_draws * step :][step - 1 :: step]


def _joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Concatenates the batches; datasets are the second axis of draws, and else the first."""
    joined: dict[str, Any] = {}
    for key in parts[0]:
        values = [part[key] for part in parts]
        axis = 1 if key in ("draws", "log_prob_draws", "log_density_draws") else 0
        if isinstance(values[0], Mapping):
            joined[key] = {k: torch.cat([v[k] for v in values], axis) for k in values[0]}
        else:
            joined[key] = torch.cat(values, axis)
    return joined


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
    """Draws priors, latents and data, and computes the network's posterior for each.

    Latents are in unconstrained space, where the network's mixtures are defined; ranks and coverage
    are the same in the latents' own units.

    Args:
        network: the network to evaluate.
        tasks: its training tasks, as from `amortized.latent_priors.problems.named_tasks`.
        n_datasets: number of datasets; those for which the program overflows are left out.
        n_context: number of rows of each.
        n_draws: number of posterior draws for each.
        exact_density: whether the exact density is evaluated as well, for `importance_efficiency`,
            if the program has one.
        batch_size: number of datasets processed together.
        seed: seed of the tasks and the draws.
        progress: whether a progress bar is shown.

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
    layout = tasks.simulator.layout

    def named(values: Tensor) -> dict[str, Tensor]:
        return {
            name: values[..., where].reshape(*values.shape[:-1], *shape)
            for name, (where, shape) in layout.items()
        }

    parts, seconds = [], 0.0
    for start, batch in batches(tasks, n_datasets, n_context, 0, batch_size, seed, progress):
        began = time.perf_counter()
        with seeded(seed + start), torch.no_grad():
            posterior = network(batch.latent_prior, batch.observations, batch.masks, batch.summary)
            draws = posterior.sample((n_draws,))
        seconds += time.perf_counter() - began
        with torch.no_grad():
            at_truth, at_draws = posterior.log_prob(batch.u), posterior.log_prob(draws)
        rows = batch.observations["data"].double()
        seen = batch.masks["data"].all(-1)  # False where the program overflowed
        part = {
            "truth": named(batch.u[seen]),
            "draws": named(draws[:, seen]),
            "log_prob_truth": at_truth[seen],
            "log_prob_draws": at_draws[:, seen],
            "x": rows[seen][..., :-1],
            "y": rows[seen][..., -1],
        }
        if exact_density and batch.density is not None:
            part["log_density_draws"] = _log_density(tasks, batch, draws)[:, seen]
        parts.append(part)
    return PosteriorTrial(**_joined(parts), method="dt", n_drawn=n_draws, seconds=seconds)


def _log_density(tasks: LatentTasks, batch: LatentTaskBatch, draws: Tensor) -> Tensor:
    """Log of the latent prior times the program's likelihood, ``(n_draws, n_datasets)``."""
    rows = batch.observations["data"].double()
    density = ProgramDensity(tasks.prior.model, rows[..., :-1], rows[..., -1])
    prior = batch.latent_prior.to(torch.float64)
    u = draws.double()
    return prior.log_prob(u) + density.log_likelihood(u.movedim(1, 0)).T
