r"""Nested sampling: the evidence from shrinking sets of prior draws, for a batch of datasets.

Live points are draws of the prior. Where the lowest of them is replaced by a draw of the prior
above its likelihood again and again, the share of the prior above shrinks by a known law, and with
it the evidence is known (see `amortized.sampling.steps.shrinkage`). Here half of the live points of
each of several independent runs are replaced together, by chains from the other half, one from each
(see `amortized.sampling.steps.constrained_slice`). There is no temperature, gradient or start in
common with tempered SMC, so that the two can check each other.

The answer itself is checked in three ways:

* the rank of each new point among the live points is uniform, if it is a draw of the prior above
  the threshold;
* the runs' evidences differ by no more than the shrinkage explains;
* moments and evidence agree with importance weights, where these are good (see
  `amortized.sampling.checks.importance_check`).

A dataset in doubt is run again with more steps. A spike that no live point came near is missed,
and the check by ranks cannot see it.

References:
    Skilling, Nested sampling for general Bayesian computation (2006).
    Henderson and Goggans, Parallelized nested sampling (2014).
    Fowlie, Handley and Su, Nested sampling cross-checks using order statistics (2020), arXiv
    2006.03371.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.progress import with_progress
from amortized.sampling.checks.importance_check import compared, second_opinion
from amortized.sampling.checks.verdict import in_doubt, measured
from amortized.sampling.draws import Draws, put_draws, take_draws
from amortized.sampling.steps.constrained_slice import Live, sampled_prior, slice_moves
from amortized.sampling.steps.hamiltonian import spread_factor
from amortized.sampling.steps.shrinkage import Points, shrinkage

N_RUNS = 16
_REMAINING = 1e-3  # largest share of the evidence that the live points may hold at the end
_MOST_ROUNDS = 2000  # each halves the prior's volume
_STEPS = 10, 2  # slice steps from a live point to a new one, and more of them for each dimension
_OF_STEPS = ("insertion_p", "run_scatter", "mean_off", "sd_off", "evidence_off")
_MORE = 4  # factor on the steps for a dataset in doubt


def nested(
    density: ProgramDensity, n_draws: int = 1000, *, n_live: int = 2048, n_steps: int | None = None
) -> Draws:
    """Estimates every dataset's evidence by nested sampling, and draws from its posterior.

    Args:
        density: the log density to draw from.
        n_draws: draws for each dataset, chosen among all points by weight; those beyond the
            effective number of points, a few times ``n_live``, repeat others.
        n_live: live points of all runs together, a multiple of 32. The error of the log evidence
            falls with its root, the time grows in proportion.
        n_steps: slice steps from a live point to a new one; None for ten and two per
            dimension. A dataset in doubt gets four times as many.

    Returns:
        draws, the log evidence with its standard error, and diagnostics: ``information`` (the
        divergence of the posterior from the prior, in nats), ``n_rounds``, ``n_points``,
        ``likelihood_calls`` (of all datasets together), and those of
        `amortized.sampling.checks.verdict.LIMITS` that put a dataset in doubt.

    Raises:
        ValueError: if an option is out of range, no point has a positive likelihood, or the
            evidence does not converge.
    """
    if n_live < 4 * N_RUNS or n_live % (2 * N_RUNS):
        raise ValueError(
            f"Expected n_live >= {4 * N_RUNS}, a multiple of {2 * N_RUNS}; got {n_live}."
        )
    if n_steps is not None and n_steps < 1:
        raise ValueError(f"Expected n_steps >= 1; got {n_steps}.")
    n_steps = _STEPS[0] + _STEPS[1] * density.dim if n_steps is None else n_steps
    answer = _attempt(density, n_draws, n_live, n_steps)
    doubts = in_doubt(answer.diagnostics)
    again = torch.stack([doubts[name] for name in _OF_STEPS]).any(0).nonzero()[:, 0]
    if len(again):
        after = _attempt(density.take(again), n_draws, n_live, _MORE * n_steps)
        answer = put_draws(answer, again, _compared(take_draws(answer, again), after))
    calls = {"likelihood_calls": density.n_calls}
    return answer._replace(diagnostics=answer.diagnostics | calls)


def _compared(before: Draws, after: Draws) -> Draws:
    """Second answers, in doubt where the evidence changed by more than both errors."""
    assert before.log_evidence is not None and after.log_evidence is not None
    assert before.log_evidence_error is not None and after.log_evidence_error is not None
    change = (before.log_evidence - after.log_evidence).abs()
    error = torch.hypot(before.log_evidence_error, after.log_evidence_error)
    off = torch.where(change > 4 * error, change, 0.0)
    worst = torch.maximum(after.diagnostics["evidence_off"], off)
    return after._replace(diagnostics=after.diagnostics | {"evidence_off": worst})


def _attempt(density: ProgramDensity, n_draws: int, n_live: int, n_steps: int) -> Draws:
    history = _run(density, n_live // N_RUNS, n_steps)
    answers = [
        _answer(history.points(i), history.ranks(i), n_draws) for i in range(density.n_datasets)
    ]
    numbers = {
        name: torch.tensor([each.diagnostics[name] for each in answers], dtype=torch.float64)
        for name in answers[0].diagnostics
    }
    draws = Draws(
        torch.cat([each.u for each in answers]),
        None,
        torch.cat([each.log_evidence for each in answers if each.log_evidence is not None]),
        1,
        numbers,
        torch.cat(
            [each.log_evidence_error for each in answers if each.log_evidence_error is not None]
        ),
        torch.cat([each.cluster for each in answers if each.cluster is not None]),
    )
    draws = measured(density, draws)
    other = second_opinion(density, draws)
    usable = other.diagnostics["usable"]
    off = {
        name: torch.where(usable, value, 0.0)
        for name, value in compared(density, draws, other).items()
    }
    return draws._replace(diagnostics=draws.diagnostics | off)


class _Round(NamedTuple):
    """What one round of all datasets still running leaves behind.

    Attributes:
        datasets: their indices.
        dead: the points removed, ``(datasets * runs, k)``.
        name: number of each within its dataset.
        birth: name of the point above which each was drawn; -1 for the prior.
        rank: rank of each new point as a number between 0 and 1; None in the last round.
    """

    datasets: Int[Tensor, " datasets"]
    dead: Live
    name: Int[Tensor, "rows k"]
    birth: Int[Tensor, "rows k"]
    rank: Float[Tensor, "rows k"] | None


class _History(list[_Round]):
    """All rounds of a run."""

    def points(self, dataset: int) -> Points:
        """All points of one dataset."""
        parts, names = [], []
        for each in self:
            at = (each.datasets == dataset).nonzero()[:, 0]
            if not len(at):
                continue
            rows = slice(int(at) * N_RUNS, int(at + 1) * N_RUNS)
            u, _, log_likelihood, label = (value[rows].flatten(0, 1) for value in each.dead)
            run = torch.arange(N_RUNS).repeat_interleave(each.name.shape[1])
            parts.append(Points(u, log_likelihood, label, each.birth[rows].flatten(), run))
            names.append(each.name[rows].flatten())
        points, name = Points(*map(torch.cat, zip(*parts, strict=True))), torch.cat(names)
        place = torch.empty_like(name).index_copy(0, name, torch.arange(len(name)))
        birth = torch.where(points.birth < 0, -1, place[points.birth.clamp(min=0)])
        return points._replace(birth=birth)

    def ranks(self, dataset: int) -> Float[Tensor, "rounds new"]:
        """Ranks of all new points of one dataset, one round after another."""
        found = []
        for each in self:
            at = (each.datasets == dataset).nonzero()[:, 0]
            if len(at) and each.rank is not None:
                rows = slice(int(at) * N_RUNS, int(at + 1) * N_RUNS)
                found.append(each.rank[rows].flatten())
        return torch.stack(found)


class _State(NamedTuple):
    """The live points of every dataset still running, ``(datasets * runs, n)``.

    Attributes:
        live: the points.
        name: number of each point within its dataset.
        birth: name of the point above which it was drawn; -1 for the prior.
        log_evidence: of the dead points of each run, ``(datasets * runs,)``.
    """

    live: Live
    name: Tensor
    birth: Tensor
    log_evidence: Tensor


def _run(density: ProgramDensity, n: int, n_steps: int) -> _History:
    """Replaces live points of every dataset until they hold hardly any evidence.

    Args:
        density: the log density.
        n: live points of each run.
        n_steps: slice steps from a live point to a new one.
    """
    active, history, k = torch.arange(density.n_datasets), _History(), n // 2
    live = sampled_prior(density.take(active.repeat_interleave(N_RUNS)), n)
    _check_possible(live)
    name = torch.arange(N_RUNS * n).reshape(N_RUNS, n).repeat(len(active), 1)
    nothing = live.log_prior.new_full((len(name),), -torch.inf)
    state = _State(live, name, torch.full_like(name, -1), nothing)
    log_kept = -(1 / torch.arange(n, n - k, -1, dtype=torch.float64)).cumsum(0)
    # A generator has no length for the bar to show: most runs end after a few rounds.
    for i in with_progress((i for i in range(_MOST_ROUNDS)), "nested sampling", "round"):
        state, gone = _round(density, active, state, n_steps, N_RUNS * (n + i * k))
        history.append(gone)
        log_width = i * log_kept[-1] + log_kept - math.log(n)
        gained = (gone.dead.log_likelihood + log_width).logsumexp(-1)
        total = torch.logaddexp(state.log_evidence, gained)
        state = state._replace(log_evidence=total)
        ended = _ended(state, (i + 1) * log_kept[-1]).unflatten(0, (-1, N_RUNS)).all(-1)
        if ended.any():
            last = _of_datasets(state, ended)
            history.append(_Round(active[ended], last.live, last.name, last.birth, None))
            state, active = _of_datasets(state, ~ended), active[~ended]
        if not len(active):
            return history
    raise ValueError(
        f"Expected an evidence that converges within {_MOST_ROUNDS} rounds; that of dataset "
        f"{int(active[0])} still grows: the likelihood has no upper bound, or is 0 nearly "
        "everywhere. Bound it by the prior, or use method='smc'."
    )


def _check_possible(live: Live) -> None:
    """Refuses datasets whose likelihood is 0 at all draws of the prior."""
    found = (live.log_likelihood > -torch.inf).any(-1).unflatten(0, (-1, N_RUNS)).any(-1)
    if not found.all():
        raise ValueError(
            f"Expected a likelihood above 0 at some draws of the prior; dataset "
            f"{int((~found).nonzero()[0])} has none among {live.label.shape[1] * N_RUNS}. The "
            "observations may be impossible under the program; or give a larger n_live."
        )


def _ended(state: _State, log_volume: Tensor) -> Tensor:
    """Which runs have nothing to gain: little evidence is left, or all live points are level."""
    lowest, highest = state.live.log_likelihood.aminmax(dim=-1)
    level = (lowest == highest) & (lowest > -torch.inf)
    return level | (highest + log_volume < state.log_evidence + math.log(_REMAINING))


def _of_datasets(state: _State, chosen: Tensor) -> _State:
    """The state of the chosen datasets."""
    rows = chosen.repeat_interleave(N_RUNS)
    return _State(Live(*(each[rows] for each in state.live)), *(each[rows] for each in state[1:]))


def _round(
    density: ProgramDensity, active: Tensor, state: _State, n_steps: int, next_name: int
) -> tuple[_State, _Round]:
    """Replaces the lower half of the live points of each run."""
    live, k = state.live, state.name.shape[1] // 2
    order = live.order()
    gone, kept = order[:, :k], order[:, k:]
    dead, rest = live.take(gone), live.take(kept)
    pooled = rest.u.unflatten(0, (-1, N_RUNS)).flatten(1, 2)
    factor = spread_factor(pooled, pooled.new_ones(pooled.shape[:2]))
    new = slice_moves(
        density.take(active.repeat_interleave(N_RUNS)),
        rest,  # each once: chosen at random, modes would drift in their numbers of points
        (dead.log_likelihood[:, -1:], dead.label[:, -1:]),
        factor.repeat_interleave(N_RUNS, 0),
        n_steps,
    )
    name, birth = state.name.gather(1, gone), state.birth.gather(1, gone)
    removed = _Round(active, dead, name, birth, _rank(rest, new))
    names = next_name + torch.arange(N_RUNS * k).reshape(N_RUNS, k).repeat(len(active), 1)
    state = state._replace(
        live=Live(*(torch.cat(each, 1) for each in zip(rest, new, strict=True))),
        name=torch.cat([state.name.gather(1, kept), names], 1),
        birth=torch.cat([state.birth.gather(1, kept), name[:, -1:].expand(-1, k)], 1),
    )
    return state, removed


def _rank(rest: Live, new: Live) -> Float[Tensor, "rows k"]:
    """Rank of each new point among the remaining ones and the new ones before it.

    The ranks of independent draws from one law are independent and uniform, whatever the law; here
    they are made continuous by a uniform number.
    """
    k, n_rest = new.label.shape[1], rest.label.shape[1]
    both = torch.cat([rest.log_likelihood, new.log_likelihood], 1).unsqueeze(1)
    labels = torch.cat([rest.label, new.label], 1).unsqueeze(1)
    mine = new.log_likelihood.unsqueeze(2)
    below = (both < mine) | ((both == mine) & (labels < new.label.unsqueeze(2)))
    n_before = n_rest + torch.arange(k)
    before = torch.arange(n_rest + k) < n_before.unsqueeze(-1)
    rank = (below & before).sum(-1)
    return (rank + torch.rand(rank.shape, dtype=torch.float64)) / (n_before + 1)


def _answer(points: Points, ranks: Float[Tensor, "rounds new"], n_draws: int) -> Draws:
    """Evidence, equally weighted draws and checks of one dataset."""
    merged = shrinkage(points)
    log_weights = merged.expected()
    log_evidence = log_weights.logsumexp(0)
    of_shrinkage = merged.simulated_evidence().std()
    each = torch.stack(
        [shrinkage(points.of_run(run)).expected().logsumexp(0) for run in range(N_RUNS)]
    )
    of_runs = each.std() / math.sqrt(N_RUNS)
    share = (log_weights - log_evidence).exp()
    level = (torch.arange(n_draws) + torch.rand(1, dtype=torch.float64)) / n_draws
    place = torch.searchsorted(share.cumsum(0), level).clamp(max=len(share) - 1)
    chosen = merged.order[place[torch.randperm(n_draws)]]
    height = merged.log_likelihood.clamp(min=-1e300)
    numbers = {
        "information": (share * height).sum() - log_evidence,
        "n_rounds": torch.tensor(float(len(ranks))),
        "n_points": torch.tensor(float(len(share))),
        "insertion_p": torch.tensor(float(stats.kstest(ranks.flatten().numpy(), "uniform").pvalue)),
        "run_scatter": of_runs / of_shrinkage,
    }
    return Draws(
        points.u[chosen].unsqueeze(0),
        None,
        log_evidence.unsqueeze(0),
        1,
        numbers,
        torch.maximum(of_shrinkage, of_runs).unsqueeze(0),
        points.run[chosen].unsqueeze(0),
    )
