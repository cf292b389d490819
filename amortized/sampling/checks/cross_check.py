"""Compares chains and approximations with independent estimates.

The first such estimate comes from importance weights of a mixture fitted around the draws (see
`importance_check`). Where these weights are poor, chains are compared with tempered SMC, and an
approximation is reported as doubtful, because nothing confirms that it is close.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.sampling.checks.bridge import bridge_evidence
from amortized.sampling.checks.importance_check import compared, second_opinion
from amortized.sampling.checks.verdict import any_doubt, measured
from amortized.sampling.draws import Draws, blocks_of_chains, take_draws
from amortized.sampling.smc import smc

# Differences count from 4 standard errors on; an approximation has no other witness than weights
# whose errors are small enough for a difference of .2 standard deviations to count.
_N_PRECISE, _ENOUGH = 4096, 500.0


def checked_chains(density: ProgramDensity, draws: Draws, particles: Draws | None = None) -> Draws:
    """Adds evidence, precision and the discrepancy from independent estimates to chains.

    Args:
        density: log density of the posterior.
        draws: equally weighted draws, one chain after another.
        particles: draws of `smc`, if available; None runs it where it is needed.

    Returns:
        the draws with the log evidence by bridge sampling, and diagnostics ``ess``, ``mcse_mean``,
        ``mcse_sd``, ``r_hat``, ``mean_off``, ``sd_off``, ``evidence_off`` (0 where standard errors
        explain the difference) and ``checked_by``.
    """
    evidence = bridge_evidence(density, _even(draws.u), _even(blocks_of_chains(draws)))
    draws = draws._replace(log_evidence=evidence.log_evidence, log_evidence_error=evidence.error)
    draws = measured(density, draws)
    other = second_opinion(density, draws)
    off = compared(density, draws, other)
    by = ["weights"] * density.n_datasets
    poor = (~other.diagnostics["usable"]).nonzero()[:, 0]
    if len(poor):
        some = density.take(poor)
        particles = smc(some) if particles is None else take_draws(particles, poor)
        doubtful = any_doubt(particles.diagnostics)
        chains = take_draws(draws, poor)
        again = compared(some, chains, particles)
        # A doubtful run that finds more evidence has still found a mode that the chains miss.
        assert particles.log_evidence is not None and chains.log_evidence is not None
        lacking = particles.log_evidence > chains.log_evidence
        again["evidence_off"] = torch.where(doubtful & ~lacking, 0.0, again["evidence_off"])
        for name, value in off.items():
            ignored = doubtful & (name != "evidence_off")
            off[name] = value.index_copy(0, poor, torch.where(ignored, 0.0, again[name]))
        for i, is_doubtful in zip(poor.tolist(), doubtful.tolist(), strict=True):
            by[i] = "nothing" if is_doubtful else "smc"
    diagnostics = draws.diagnostics | off | {"checked_by": by}
    return draws._replace(diagnostics=diagnostics)


def checked_approximation(density: ProgramDensity, draws: Draws) -> Draws:
    """Measures how far an approximation lies from the posterior, by importance weights.

    Returns:
        the draws with diagnostics ``ess``, ``mcse_mean``, ``mcse_sd``, ``r_hat``, ``mean_off``,
        ``sd_off`` and ``poor_weights``, which is 1 where the weights cannot decide. The error of a
        log evidence is its distance from the weights' estimate plus the error of that estimate.
    """
    draws = measured(density, draws._replace(cluster=_independent(draws)))
    other = second_opinion(density, draws, n=_N_PRECISE)
    usable = other.diagnostics["usable"] & (other.diagnostics["ess"] > _ENOUGH)
    if draws.log_evidence is not None:
        assert other.log_evidence is not None and other.log_evidence_error is not None
        error = (draws.log_evidence - other.log_evidence).abs() + other.log_evidence_error
        draws = draws._replace(log_evidence_error=torch.where(usable, error, torch.inf))
    off = {
        name: torch.where(usable, value, 0.0)
        for name, value in compared(density, draws, other).items()
        if name != "evidence_off"
    }
    numbers = off | {"poor_weights": 1.0 - usable.double()}
    return draws._replace(diagnostics=draws.diagnostics | numbers)


def _independent(draws: Draws) -> Int[Tensor, "batch n"]:
    return torch.arange(draws.u.shape[1]).expand(len(draws.u), -1)


def _even(values: Tensor) -> Tensor:
    return values[:, : values.shape[1] // 2 * 2]
