"""Hamiltonian Monte Carlo with many short chains, for all datasets of a batch at once.

The chains of a dataset adapt step size and mass matrix jointly: the covariance across chains is the
inverse mass matrix, so that a short warm-up suffices. Convergence is judged by nested R-hat,
because ordinary R-hat is too strict for short chains, and by comparison with an independent
estimate (see `amortized.sampling.checks.cross_check`).

References:
    Hoffman and Sountsov, Tuning-free generalized Hamiltonian Monte Carlo (2022).
    Margossian et al., Nested R-hat (2022), arXiv 2110.13017.
"""

import math
from itertools import islice

import torch
from torch.distributions import Distribution

from amortized.program.density import ProgramDensity
from amortized.progress import with_progress
from amortized.sampling.checks.verdict import measured
from amortized.sampling.draws import Draws
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import Start, as_start
from amortized.sampling.steps.hamiltonian import hamiltonian_move, initial_tuning, spread_factor
from amortized.sampling.steps.tempering import Path


def hmc(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_chains: int = 64,
    n_warmup: int = 60,
    start: Start | Distribution | None = None,
) -> Draws:
    """Draws from the posterior of every dataset by chains with joint adaptation.

    Unlike `smc`, this gives no evidence, and chains that start in one mode stay there.

    Args:
        density: the log density to draw from.
        n_draws: draws for each dataset, over all chains.
        n_chains: chains for each dataset; a multiple of 8.
        n_warmup: adaptation moves, which are discarded.
        start: density from which the chains start; None uses the normals of `fit_modes`.

    Returns:
        draws, one chain after another, with diagnostics ``accept``, ``tail_accept``, ``start`` and
        those of `amortized.sampling.checks.verdict.measured`.
    """
    if n_chains < 8 or n_chains % 8:
        raise ValueError(f"Expected n_chains to be a multiple of 8; got {n_chains}.")
    path = Path(density)
    one = torch.ones(density.n_datasets, dtype=torch.float64)
    name = "laplace" if start is None else type(start).__name__
    start = as_start(fit_modes(density) if start is None else start)
    point = path.at(start.sample(n_chains), one)
    equal = torch.full(point.u.shape[:2], 1 / n_chains, dtype=one.dtype)
    tuning = initial_tuning(spread_factor(point.u, equal).unsqueeze(1))
    n_kept = max(4, math.ceil(n_draws / n_chains))
    moves = with_progress(range(n_warmup + n_kept), "HMC", "move")
    for i in islice(moves, n_warmup):
        point, tuning = hamiltonian_move(path, point, one, tuning)
        if i % 5 == 4 and i < 0.8 * n_warmup:
            tuning = tuning._replace(factor=spread_factor(point.u, equal).unsqueeze(1))
    kept = []
    for _ in moves:
        point, last = hamiltonian_move(path, point, one, tuning)
        kept.append(point.u)
    chains = torch.stack(kept, 2)  # (batch, chains, draws, dim)
    diagnostics = {"start": name, "accept": last.accept, "tail_accept": last.tails.amin(-1)}
    return measured(density, Draws(chains.flatten(1, 2), None, None, n_chains, diagnostics))
