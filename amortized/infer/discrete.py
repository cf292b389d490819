"""The discrete latents of a program, given draws of its continuous ones."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from amortized.program.density import ProgramDensity

_MEMORY = 2**28  # bytes that one evaluation may keep


class DiscreteMarginals(Mapping[str, Tensor]):
    r"""Marginal probabilities, averaged over draws of the continuous latents, on demand.

    .. math:: p(z_i = v \mid y) = \sum_j w_j \, p(z_i = v \mid u_j, y)

    Each term is exact; only the average has a sampling error. A mapping from the latent's name to
    ``(*batch, *shape, values)``.

    Args:
        density: density of the program.
        many: whether there is a batch.
        u: draws, ``(batch, n, dim)``.
        log_weights: ``(batch, n)``; None for equal weights.
    """

    def __init__(
        self, density: ProgramDensity, many: bool, u: Tensor, log_weights: Tensor | None = None
    ) -> None:
        self._density, self._many, self._u, self._log_weights = density, many, u, log_weights
        self._found: dict[str, Tensor] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._density.discrete.names if self._density.discrete else ()))

    def __len__(self) -> int:
        return len(self._density.discrete.names if self._density.discrete else ())

    def __getitem__(self, name: str) -> Tensor:
        if self._found is None:
            self._found = self._average()
        return self._found[name]

    def _average(self) -> dict[str, Tensor]:
        n_datasets, n = self._u.shape[:2]
        weights = self._u.new_full((n_datasets, n), 1 / n)
        if self._log_weights is not None:
            weights = self._log_weights.softmax(-1)
        totals: dict[str, Tensor] = {}
        for part in torch.arange(n).split(particles_at_once(self._density)):
            each = self._density.discrete_probabilities(self._u[:, part])
            for name, value in each.items():
                weight = weights[:, part].reshape(n_datasets, -1, *(1,) * (value.ndim - 2))
                total = (weight * value).sum(1)
                totals[name] = totals[name] + total if name in totals else total
        return totals if self._many else {name: value[0] for name, value in totals.items()}


def all_values(density: ProgramDensity, u: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What a program has at draws of u: its latents, and its `pyro.deterministic` sites.

    Discrete latents are drawn jointly given each u; each is ``{name: (batch, n, *shape)}``.
    """
    latents = density.constrain(u)
    discrete: dict[str, Tensor] = {}
    if density.discrete:
        chunks = [density.discrete_draws(part) for part in u.split(particles_at_once(density), 1)]
        discrete = {name: torch.cat([chunk[name] for chunk in chunks], 1) for name in chunks[0]}
    return latents | discrete, density.deterministic_values(u, discrete)


def particles_at_once(density: ProgramDensity) -> int:
    """How many particles of all datasets may be evaluated together."""
    return max(1, _MEMORY // (density.bytes_per_particle() * density.n_datasets))
