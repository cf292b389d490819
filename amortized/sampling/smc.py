r"""Sequential Monte Carlo by replicates from different starts, which must agree.

Each attempt runs particles from the better of two starts, normals at the posterior's modes or the
prior, in islands (see `amortized.sampling.tempered_run`). What it found is then compared with
independent estimates:

* importance weights of a mixture around what is known (see `amortized.sampling.weighing`), whose
  means, standard deviations and evidence should be the same;
* the evidence from the path, from a bridge to the final draws, and from a short run from the prior,
  which finds more where the answer lacks a mode;
* the acceptance of particles in each tail, low where the target is much narrower than elsewhere, as
  in the neck of a funnel.

A dataset in doubt (see `amortized.sampling.verdict`) gets more particles and moves, from a start
fitted to all that was found. What doubt remains is in the diagnostics.

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

from amortized.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import fit_draws, stacked
from amortized.program.density import ProgramDensity
from amortized.sampling.bridge import bridge_evidence
from amortized.sampling.draws import Draws, put_draws, take_draws
from amortized.sampling.hamiltonian import hamiltonian_move
from amortized.sampling.laplace import fit_modes
from amortized.sampling.start import FromDraws, Start
from amortized.sampling.tempered_run import MAX_STAGES, Limits, State, run, start_ess
from amortized.sampling.tempering import Path
from amortized.sampling.verdict import any_doubt, measured
from amortized.sampling.weighing import compared, joined, second_opinion, widened

N_ISLANDS = 8
_MORE = 4  # times as many particles for a dataset in doubt, and twice the moves
LEAST_ACCEPT = 0.01  # of moves; below it they stand still, and so would any number of them
_UNEVEN = 0.32  # by which a tail's acceptance is below the mean where moves may be too few
_N_EM = 30  # steps of the fit to what was found: a proposal need not be the best
_N_SCOUTS, _SHORT = 128, Limits(0.5, 0.3, 9)  # a run from the prior
_N_NEAR = 128  # draws whose distances from others tell what is far
_DEEP = 15.0  # nats below the highest draw, and 2 a dimension more, have no mass
_MOST_FAR_OFF = 0.03  # share of particles of a run from the prior that lie far from all draws
_WIDE = (0.1, 3.0)  # share and factor of wider copies of the modes' normals, for heavy tails


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
        ``temperature`` (reached; 1 is the posterior), ``prior_share``, ``start_ess`` (efficiency of
        the first weights: the quality of the start), ``n_particles``, ``accept``, ``correlation``
        (with where the last stage began), and those of `amortized.sampling.verdict.LIMITS` that put
        a dataset in doubt.

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
    path, modes = _path(density, start, prior_share)
    answer, found = _attempt(path, modes, n_particles, n_draws, limits)
    _check_arrived(answer.diagnostics["temperature"])
    uneven = answer.diagnostics["accept"] - answer.diagnostics["tail_accept"] > _UNEVEN
    hopeful = answer.diagnostics["accept"] >= LEAST_ACCEPT
    again = (hopeful & (uneven | any_doubt(answer.diagnostics))).nonzero()[:, 0]
    if len(again):
        some, before = density.take(again), take_draws(answer, again)
        limits = limits._replace(max_sweeps=2 * max_sweeps, decorrelate=decorrelate)
        path, modes = _refitted(some, Found(*(each[again] for each in found)))
        after, _ = _attempt(path, modes, _MORE * n_particles, n_draws, limits)
        after = _settled(some, before, after, uneven[again])
        answer = put_draws(answer, again, _arrived(before, _better(before, after)))
    name = start if isinstance(start, str) else type(start).__name__
    return answer._replace(diagnostics=answer.diagnostics | {"start": name})


def _check_arrived(temperature: Float[Tensor, " batch"]) -> None:
    late = (temperature < 1).nonzero()[:, 0]
    if len(late):
        raise ValueError(
            f"Expected every dataset to reach its posterior within {MAX_STAGES} stages; dataset "
            f"{int(late[0])} would stop at temperature {temperature[late[0]]:.2g}. The likelihood "
            "is extremely narrow beside the start: give a better start, or rescale the program."
        )


def _arrived(before: Draws, after: Draws) -> Draws:
    """The second answers, but where they did not reach the posterior the first, in doubt."""
    late = (after.diagnostics["temperature"] < 1).nonzero()[:, 0]
    first = take_draws(before, late)
    unknown = torch.full((len(late),), math.nan, dtype=torch.float64)
    first = first._replace(diagnostics=first.diagnostics | {"evidence_off": unknown})
    return put_draws(after, late, first)


class Found(NamedTuple):
    """What a better start is made of.

    Attributes:
        draws: equally weighted, of the best estimate there is.
        lacking: particles of modes that they lack; some of the draws where they lack none.
    """

    draws: Float[Tensor, "batch n dim"]
    lacking: Float[Tensor, "batch n dim"]


def _path(
    density: ProgramDensity, start: Start | Distribution | str, prior_share: float
) -> tuple[Path, GaussianMixture | None]:
    """The path, and the normals at modes if they have been searched for."""
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
    share = [start_ess(trial.at(trial.sample_start(128), 0 * shares).gain) for trial in trials]
    # A fit with hardly any weight is a fit of the wrong place, and a long way to go back.
    better = (share[0] > share[1]) | (share[1] < 0.03)
    return Path(density, fitted, torch.where(better, 1.0, shares)), modes


def _attempt(
    path: Path, modes: GaussianMixture | None, n_particles: int, n_draws: int, limits: Limits
) -> tuple[Draws, Found]:
    """An answer for every dataset, and what was found on the way, for a better start."""
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


def _further_moves(path: Path, state: State, n_rounds: int) -> tuple[Tensor, Tensor, Tensor]:
    """The particles and those of further moves, those of one particle side by side.

    With them the first ancestor and the log density of each.
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
    """Log evidence and its error, from the bridge where it is the more precise, or from the path.

    Third, how far the two lie apart, 0 where errors explain it.
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
    """The mean of two estimates of the log evidence, weighted by precision, and its error."""
    assert draws.log_evidence is not None and other.log_evidence is not None
    assert draws.log_evidence_error is not None and other.log_evidence_error is not None
    usable = other.diagnostics["usable"]
    values = torch.stack([draws.log_evidence, other.log_evidence])
    weights = torch.stack([draws.log_evidence_error, other.log_evidence_error]).clamp(min=1e-4)
    weights = weights.square().reciprocal()
    mean = (weights * values).sum(0) / weights.sum(0)
    error = weights.sum(0).rsqrt()
    # Two estimates that hardly agree have errors that are not known; their distance is.
    apart = (values[0] - values[1]).abs()
    error = torch.where(apart > 2.5 * weights.reciprocal().sum(0).sqrt(), apart, error)
    return (
        torch.where(usable, mean, draws.log_evidence),
        torch.where(usable, error, draws.log_evidence_error),
    )


def _compared_with_prior(
    path: Path, draws: Draws, height: Tensor, known: Tensor
) -> tuple[Tensor, Tensor]:
    """By how much a run from the prior finds more evidence, and draws of where it is.

    Where errors explain the difference it counts as 0, and the draws are those of the answer. A
    mode that the answer lacks may hold no more than what was found: then particles are far off.
    Where weights are good there is no need: they have seen the prior and the modes.

    Args:
        path: of the answer.
        draws: the answer.
        height: log density at the draws.
        known: where weights are good.
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
    late = scout.beta < 1  # such a run says nothing
    one = torch.ones_like(gap)
    far = _far_off(u[rows], height[rows], scout.point.u, scout.point.log_density(one))
    missed = torch.where(far.double().mean(1) > _MOST_FAR_OFF, gap.clamp(min=math.log(2.0)), gap)
    missed = torch.where(late, torch.nan, missed)
    # Those far off are what the answer lacks; where there are none, any.
    chosen = torch.multinomial(far + 1e-9, u.shape[1], replacement=True)
    particles = scout.point.u.gather(1, chosen.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
    particles = torch.where((missed > 0)[:, None, None], particles, u[rows])
    return more.index_copy(0, rows, missed), found.index_copy(0, rows, particles)


def _far_off(
    u: Tensor, height: Tensor, others: Tensor, their_height: Tensor
) -> Bool[Tensor, "batch m"]:
    """Which other particles of much density lie far from all draws.

    Far is thrice as far from the nearest draw as nearly all draws are from each other.
    """
    some, rest = u[:, 0 : 2 * _N_NEAR : 2], u[:, 1::2][:, -4 * _N_NEAR :]
    scale = u.std(1, keepdim=True).clamp(min=1e-300)
    usual = torch.cdist(some / scale, rest / scale).amin(-1).quantile(0.99, -1, keepdim=True)
    distance = torch.cdist(others / scale, u / scale).amin(-1)
    high = their_height > height.amax(-1, keepdim=True) - (_DEEP + 2 * u.shape[-1])
    return (distance > 3 * usual) & high


def _resampled(weighted: Draws, n: int) -> Tensor:
    return FromDraws(weighted.u, weighted.log_weights).sample(n)


def _refitted(density: ProgramDensity, found: Found) -> tuple[Path, GaussianMixture]:
    """A path from a mixture fitted to what was found, half of it from the prior; the mixture."""
    n, dim = found.draws.shape[1:]
    k = max(1, min(4, n // (10 * dim)))
    fitted = stacked([fit_draws(each, k, n_steps=_N_EM) for each in found.draws])
    modes = fit_modes(density, start=FromDraws(found.lacking))
    both = joined(fitted, modes)
    return Path(density, widened(both, *_WIDE), torch.full((len(found.draws),), 0.5)), both


def _settled(density: ProgramDensity, before: Draws, after: Draws, uneven: Tensor) -> Draws:
    """Second answers, in doubt where more moves changed what an uneven target gave.

    There the moves may be too few in both runs; a difference says so.
    """
    change = compared(density, before, after, sure=2.5)
    numbers = dict(after.diagnostics)
    for name, value in change.items():
        numbers[name] = torch.maximum(numbers[name], torch.where(uneven, value, 0.0))
    return after._replace(diagnostics=numbers)


def _better(before: Draws, after: Draws) -> Draws:
    """The second answers, but where the first ones hold significantly more of the evidence."""
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
