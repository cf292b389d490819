r"""Checks whether the rows of a program's datasets are exchangeable.

A network that reads rows as a set cannot distinguish :math:`(y_1, y_2)` from :math:`(y_2, y_1)`.
For a program with a density, the check evaluates the likelihood at simulated latents and data,
which must not change when the rows ``(x, y)`` are permuted. For a simulator the check compares
draws: permuting x before a run, and y back after it, must not change the distribution of y given u.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import precision
from amortized.seeding import seeded

_N_ROWS = (5, 2)  # tried in turn if the number of rows is not known
_N_DENSITIES, _N_RUNS = 32, 4096
_LIMIT = 6.0  # standard errors; allows for hundreds of comparisons


def rows_are_exchangeable(prior: ProgramPrior, n_rows: int | None = None) -> bool:
    """Tests whether the order of the rows carries no information about the latents.

    Args:
        prior: the program and its inputs.
        n_rows: number of rows of each dataset; None if it varies.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def walk(x, y=None):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        ...     steps = mean * torch.arange(len(x))
        ...     return pyro.sample("y", dist.Normal(steps, 1.0).to_event(1), obs=y)
        >>> rows_are_exchangeable(ProgramPrior(walk))
        False
    """
    with precision(torch.float32), seeded(0), torch.no_grad():
        for n in (n_rows,) if n_rows else _N_ROWS:
            try:
                x = prior._inputs(_N_RUNS, n)
                simulator = ProgramSimulator(prior.model, x[0])
                u = simulator.sample_prior(x[:_N_DENSITIES])
                _, y = simulator(u, x[:_N_DENSITIES])
                break
            except ValueError:
                if n == (n_rows or _N_ROWS[-1]):
                    raise
        density = ProgramDensity(
            prior.model, x[:_N_DENSITIES].double(), y.double(), allow_simulator=True
        )
        if not density.is_simulator:
            return all(_same_likelihood(density, u.double(), order) for order in _orders(n))
        u = simulator.sample_prior(x)
        return all(_same_law(simulator, u, x, order) for order in _orders(n))


def _orders(n: int) -> Iterator[Tensor]:
    """Permutations of rows: a swap of the first two, the reversal, and a random one."""
    swapped = torch.arange(n)
    swapped[:2] = swapped[:2].flip(0)
    yield swapped
    if n > 2:
        yield torch.arange(n).flip(0)
        yield torch.randperm(n)


def _same_likelihood(density: ProgramDensity, u: Tensor, order: Tensor) -> bool:
    """Whether the likelihood is the same for permuted datasets."""
    other = density.of_data(density.x[:, order], density.y[:, order])
    ours, theirs = (each.log_likelihood(u.unsqueeze(1)) for each in (density, other))
    return bool((((ours - theirs).abs() <= 1e-3 * (1 + ours.abs())) | (ours == theirs)).all())


def _same_law(simulator: ProgramSimulator, u: Tensor, x: Tensor, order: Tensor) -> bool:
    """Whether runs on permuted inputs, restored to their order, have the same distribution."""
    y = simulator(u, x)[1]
    again = simulator(u, x[:, order])[1][:, order.argsort()]
    pooled, latents = _ranks(torch.cat([y, again])), _ranks(u)
    ours, theirs = (_features(each, latents) for each in pooled.split(len(y)))
    off = ours - theirs
    error = off.std(0).clamp_min(1e-9) / math.sqrt(len(y))
    return bool((off.mean(0).abs() <= _LIMIT * error).all())


def _ranks(values: Float[Tensor, "runs n"]) -> Float[Tensor, "runs n"]:
    """Ranks in each column, scaled to (-1/2, 1/2), with ties averaged; robust to heavy tails."""
    columns = values.T.contiguous()
    in_order = columns.sort(-1).values
    below = torch.searchsorted(in_order, columns)
    up_to = torch.searchsorted(in_order, columns, right=True)
    return ((below + up_to) / (2 * len(values)) - 0.5).T


def _features(
    y: Float[Tensor, "runs n"], u: Float[Tensor, "runs dim"]
) -> Float[Tensor, "runs features"]:
    """Moments that reveal a row's position: products with itself, latents and other rows."""
    with_latents = (y.unsqueeze(-1) * u.unsqueeze(1)).flatten(1)
    spread = ((y.square() - 1 / 12).unsqueeze(-1) * u.unsqueeze(1)).flatten(1)
    left, right = torch.triu_indices(y.shape[1], y.shape[1], 1)
    return torch.cat([y, y.square(), with_latents, spread, y[:, left] * y[:, right]], -1)
