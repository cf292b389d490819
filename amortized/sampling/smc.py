r"""Sequential Monte Carlo with independent checks and a second attempt for datasets in doubt.

Each attempt runs islands of particles (see `steps.tempered_run`) from the better of
two starts: normals at the posterior's modes, or the prior. The result is compared with independent
estimates:

* importance weights of a mixture fitted to the draws and the modes (see
  `checks.importance_check`), whose means, standard deviations and evidence should agree;
* the evidence from the tempering path, from bridge sampling with the final draws, and from a short
  run from the prior, which is larger if the answer lacks a mode;
* the acceptance of particles in each tail, which is low where the target is much narrower than
  elsewhere, as in the neck of a funnel.

A dataset in doubt (see `checks.verdict`) is run again with more particles and moves,
from a start fitted to all draws so far. Any remaining doubt is reported in the diagnostics.

References:
    Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers (2006).
    Lee and Whiteley, Variance estimation in the particle filter (2018), arXiv 1509.00394.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import Distribution
from torch.utils._pytree import tree_map

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import fit_draws, stacked
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.bridge import bridge_evidence
from amortized.sampling.checks.importance_check import compared, joined, second_opinion, widened
from amortized.sampling.checks.pareto import smooth_weights
from amortized.sampling.checks.verdict import any_doubt, measured
from amortized.sampling.draws import Draws, first_draws, put_draws, take_draws
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import FromDraws, Start
from amortized.sampling.steps.hamiltonian import hamiltonian_move
from amortized.sampling.steps.tempered_run import MAX_STAGES, Limits, State, run, start_ess
from amortized.sampling.steps.tempering import Path
from amortized.validation import number_between, whole_number

N_ISLANDS = 8
_MORE = 4  # factor on the particles for a dataset in doubt; the moves are doubled
LEAST_ACCEPT = 0.01  # acceptance below which more moves do not help either
_UNEVEN = 0.32  # gap between mean and tail acceptance above which there may be too few moves
_N_EM = 30  # EM steps of the fit to the draws: a proposal need not be optimal
_N_TRIAL, _HEAVY = 256, 0.7  # draws that try a start, and the tail index of poor weights
_N_SCOUTS, _SHORT = 128, Limits(0.5, 0.3, 9)  # a short run from the prior
_N_NEAR = 128  # draws whose mutual distances define what is distant
_DEEP = 15.0  # a region this many nats below the highest draw, plus 2 per dimension, has no mass
_MOST_DISTANT = 0.03  # largest accepted share of particles from the prior far from all draws
_WIDE = (0.1, 3.0)  # weight and factor of wider copies of the modes' normals, for heavy tails


def smc(
    density: ProgramDensity,
    n_draws: int = 1000,
    *,
    n_particles: int = 512,
    start: Start | Distribution | str = "auto",
    prior_share: float = 0.1,
    ess_target: float = 0.5,
    decorrelate: float = 0.2,
    max_sweeps: int = 15,
) -> Draws:
    """Draws from the posterior of every dataset and estimates its evidence.

    Args:
        density: the log density to draw from.
        n_draws: draws for each dataset. If more than ``n_particles``, further moves provide them.
        n_particles: particles for each dataset, a multiple of 16 and more than ten per dimension. A
            dataset in doubt gets four times as many.
        start: "laplace" (normals at the modes found from prior draws), "prior", a density, or
            "auto", which takes the better of the first two for each dataset.
        prior_share: share of prior draws mixed into any other start.
        ess_target: effective sample size at the end of a stage, as a share of the particles.
        decorrelate: a stage ends when the correlation of every coordinate, its distance to the
            median and the likelihood with their values at its start is below this.
        max_sweeps: largest number of moves in the last stage; earlier stages make a third of them.

    Returns:
        draws, the log evidence with its standard error, and diagnostics: ``n_stages``, ``start``,
        ``temperature`` (the one reached; 1 is the posterior), ``prior_share``, ``start_ess``
        (relative effective sample size of the start), ``n_particles``, ``accept``, ``correlation``
        (with the start of the last stage), ``likelihood_calls`` (points at which the likelihood was
        evaluated, of all datasets together), and those of `checks.verdict.LIMITS` that
        put a dataset in doubt.

    Raises:
        ValueError: if an option is out of range, or no particle has a positive density.
    """
    if n_particles < 16 or n_particles % (2 * N_ISLANDS):
        raise ValueError(
            f"Expected n_particles >= 16, a multiple of {2 * N_ISLANDS}; got {n_particles}."
        )
    ess_target = number_between("ess_target", ess_target, 0, 1)
    prior_share = number_between("prior_share", prior_share, 0, 1, least=True, most=True)
    max_sweeps = whole_number("max_sweeps", max_sweeps, 1)
    limits = Limits(ess_target, max(decorrelate, 3 / math.sqrt(n_particles)), max_sweeps)
    path, modes = _path(density, start, prior_share, ess_target)
    n_judged = max(n_draws, n_particles)  # standard errors of a few draws are unreliable
    answer, found = _attempt(path, modes, n_particles, n_judged, limits)
    _check_arrived(answer.diagnostics["temperature"])
    uneven = answer.diagnostics["accept"] - answer.diagnostics["tail_accept"] > _UNEVEN
    hopeful = answer.diagnostics["accept"] >= LEAST_ACCEPT
    again = (hopeful & (uneven | any_doubt(answer.diagnostics))).nonzero()[:, 0]
    if len(again):
        some, before = density.take(again), take_draws(answer, again)
        limits = limits._replace(max_sweeps=2 * max_sweeps, decorrelate=decorrelate)
        path, modes = _refitted(some, Found(*(each[again] for each in found)))
        after, _ = _attempt(path, modes, _MORE * n_particles, n_judged, limits)
        after = _stable(some, before, after, uneven[again])
        answer = put_draws(answer, again, _arrived(before, _better(before, after)))
    name = start if isinstance(start, str) else type(start).__name__
    numbers = {"start": name, "likelihood_calls": density.n_calls}
    answer = answer._replace(diagnostics=answer.diagnostics | numbers)
    return first_draws(answer, n_draws)


def _check_arrived(temperature: Float[Tensor, " batch"]) -> None:
    late = (temperature < 1).nonzero()[:, 0]
    if len(late):
        raise ValueError(
            f"Expected every dataset to reach its posterior within {MAX_STAGES} stages; dataset "
            f"{int(late[0])} would stop at temperature {temperature[late[0]]:.2g}. The likelihood "
            "is extremely narrow beside the start: give a better start, or rescale the program."
        )


def _arrived(before: Draws, after: Draws) -> Draws:
    """The second answers; the first, marked as doubtful, where the second run did not finish."""
    late = (after.diagnostics["temperature"] < 1).nonzero()[:, 0]
    first = take_draws(before, late)
    unknown = torch.full((len(late),), math.nan, dtype=torch.float64)
    first = first._replace(diagnostics=first.diagnostics | {"evidence_off": unknown})
    return put_draws(after, late, first)


class Found(NamedTuple):
    """The draws from which a better start is fitted.

    Attributes:
        draws: equally weighted draws of the best available estimate.
        lacking: particles of modes that the draws lack; a subset of the draws if there are none.
    """

    draws: Float[Tensor, "batch n dim"]
    lacking: Float[Tensor, "batch n dim"]


def _path(
    density: ProgramDensity,
    start: Start | Distribution | str,
    prior_share: float,
    ess_target: float,
) -> tuple[Path, GaussianMixture | None]:
    """The path, and the normals at the modes if they were computed."""
    if isinstance(start, str) and start not in ("auto", "laplace", "prior"):
        raise ValueError(
            f"Expected start to be 'auto', 'laplace', 'prior' or a density; got {start!r}."
        )
    shares = torch.full((density.n_datasets,), prior_share)
    if not isinstance(start, str):
        return Path(density, start, shares), None
    if start == "prior":
        return Path(density), None
    modes = fit_modes(density)
    fitted = widened(modes, *_WIDE)
    path = Path(density, fitted, shares)
    if start == "laplace":
        return path, modes
    trials = (Path(density), path)
    gains = [trial.log_weights(trial.sample_start(_N_TRIAL)) for trial in trials]
    share = [start_ess(gain) for gain in gains]
    # If hardly any weight is left, the normals are in the wrong place; if weights that need several
    # stages have a heavy tail, the normals miss a part of the posterior that their path would reach
    # only at its end.
    heavy = (smooth_weights(gains[1]).k_hat > _HEAVY) & (share[1] < ess_target)
    better = (share[0] > share[1]) | (share[1] < 0.03) | heavy
    return Path(density, fitted, torch.where(better, 1.0, shares)), modes


def _attempt(
    path: Path, modes: GaussianMixture | None, n_particles: int, n_draws: int, limits: Limits
) -> tuple[Draws, Found]:
    """An answer for every dataset, and the draws from which a better start can be fitted."""
    state = _run_parts(path, n_particles, limits)
    u, family, height = _further_moves(path, state, math.ceil(n_draws / n_particles))
    evidence, error, apart = _evidence(path.density, state, u, family, height)
    draws = measured(path.density, Draws(u, None, evidence, 1, {}, error, family))
    other = second_opinion(path.density, draws, modes)
    usable = other.diagnostics["usable"]
    off = {
        name: torch.where(usable, value, 0.0)
        for name, value in compared(path.density, draws, other).items()
    }
    missed, found = _compared_with_prior(path, draws, height, usable)
    evidence, error = _pooled(draws, other)
    off["evidence_off"] = torch.stack([off["evidence_off"], apart, missed]).amax(0)
    differs = ~(torch.stack(list(off.values())).amax(0) <= 0) & usable
    fitted = torch.where(differs[:, None, None], _resampled(other, u.shape[1]), u)
    diagnostics = {
        "prior_share": path.prior_share,
        "n_particles": torch.full_like(evidence, n_particles),
        "n_stages": state.n_stages,
        "temperature": state.beta,
        "start_ess": state.start_ess,
        "accept": state.tuning.accept,
        "correlation": state.correlation,
        "tail_accept": state.tuning.tails.amin(-1),
        **draws.diagnostics,
        **off,
    }
    chosen = torch.randperm(u.shape[1])[:n_draws]
    u, family = u[:, chosen], family[:, chosen]
    return Draws(u, None, evidence, 1, diagnostics, error, family), Found(fitted, found)


def _run_parts(path: Path, n_particles: int, limits: Limits) -> State:
    """Runs datasets that start from the prior alone separately, because their path is cheaper."""
    from_prior = path.prior_share == 1
    if path.start is None or not from_prior.any():
        return run(path, n_particles, N_ISLANDS, limits)
    plain, fitted = from_prior.nonzero()[:, 0], (~from_prior).nonzero()[:, 0]
    parts = [run(Path(path.density.take(plain)), n_particles, N_ISLANDS, limits)]
    if len(fitted):
        parts.append(run(path.take(fitted), n_particles, N_ISLANDS, limits))
    order = torch.cat([plain, fitted]).argsort()
    return tree_map(lambda *values: torch.cat(values)[order], *parts)


def _further_moves(path: Path, state: State, n_rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """The particles and those of further moves, with all positions of one particle adjacent.

    Also returns the first ancestor and the log density of each.
    """
    one, points = torch.ones_like(state.beta), [state.point]
    for _ in range(n_rounds - 1):
        points.append(hamiltonian_move(path, points[-1], one, state.tuning)[0])
    u = torch.stack([point.u for point in points], 2).flatten(1, 2)
    height = torch.stack([point.log_density(one) for point in points], 2).flatten(1, 2)
    return u, state.family.repeat_interleave(n_rounds, 1), height


def _evidence(
    density: ProgramDensity, state: State, u: Tensor, family: Tensor, height: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Log evidence and its error, from bridge sampling if that is more precise, else from the path.

    The third value is the difference of the two, 0 where their errors explain it.
    """
    bridge = bridge_evidence(density, u, family, height)
    apart = (state.evidence - bridge.log_evidence).abs()
    explained = apart <= 4 * torch.hypot(state.evidence_error, bridge.error)
    precise = bridge.error < state.evidence_error
    return (
        torch.where(precise, bridge.log_evidence, state.evidence),
        torch.where(precise, bridge.error, state.evidence_error),
        torch.where(explained, 0.0, apart),
    )


def _pooled(draws: Draws, other: Draws) -> tuple[Tensor, Tensor]:
    """Precision-weighted mean of two estimates of the log evidence, and its error."""
    assert draws.log_evidence is not None and other.log_evidence is not None
    assert draws.log_evidence_error is not None and other.log_evidence_error is not None
    usable = other.diagnostics["usable"]
    values = torch.stack([draws.log_evidence, other.log_evidence])
    weights = torch.stack([draws.log_evidence_error, other.log_evidence_error]).clamp(min=1e-4)
    weights = weights.square().reciprocal()
    mean = (weights * values).sum(0) / weights.sum(0)
    error = weights.sum(0).rsqrt()
    # If two estimates hardly agree, their errors are wrong; the difference is used instead.
    apart = (values[0] - values[1]).abs()
    error = torch.where(apart > 2.5 * weights.reciprocal().sum(0).sqrt(), apart, error)
    return (
        torch.where(usable, mean, draws.log_evidence),
        torch.where(usable, error, draws.log_evidence_error),
    )


def _compared_with_prior(
    path: Path, draws: Draws, height: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """How much more evidence a run from the prior finds, and draws from where it is.

    Where errors explain the difference it is 0, and the draws are those of the answer. A missing
    mode need not hold more evidence than the answer: it then shows as particles far from all
    draws. Good importance weights already cover the prior and the modes, so no run is needed.

    Args:
        path: path of the answer.
        draws: draws of the answer.
        height: log density at the draws.
        known: where importance weights are good.
    """
    evidence, error, u = draws.log_evidence, draws.log_evidence_error, draws.u
    assert evidence is not None and error is not None
    more, found = torch.zeros_like(evidence), u
    rows = ((path.prior_share < 1) & ~known).nonzero()[:, 0]
    if not len(rows):
        return more, found
    scout = run(Path(path.density.take(rows)), _N_SCOUTS, 2, _SHORT)
    gap = scout.evidence - evidence[rows]
    gap = torch.where(gap > 3 * torch.hypot(error[rows], scout.evidence_error), gap, 0.0)
    late = scout.beta < 1  # an unfinished run is not informative
    one = torch.ones_like(gap)
    likely = scout.point.log_density(one) > height[rows].amax(-1, keepdim=True) - (
        _DEEP + 2 * u.shape[-1]
    )
    far = distant(u[rows], scout.point.u) & likely
    missed = torch.where(far.double().mean(1) > _MOST_DISTANT, gap.clamp(min=math.log(2.0)), gap)
    missed = torch.where(late, torch.nan, missed)
    # Distant particles are what the answer lacks; if there are none, any particles are used.
    chosen = torch.multinomial(far + 1e-9, u.shape[1], replacement=True)
    particles = scout.point.u.gather(1, chosen.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
    particles = torch.where((missed > 0)[:, None, None], particles, u[rows])
    return more.index_copy(0, rows, missed), found.index_copy(0, rows, particles)


def distant(
    u: Float[Tensor, "batch n dim"], others: Float[Tensor, "batch m dim"]
) -> Bool[Tensor, "batch m"]:
    """Which other points are three times as far from all draws as draws from their neighbours."""
    some, rest = u[:, 0 : 2 * _N_NEAR : 2], u[:, 1::2][:, -4 * _N_NEAR :]
    scale = u.std(1, keepdim=True).clamp(min=1e-300)
    usual = torch.cdist(some / scale, rest / scale).amin(-1).quantile(0.99, -1, keepdim=True)
    return torch.cdist(others / scale, u / scale).amin(-1) > 3 * usual


def _resampled(weighted: Draws, n: int) -> Tensor:
    return FromDraws(weighted.u, weighted.log_weights).sample(n)


def _refitted(density: ProgramDensity, found: Found) -> tuple[Path, GaussianMixture]:
    """A path from a mixture fitted to the draws, half of it from the prior; also the mixture."""
    n, dim = found.draws.shape[1:]
    k = max(1, min(4, n // (10 * dim)))
    fitted = stacked([fit_draws(each, k, n_steps=_N_EM) for each in found.draws])
    modes = fit_modes(density, start=FromDraws(found.lacking))
    both = joined(fitted, modes)
    return Path(density, widened(both, *_WIDE), torch.full((len(found.draws),), 0.5)), both


def _stable(density: ProgramDensity, before: Draws, after: Draws, uneven: Tensor) -> Draws:
    """Second answers, in doubt if more moves changed the result on an uneven target.

    On such a target both runs may have made too few moves; a difference between them shows it.
    """
    change = compared(density, before, after, sure=2.5)
    numbers = dict(after.diagnostics)
    for name, value in change.items():
        numbers[name] = torch.maximum(numbers[name], torch.where(uneven, value, 0.0))
    return after._replace(diagnostics=numbers)


def _better(before: Draws, after: Draws) -> Draws:
    """The second answers, except where the first ones have significantly more evidence."""
    assert before.log_evidence is not None and after.log_evidence is not None
    assert before.log_evidence_error is not None and after.log_evidence_error is not None
    error = torch.hypot(before.log_evidence_error, after.log_evidence_error)
    lost = before.log_evidence - after.log_evidence
    lost = torch.where(lost > 3 * error + 0.1, lost, 0.0)
    index = lost.nonzero()[:, 0]
    kept = take_draws(before, index)
    worse = torch.maximum(kept.diagnostics["evidence_off"], lost[index])
    kept = kept._replace(diagnostics=kept.diagnostics | {"evidence_off": worse})
    return put_draws(after, index, kept)
