"""The No-U-Turn sampler of Pyro, on our density: the reference that the faster methods must meet.

The density is one function of one vector, traced by torch's JIT where the trace is right (it is
compared with the plain function), which takes about a third off each leapfrog step. Chains run one
after another in this process, and datasets too: for many datasets see `amortized.sampling.smc`.

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

from amortized.priors.density import ProgramDensity
from amortized.priors.seeding import only_sites_drawn
from amortized.priors.vectorised import quiet_program
from amortized.sampling.convergence import ess_bulk, ess_tail, r_hat
from amortized.sampling.draws import Draws
from amortized.sampling.start import Start, as_start


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
    """Draws from the posterior of every dataset by NUTS, with torch's global generator.

    Args:
        density: the log density to draw from.
        n_draws: draws over all chains.
        n_chains: independent chains; R-hat needs 2.
        n_warmup: steps of adaptation a chain, thrown away.
        target_accept: mean acceptance probability that the step size is adapted to.
        full_mass: adapt a full mass matrix, which helps where latents are strongly correlated.
        jit: trace the density where that can be done.
        start: a density whose draws the chains start from; None tries uniform ones in (-2, 2).

    Returns:
        draws with diagnostics ``r_hat``, ``ess_bulk``, ``ess_tail`` (the worst latent's),
        ``divergences``, ``jit`` and ``seconds``, one a dataset.
    """
    if n_chains < 1 or n_draws < n_chains:
        raise ValueError(f"Expected n_draws >= n_chains >= 1; got {n_draws} and {n_chains}.")
    length = max(4, -(-n_draws // n_chains))
    results = []
    for i in range(density.n_datasets):
        one = density.take(torch.tensor([i]))
        began = time.perf_counter()
        potential, traced = _potential(one, jit)
        initial = _initial_points(
            one, n_chains, None if start is None else as_start(start).sample(n_chains)[i]
        )
        chains, divergences = [], 0
        for point in initial:
            kernel = _SeededNUTS(
                potential_fn=potential, target_accept_prob=target_accept, full_mass=full_mass
            )
            run = MCMC(kernel, length, n_warmup, {"u": point}, disable_progbar=True)
            with quiet_program(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run.run()
            chains.append(run.get_samples()["u"])
            divergences += len(run.diagnostics()["divergences"]["chain 0"])
        results.append((torch.stack(chains), divergences, traced, time.perf_counter() - began))
    draws = _collect(results, n_chains)
    draws.diagnostics["start"] = "uniform" if start is None else type(start).__name__
    return draws


class _SeededNUTS(NUTS):
    """NUTS whose draws, all at sample sites, come from where `seeded` says."""

    def setup(self, warmup_steps: int, *args: Any, **kwargs: Any) -> None:
        with only_sites_drawn():
            super().setup(warmup_steps, *args, **kwargs)

    def sample(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        with only_sites_drawn():
            return super().sample(params)


def _potential(density: ProgramDensity, jit: bool) -> tuple[Callable[..., Tensor], bool]:
    """Minus the log density of one dataset, as Pyro wants it, and whether it is traced."""

    def plain(u: Tensor) -> Tensor:
        return -density.log_density_of_one(u)

    function, traced = plain, False
    if jit:
        generator = torch.Generator().manual_seed(0)
        points = torch.rand(3, density.dim, generator=generator, dtype=density.y.dtype) * 2 - 1
        with quiet_program(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                candidate = torch.jit.trace(plain, (points[0],), check_trace=False)
                # A trace fixes every choice the program makes on values, so compare elsewhere.
                traced = all(torch.allclose(candidate(u), plain(u), rtol=1e-4) for u in points)
            except Exception:  # a program that cannot be traced runs as it is
                traced = False
            function = candidate if traced else plain
    return lambda latents: function(latents["u"]), traced


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


def _collect(
    results: list[tuple[Float[Tensor, "chains draws dim"], int, bool, float]], n_chains: int
) -> Draws:
    chains = [result[0] for result in results]
    diagnostics = {
        "ess_bulk": torch.stack([ess_bulk(c).min() for c in chains]),
        "ess_tail": torch.stack([ess_tail(c).min() for c in chains]),
        "r_hat": torch.stack([r_hat(c).max() for c in chains]),
        "divergences": torch.tensor([result[1] for result in results]),
        "jit": torch.tensor([result[2] for result in results]),
        "seconds": torch.tensor([result[3] for result in results]),
    }
    u = torch.stack(chains).flatten(1, 2)
    bad = (diagnostics["r_hat"] > 1.01) | ~torch.isfinite(diagnostics["r_hat"])
    if n_chains > 1 and bad.any():
        warnings.warn(
            f"R-hat is {diagnostics['r_hat'].max():.3f} > 1.01: the chains disagree, do not trust "
            "these draws. Give more warm-up and draws, or write the program in other latents.",
            UserWarning,
            stacklevel=3,
        )
    if diagnostics["divergences"].sum() > 0:
        warnings.warn(
            f"{int(diagnostics['divergences'].sum())} transitions diverged: part of the posterior "
            "may be missing. Raise target_accept, or write the program in other latents.",
            UserWarning,
            stacklevel=3,
        )
    return Draws(u, None, None, n_chains, diagnostics)
