"""Independent estimates that chains and approximations are compared with.

The weights of a mixture around the draws are the first (see `amortized.sampling.weighing`). Where
they are poor, chains are compared with particles of tempered SMC, and an approximation, whose only
claim is that it is near the posterior, is in doubt.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from amortized.priors.density import ProgramDensity
from amortized.sampling.bridge import bridge_evidence
from amortized.sampling.draws import Draws, blocks_of_chains, take_draws
from amortized.sampling.smc import smc
from amortized.sampling.verdict import any_doubt, measured
from amortized.sampling.weighing import compared, second_opinion


def checked_chains(density: ProgramDensity, draws: Draws, particles: Draws | None = None) -> Draws:
    """Chains with their evidence, their precision, and how far independent estimates lie apart.

    Args:
        density: of the posterior.
        draws: equally weighted, chain after chain.
        particles: of `smc`, where they are known; None runs it where they are needed.

    Returns:
        the draws with the log evidence from a bridge, and diagnostics ``ess``, ``mcse_mean``,
        ``mcse_sd``, ``r_hat``, ``mean_off``, ``sd_off``, ``evidence_off``, which are 0 where errors
        explain the difference, and ``checked_by``.
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
        # Even a doubtful run that holds more of the evidence has found what the chains lack.
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
    """Independent draws of an approximation, and how far the posterior lies from it by weights.

    Returns:
        the draws with diagnostics ``ess``, ``mcse_mean``, ``mcse_sd``, ``r_hat``, ``mean_off``,
        ``sd_off`` and ``poor_weights``, 1 where there is no telling. An evidence gets as its error
        its distance from that of the weights, with theirs.
    """
    draws = measured(density, draws._replace(cluster=_independent(draws)))
    other = second_opinion(density, draws)
    usable = other.diagnostics["usable"]
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
