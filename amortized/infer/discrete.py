"""The discrete latents of a program, given draws of its continuous ones."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from amortized.program.density import ProgramDensity

_MEMORY = 2**28  # bytes that one evaluation may keep


class DiscreteMarginals(Mapping[str, Tensor]):
    """Marginal probabilities of discrete latents, computed when the first is asked for.

    A mapping from the latent's name to ``(*batch, *shape, values)``.

    Args:
        names: names of the latents.
        many: whether there is a batch.
        compute: returns ``{name: (batch, *shape, values)}``.
    """

    def __init__(
        self, names: Iterable[str], many: bool, compute: Callable[[], dict[str, Tensor]]
    ) -> None:
        self._names, self._many, self._compute = sorted(names), many, compute
        self._found: dict[str, Tensor] | None = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> Tensor:
        if self._found is None:
            self._found = self._compute()
        return self._found[name] if self._many else self._found[name][0]

    def __contains__(self, name: object) -> bool:
        return name in self._names


def averaged_probabilities(
    density: ProgramDensity, u: Tensor, log_weights: Tensor | None = None
) -> dict[str, Tensor]:
    r"""Marginal probabilities of the discrete latents, averaged over draws of the continuous ones.

    .. math:: p(z_i = v \mid y) = \sum_j w_j \, p(z_i = v \mid u_j, y)

    Each term is exact; only the average has a sampling error.

    Args:
        density: density of the program.
        u: draws, ``(batch, n, dim)``.
        log_weights: ``(batch, n)``; None for equal weights.

    Returns:
        ``{name: (batch, *shape, values)}``.
    """
    n_datasets, n = u.shape[:2]
    weights = u.new_full((n_datasets, n), 1 / n)
    if log_weights is not None:
        weights = log_weights.softmax(-1)
    totals: dict[str, Tensor] = {}
    for part in torch.arange(n).split(particles_at_once(density)):
        each = density.discrete_probabilities(u[:, part])
        for name, value in each.items():
            weight = weights[:, part].reshape(n_datasets, -1, *(1,) * (value.ndim - 2))
            total = (weight * value).sum(1)
            totals[name] = totals[name] + total if name in totals else total
    return totals


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
