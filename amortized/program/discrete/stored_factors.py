"""The factors of a program without continuous latents, which one run per dataset determines."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from amortized.program.density import ProgramDensity
from amortized.program.discrete.factors import (
    Factors,
    all_factors,
    discrete_draws,
    discrete_probabilities,
    log_densities,
)
from amortized.program.vectorised import ForBatches, precision, quiet_program
from amortized.seeding import nothing_drawn

_LARGEST = 2**12  # entries of a table: those of a chain of 16 states


class StoredFactors:
    """Evidence, marginals and draws of discrete latents from one run of a program per dataset.

    Args:
        density: the density of a program all of whose latents are discrete.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     biased = pyro.sample("biased", dist.Bernoulli(0.5))
        ...     p = torch.where(biased > 0, 0.9, 0.5)
        ...     return pyro.sample("y", dist.Bernoulli(p.unsqueeze(-1)).to_event(1), obs=y)
        >>> y = torch.ones(1, 1)
        >>> density = ProgramDensity(coin, torch.zeros(1, 1, 0), y, allow_no_latents=True)
        >>> factors = StoredFactors(density)
        >>> factors.log_evidence().exp(), factors.probabilities()["biased"]
        (tensor([0.7000]), tensor([[0.3571, 0.6429]]))
    """

    def __init__(self, density: ProgramDensity) -> None:
        discrete = density.discrete
        if discrete is None or density.dim:
            raise ValueError(
                f"Expected a program all of whose latents are discrete; got {list(density.layout)}."
            )
        self._density = density
        self._runs: list[Factors] = []

        def tables(x: Tensor, y: Tensor) -> Any:
            nowhere = y.new_zeros(0)
            self._runs = all_factors(density.model, density.layout, discrete, nowhere, x, y)
            return [(run.tables, run.log_jacobian) for run in self._runs]

        with nothing_drawn():
            self._tables = self._for_each_dataset(tables, density.x, density.y)
        self._runs = [run.without_tables() for run in self._runs]

    def log_evidence(self) -> Tensor:
        """Log of the sum over all values, ``(batch,)``."""
        with nothing_drawn():
            log_prior, log_likelihood = self._of_runs(log_densities)
        return log_prior + log_likelihood

    def draws(self, n_draws: int) -> dict[str, Tensor]:
        """Joint draws, ``{name: (batch, n_draws, *shape)}``, with torch's global generator."""
        return self._of_runs(lambda runs: discrete_draws(runs, n_draws))

    def probabilities(self) -> dict[str, Tensor]:
        """Probabilities of the values of each latent, ``{name: (batch, *shape, values)}``."""
        with nothing_drawn():
            return self._of_runs(discrete_probabilities)

    def _of_runs(self, function: Callable[[list[Factors]], Any]) -> Any:
        def one(tables: Any) -> Any:
            given = zip(self._runs, tables, strict=True)
            runs = [run.with_tables(table, jacobian) for run, (table, jacobian) in given]
            for run in runs:
                run.largest = _LARGEST
            return function(runs)

        return self._for_each_dataset(one, self._tables)

    def _for_each_dataset(self, function: Callable[..., Any], *given: Any) -> Any:
        """Maps a function over the datasets; `vmap` would make a single one slower."""
        n = self._density.n_datasets
        with torch.no_grad(), quiet_program(), precision(self._density.y.dtype), ForBatches():
            if self._density.vectorised and n > 1:
                return torch.func.vmap(function, randomness="different")(*given)
            each = [function(*tree_map(lambda leaf, i=i: leaf[i], given)) for i in range(n)]
        return tree_map(lambda *values: torch.stack(values), *each)
