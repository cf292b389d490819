r"""Sequential Monte Carlo by replicates from different starts, which must agree.

Each attempt runs particles from the better of two starts, normals at the posterior's modes or the
prior, in islands (see `amortized.sampling.tempered_run`). An answer is doubted where

* the standard errors of means or spreads, from the islands and from families of common ancestors,
  are large beside the posterior's standard deviation;
* a short run from the prior finds a significantly larger evidence: the answer lacks a mode;
* two estimates of the evidence, from the path and from a bridge to the final draws, disagree;
* particles in a tail are hardly ever accepted: the target is much narrower there, as in the neck
  of a funnel, and the moves do not reach what lies behind.

A dataset in doubt gets more particles and moves, from a start fitted to all that was found. What
doubt remains is in the diagnostics.

References:
    Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers (2006).
    Lee and Whiteley, Variance estimation in the particle filter (2018), arXiv 1509.00394.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from amortized.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import fit_draws
from amortized.priors.density import ProgramDensity
from amortized.sampling.bridge import bridge_evidence
from amortized.sampling.convergence import clustered_variance
from amortized.sampling.draws import Draws
from amortized.sampling.hamiltonian import hamiltonian_move
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import Start
from amortized.sampling.tempered_run import Limits, State, put, run, start_ess, take
from amortized.sampling.tempering import Path

N_ISLANDS = 8
_MORE = 4  # times as many particles for a dataset in doubt, and twice the moves
_SHARE_OF_SCOUT = 8  # a short run from the prior has a particle for so many of the others
_WIDE = (0.15, 3.0)  # share and factor of wider copies of the modes' normals, for heavy tails
MOST_ERROR = 0.08
MOST_GAP = 0.3
LEAST_TAIL = 0.35
MOST_APART = 4.0


def smc(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_particles: int = 512,
    start: Start | Distribution | str = "auto",
    prior_share: float = 0.2,
    ess_target: float = 0.5,
    decorrelate: float = 0.15,
    max_sweeps: int = 15,
) -> Draws:
    """Draws from the posterior of every dataset, and estimates its evidence.

    Args:
        density: the log density to draw from.
        n_draws: draws for each dataset. More than ``n_particles`` come from further moves.
        n_particles: particles for each dataset, a multiple of 16; more than ten a dimension. A
            dataset in doubt gets four times as many.
        start: "laplace" (normals at the modes found from prior draws), "prior", a density, or
            "auto": for each dataset the better of the first two.
        prior_share: share of prior draws among those of any other start.
        ess_target: effective sample size that a stage may fall to, as a share of the particles.
        decorrelate: a stage ends when no coordinate, distance to the median or likelihood is
            correlated more with where it was.
        max_sweeps: most moves in the last stage; a third of them in those before.

    Returns:
        draws, the log evidence with its standard error, and diagnostics: ``n_stages``, ``start``,
        ``prior_share``, ``start_ess`` (efficiency of the first weights: the quality of the start),
        ``n_particles``, ``accept``, ``tail_accept`` (of particles in the tail where it is lowest),
        ``correlation`` (with where the last stage began), ``mcse`` (the largest standard error of a
        mean or a mean distance to the median, in standard deviations), ``evidence_gap`` (by which a
        run from the prior finds more than the answer, in nats beyond what errors explain) and
        ``doubt`` (whether one of the checks failed).

    Raises:
        ValueError: if an option is out of range, or no particle has a positive density.
    """
    if n_particles < 16 or n_particles % (2 * N_ISLANDS):
        raise ValueError(
            f"Expected n_particles >= 16, a multiple of {2 * N_ISLANDS}; got {n_particles}."
        )
    if not 0 < ess_target < 1:
        raise ValueError(f"Expected ess_target between 0 and 1; got {ess_target}.")
    if not 0 <= prior_share <= 1:
        raise ValueError(f"Expected prior_share between 0 and 1; got {prior_share}.")
    limits = Limits(ess_target, max(decorrelate, 3 / math.sqrt(n_particles)), max_sweeps)
    path = _path(density, start, prior_share)
    answer, found = _attempt(path, n_particles, n_draws, limits)
    doubtful = answer.doubt.nonzero()[:, 0]
    if len(doubtful):
        wider = _refitted(density.take(doubtful), take(answer, doubtful), found[doubtful])
        limits = limits._replace(max_sweeps=2 * max_sweeps, decorrelate=decorrelate)
        again, _ = _attempt(wider, _MORE * n_particles, n_draws, limits)
        answer = put(answer, doubtful, _better(take(answer, doubtful), again))
    name = start if isinstance(start, str) else type(start).__name__
    diagnostics = {"start": name, **answer.diagnostics, "doubt": answer.doubt}
    return Draws(
        answer.u, None, answer.log_evidence, 1, diagnostics, answer.error, answer.family
    )


class Answer(NamedTuple):
    """What an attempt found, for a batch of datasets.

    Attributes:
        u: equally weighted draws.
        family: first ancestor of each.
        log_evidence: ``(batch,)``.
        error: its standard error.
        doubt: whether a check failed.
        diagnostics: numbers for each dataset; see `smc`.
    """

    u: Float[Tensor, "batch n dim"]
    family: Int[Tensor, "batch n"]
    log_evidence: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    doubt: Bool[Tensor, " batch"]
    diagnostics: dict[str, Tensor]


def _path(density: ProgramDensity, start: Start | Distribution | str, prior_share: float) -> Path:
    if isinstance(start, str) and start not in ("auto", "laplace", "prior"):
        raise ValueError(
            f"Expected start to be 'auto', 'laplace', 'prior' or a density; got {start!r}."
        )
    if start == "prior":
        return Path(density)
    fitted = _widened(fit_modes(density)) if isinstance(start, str) else start
    shares = torch.full((density.n_datasets,), prior_share)
    path = Path(density, fitted, shares)
    if start != "auto":
        return path
    trials = (Path(density), path)
    worth = [start_ess(trial.at(trial.sample_start(128), 0 * shares).gain) for trial in trials]
    # A fit that is worth next to nothing is a fit of the wrong place, and a long way to go back.
    better = (worth[0] > worth[1]) | (worth[1] < 0.03)
    return Path(density, fitted, torch.where(better, 1.0, shares))


def _widened(mixture: GaussianMixture) -> GaussianMixture:
    """The mixture with wider copies of its components, which reach into heavy tails."""
    share, factor = _WIDE
    weights = mixture.log_weights
    return GaussianMixture(
        torch.cat([weights + math.log1p(-share), weights + math.log(share)], -1),
        mixture.means.repeat(1, 2, 1),
        torch.cat([mixture.scale_tril, factor * mixture.scale_tril], 1),
        validate_args=False,
    )


def _attempt(path: Path, n_particles: int, n_draws: int, limits: Limits) -> tuple[Answer, Tensor]:
    """An answer for every dataset, and draws of its posterior for a better start.

    The latter are those of the run from the prior where that found more than the answer.
    """
    state = _run_parts(path, n_particles, limits)
    u, family = _further_moves(path, state, math.ceil(n_draws / n_particles))
    evidence, error = _evidence(path.density, state, u, family)
    gap, found = _compared_with_prior(path, evidence, error, u, limits)
    mcse = _worst_error(u, family, n_particles)
    tails = state.tuning.tails.amin(-1)
    apart = (state.evidence - evidence).abs() / (state.evidence_error.square() + error**2).sqrt()
    doubt = ~((mcse < MOST_ERROR) & (gap < MOST_GAP) & (tails > LEAST_TAIL) & (apart < MOST_APART))
    diagnostics = {
        "prior_share": path.prior_share,
        "n_particles": torch.full_like(evidence, n_particles),
        "n_stages": state.n_stages,
        "start_ess": state.start_ess,
        "accept": state.tuning.accept,
        "tail_accept": tails,
        "correlation": state.correlation,
        "mcse": mcse,
        "evidence_gap": gap,
        "evidence_apart": apart,
    }
    chosen = torch.randperm(u.shape[1])[:n_draws]
    answer = Answer(u[:, chosen], family[:, chosen], evidence, error, doubt, diagnostics)
    return answer, found


def _run_parts(path: Path, n_particles: int, limits: Limits) -> State:
    """Runs the datasets that start from the prior alone apart: their path is cheaper."""
    from_prior = path.prior_share == 1
    if path.start is None or not from_prior.any():
        return run(path, n_particles, N_ISLANDS, limits)
    plain, fitted = from_prior.nonzero()[:, 0], (~from_prior).nonzero()[:, 0]
    parts = [run(Path(path.density.take(plain)), n_particles, N_ISLANDS, limits)]
    if len(fitted):
        parts.append(run(path.take(fitted), n_particles, N_ISLANDS, limits))
    order = torch.cat([plain, fitted]).argsort()
    return tree_map(lambda *values: torch.cat(values)[order], *parts)


def _further_moves(path: Path, state: State, n_rounds: int) -> tuple[Tensor, Tensor]:
    """The particles and those of further moves, those of one particle side by side."""
    one, point, kept = torch.ones_like(state.beta), state.point, [state.point.u]
    for _ in range(n_rounds - 1):
        point, _ = hamiltonian_move(path, point, one, state.tuning)
        kept.append(point.u)
    u = torch.stack(kept, 2).flatten(1, 2)
    return u, state.family.repeat_interleave(n_rounds, 1)


def _evidence(
    density: ProgramDensity, state: State, u: Tensor, family: Tensor
) -> tuple[Tensor, Tensor]:
    """Log evidence and its error: by the bridge where that is the more precise."""
    bridge = bridge_evidence(density, u, family)
    precise = bridge.error < state.evidence_error
    return (
        torch.where(precise, bridge.log_evidence, state.evidence),
        torch.where(precise, bridge.error, state.evidence_error),
    )


def _compared_with_prior(
    path: Path, evidence: Tensor, error: Tensor, u: Tensor, limits: Limits
) -> tuple[Tensor, Tensor]:
    """By how much a short run from the prior finds more, and draws of where most was found."""
    gap, found = torch.full_like(evidence, -torch.inf), u
    index = (path.prior_share < 1).nonzero()[:, 0]
    if not len(index):
        return gap, found
    density = path.density.take(index)
    n = max(64, 16 * (u.shape[1] // (16 * _SHARE_OF_SCOUT)))
    scout = run(Path(density), n, 2, limits)
    scatter = (error[index].square() + scout.evidence_error.square()).sqrt()
    more = scout.evidence - evidence[index] - 3 * scatter
    draws = scout.point.u.repeat(1, -(-u.shape[1] // n), 1)[:, : u.shape[1]]
    draws = torch.where((more > 0)[:, None, None], draws, u[index])
    return gap.index_copy(0, index, more), found.index_copy(0, index, draws)


def _worst_error(u: Tensor, family: Tensor, n_particles: int) -> Float[Tensor, " batch"]:
    """The largest standard error of a mean or mean distance to the median, in deviations."""
    distance = (u - u.median(1, keepdim=True).values).abs()
    features = torch.cat([u, distance], -1)
    island = family // (n_particles // N_ISLANDS)
    variance = torch.maximum(
        clustered_variance(features, family), clustered_variance(features, island)
    )
    relative = variance / features.var(1).clamp(min=1e-300)
    return relative.amax(-1).sqrt()


def _refitted(density: ProgramDensity, answer: Answer, found: Tensor) -> Path:
    """A path from a mixture fitted to what was found, half of it from the prior."""
    n, dim = found.shape[1:]
    k = max(1, min(8, n // (10 * dim)))
    mixtures = [fit_draws(each, k) for each in found]
    stacked = (
        torch.stack([getattr(mixture, name) for mixture in mixtures])
        for name in ("log_weights", "means", "scale_tril")
    )
    start = _widened(GaussianMixture(*stacked, validate_args=False))
    return Path(density, start, torch.full((len(found),), 0.5))


def _better(before: Answer, after: Answer) -> Answer:
    """The second answers, but where the first ones hold significantly more of the evidence."""
    scatter = (before.error.square() + after.error.square()).sqrt()
    lost = before.log_evidence - after.log_evidence > 3 * scatter + 0.1
    index = lost.nonzero()[:, 0]
    kept = take(before, index)
    return put(after, index, kept._replace(doubt=torch.ones_like(kept.doubt)))
