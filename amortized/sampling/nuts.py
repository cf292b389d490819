"""Pyro's No-U-Turn sampler applied to our density: the reference for the faster methods.

The density is a function of one vector and is traced by torch's JIT, which speeds up each leapfrog
step. A trace follows a single branch of the program, so its values at the draws are compared with
the program's own; if they differ, the chains are run again without the trace. Chains and datasets
run one after another in this process: for many datasets see `amortized.sampling.smc`.

References:
    Hoffman and Gelman, The No-U-Turn Sampler (2014), arXiv 1111.4246.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from pyro.infer import MCMC, NUTS
from torch import Tensor
from torch.distributions import Distribution

from amortized.program.density import ProgramDensity
from amortized.program.vectorised import quiet_program
from amortized.progress import progress_bar, with_progress
from amortized.sampling.checks.verdict import measured
from amortized.sampling.draws import Draws
from amortized.sampling.start import Start, as_start
from amortized.seeding import only_sites_drawn
from amortized.validation import number_between, whole_number

_N_COMPARED = 100  # draws at which the trace is compared with the program


def nuts(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_chains: int = 4,
    n_warmup: int = 500,
    target_accept: float = 0.8,
    full_mass: bool = False,
    jit: bool = True,
    start: Start | Distribution | None = None,
) -> Draws:
    """Draws from the posterior of every dataset by NUTS, using torch's global generator.

    Args:
        density: the log density to draw from.
        n_draws: draws over all chains.
        n_chains: independent chains; R-hat needs at least 2.
        n_warmup: adaptation steps of each chain, which are discarded.
        target_accept: mean acceptance probability that the step size is adapted to.
        full_mass: adapt a full mass matrix, which helps if latents are strongly correlated.
        jit: trace the density where possible.
        start: a density from which the chains start; None uses uniform draws in (-2, 2).

    Returns:
        draws with diagnostics ``divergences`` (transitions), ``divergent`` (their share), ``jit``,
        ``seconds``, ``start`` and those of `amortized.sampling.checks.verdict.measured`.
    """
    n_warmup = whole_number("n_warmup", n_warmup, 0)
    target_accept = number_between("target_accept", target_accept, 0, 1)
    if n_chains < 1 or n_draws < n_chains:
        raise ValueError(f"Expected n_draws >= n_chains >= 1; got {n_draws} and {n_chains}.")
    length = max(4, -(-n_draws // n_chains))
    options = {"target_accept_prob": target_accept, "full_mass": full_mass}
    results = []
    datasets = range(density.n_datasets)
    # The chains of a single dataset have a bar of their own.
    for i in datasets if len(datasets) == 1 else with_progress(datasets, "NUTS", "dataset"):
        one = density.take(torch.tensor([i]))
        began = time.perf_counter()
        initial = _initial_points(
            one, n_chains, None if start is None else as_start(start).sample(n_chains)[i]
        )
        sampled = _sample(one, initial, length, n_warmup, options, jit)
        results.append((*sampled, time.perf_counter() - began))
    u, n_divergent, traced, seconds = zip(*results, strict=True)
    name = "uniform" if start is None else type(start).__name__
    diagnostics = {
        "start": name,
        "divergences": torch.tensor(n_divergent),
        "divergent": torch.tensor(n_divergent) / (length * n_chains),
        "jit": torch.tensor(traced),
        "seconds": torch.tensor(seconds),
    }
    draws = Draws(torch.stack(u).flatten(1, 2), None, None, n_chains, diagnostics)
    return measured(density, draws)


class SeededNUTS(NUTS):
    """NUTS whose random numbers, all at sample sites, are controlled by `seeded`."""

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        with only_sites_drawn():
            super().setup(warmup_steps, *args, **kwargs)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        with only_sites_drawn():
            return super().sample(params)


def _sample(
    density: ProgramDensity,
    initial: list[Tensor],
    length: int,
    n_warmup: int,
    options: dict[str, Any],
    jit: bool,
) -> tuple[Float[Tensor, "chains draws dim"], int, bool]:
    """Draws by the traced density if it agrees with the program at the draws."""

    def plain(u: Tensor) -> Tensor:
        return -density.log_density_of_one(u)

    traced = _traced(density, plain) if jit else None
    for function in (traced, plain):
        if function is None:
            continue

        def potential(latents: dict[str, Tensor], function: Any = function) -> Tensor:
            return function(latents["u"])

        chains, divergences = _run_chains(initial, potential, length, n_warmup, options)
        some = chains.flatten(0, 1)[:: max(1, length * len(chains) // _N_COMPARED)]
        if function is plain or _same(function, plain, some):
            break
    return chains, divergences, function is not plain


def _run_chains(
    initial: list[Tensor],
    potential: Callable[..., Tensor],
    length: int,
    n_warmup: int,
    options: dict[str, Any],
) -> tuple[Float[Tensor, "chains draws dim"], int]:
    """Runs the chains of one dataset in turn, and counts divergent transitions."""
    chains, divergences = [], 0
    with progress_bar("NUTS", "move", len(initial) * (n_warmup + length)) as bar:
        hooks: dict[str, Any] = {"hook_fn": lambda *_: bar.update(), "disable_progbar": True}
        for point in initial:
            kernel = SeededNUTS(potential_fn=potential, **options)
            run = MCMC(kernel, length, n_warmup, {"u": point}, **hooks)
            with quiet_program(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run.run()
            chains.append(run.get_samples()["u"])
            divergences += len(run.diagnostics()["divergences"]["chain 0"])
    return torch.stack(chains), divergences


def _traced(density: ProgramDensity, plain: Callable[[Tensor], Tensor]) -> Any:
    """The traced density, or None if tracing fails or gives wrong values."""
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(3, density.dim, generator=generator, dtype=density.y.dtype) * 2 - 1
    with quiet_program(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            candidate = torch.jit.trace(plain, (points[0],), check_trace=False)
        except Exception:  # a program that cannot be traced runs untraced
            return None
        return candidate if _same(candidate, plain, points) else None


def _same(traced: Any, plain: Callable[[Tensor], Tensor], points: Tensor) -> bool:
    """Whether a trace equals the function: it fixes every branch that depends on values."""
    with quiet_program(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return all(torch.allclose(traced(u), plain(u), rtol=1e-4) for u in points)
        except Exception:
            return False


def _initial_points(density: ProgramDensity, n: int, given: Tensor | None) -> list[Tensor]:
    points: list[Tensor] = []
    candidates = density.y.new_empty(200 + n, density.dim).uniform_(-2, 2)
    if given is not None:
        candidates = torch.cat([given.to(candidates), candidates])
    with torch.no_grad():
        finite = torch.isfinite(density.log_density(candidates.unsqueeze(0)))[0]
    points = list(candidates[finite][:n])
    if len(points) < n:
        raise ValueError(
            f"Expected a density that is finite somewhere; got {int(finite.sum())} finite values "
            f"at {len(candidates)} points around the origin of unconstrained space. The "
            "observations may be impossible under the program, or its scales far from 1: then "
            "give a start."
        )
    return points
