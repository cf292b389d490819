r"""Slice sampling of a prior restricted to high likelihoods, for many chains at once.

The target is :math:`p(u) \, 1[L(u) > L^*]`. Each step draws a height under :math:`p(u)`, a random
direction, and points of an interval around the current position that shrinks towards it until one
lies above both the height and the threshold. The interval has a fixed width and a random place,
which is the stepping-out procedure limited to one step, so nothing has to be tuned. No gradient is
used.

Chains advance one evaluation at a time, each at its own point of its own step. All make the same
number of steps, however many evaluations these take.

A likelihood may have plateaus, where many points have equal values. Each point therefore has a
uniform label, which orders points of equal likelihood. On the plateau of the threshold only labels
above that of the threshold are left, a share of :math:`1 - l^*`: the density of u is multiplied by
it there, and the label is drawn given u.

References:
    Neal, Slice sampling (2003), section 4 and figure 5.
    Handley, Hobson and Lasenby, PolyChord (2015), arXiv 1506.00171.
    Skilling, Nested sampling for general Bayesian computation (2006).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.program.density import ProgramDensity
from amortized.sampling.steps.tempering import CHUNK_BYTES, tame

_WIDTH = 4.0  # of the first interval, in standard deviations along the direction


class Live(NamedTuple):
    """Points with their densities; the rows are independent.

    Attributes:
        u: ``(rows, n, dim)``.
        log_prior: ``(rows, n)``.
        log_likelihood: ``(rows, n)``, -inf where it is not finite.
        label: uniform numbers that order points of equal likelihood, ``(rows, n)``.
    """

    u: Float[Tensor, "rows n dim"]
    log_prior: Float[Tensor, "rows n"]
    log_likelihood: Float[Tensor, "rows n"]
    label: Float[Tensor, "rows n"]

    def take(self, columns: Int[Tensor, "rows m"]) -> "Live":
        """The points of the given columns of each row."""
        return Live(*(_columns(each, columns) for each in self))

    def order(self) -> Int[Tensor, "rows n"]:
        """Columns by ascending likelihood, then label."""
        return ordered(self.log_likelihood, self.label)


def ordered(log_likelihood: Float[Tensor, "*rows n"], label: Float[Tensor, "*rows n"]) -> Tensor:
    """Indices by ascending likelihood, then label.

    Example:
        >>> ordered(torch.tensor([0.0, -1.0, 0.0]), torch.tensor([0.9, 0.5, 0.1])).tolist()
        [1, 2, 0]
    """
    by_label = label.argsort(dim=-1)
    ranked = log_likelihood.gather(-1, by_label).argsort(dim=-1, stable=True)
    return by_label.gather(-1, ranked)


def _columns(values: Tensor, columns: Tensor) -> Tensor:
    return values[torch.arange(len(values)).unsqueeze(-1), columns]


def evaluated(density: ProgramDensity, u: Float[Tensor, "rows n dim"]) -> Live:
    """The densities at points of every dataset, without gradients and within bounded memory."""
    at_once = max(1, CHUNK_BYTES // (density.bytes_per_particle() * len(u)))
    with torch.no_grad():
        parts = [density.log_prior_and_likelihood(part) for part in u.split(at_once, 1)]
    log_prior, log_likelihood = (torch.cat(each, 1) for each in zip(*parts, strict=True))
    lost = ~(torch.isfinite(log_prior) & (log_likelihood < torch.inf))  # also NaN
    return Live(
        u,
        log_prior.masked_fill(lost, -torch.inf),
        log_likelihood.masked_fill(lost, -torch.inf),
        torch.rand(u.shape[:2], dtype=torch.float64),
    )


def sampled_prior(density: ProgramDensity, n: int) -> Live:
    """Draws from the prior of every dataset."""
    return evaluated(density, tame(density.sample_prior(n)))


class _Line(NamedTuple):
    """The slice step that each chain is in: points ``u + t direction`` with t in (low, high)."""

    direction: Tensor
    height: Tensor
    low: Tensor
    high: Tensor


def slice_moves(
    density: ProgramDensity,
    start: Live,
    threshold: tuple[Float[Tensor, "rows 1"], Float[Tensor, "rows 1"]],
    factor: Float[Tensor, "rows dim dim"],
    n_steps: int,
) -> Live:
    """Moves every chain by slice steps within the prior above a threshold.

    Args:
        density: the log density, one dataset for each row.
        start: where the chains begin; all above the threshold.
        threshold: log likelihood and label that a point must exceed.
        factor: triangular factor of the covariance of directions.
        n_steps: steps of each chain.
    """
    here, line = start, _new_line(_log_target(start, *threshold), start.u, factor)
    left = torch.full(start.label.shape, n_steps)
    columns, done = torch.arange(left.shape[1]).expand_as(left), start
    while most := int((left > 0).sum(1).amax()):
        if 2 * most <= left.shape[1]:  # the finished chains cost as much as the others
            done = _put(done, columns, here)
            active = (left == 0).long().argsort(dim=1, stable=True)[:, :most]
            here, line = here.take(active), _Line(*(_columns(each, active) for each in line))
            left, columns = _columns(left, active), _columns(columns, active)
        t = line.low + (line.high - line.low) * torch.rand_like(line.low)
        there = evaluated(density, here.u + t.unsqueeze(-1) * line.direction)
        there = _relabelled(there, *threshold)
        good = (_log_target(there, *threshold) > line.height) & (left > 0)
        left = left - good.long()
        here = Live(*_where(good, there, here))
        low, high = torch.where(t < 0, t, line.low), torch.where(t < 0, line.high, t)
        shrunk = line._replace(low=low, high=high)
        next_line = _new_line(_log_target(here, *threshold), here.u, factor)
        line = _Line(*_where(good, next_line, shrunk))
    return _put(done, columns, here)


def _log_target(points: Live, log_likelihood: Tensor, label: Tensor) -> Float[Tensor, "rows n"]:
    """Log density of u under the prior above the threshold, labels integrated out."""
    on_plateau = points.log_prior + torch.log1p(-label)
    on_plateau = on_plateau.masked_fill(points.log_likelihood < log_likelihood, -torch.inf)
    return torch.where(points.log_likelihood > log_likelihood, points.log_prior, on_plateau)


def _relabelled(points: Live, log_likelihood: Tensor, label: Tensor) -> Live:
    """The points with labels above the threshold's where they are on its plateau."""
    above = label + (1 - label) * points.label
    level = points.log_likelihood == log_likelihood
    return points._replace(label=torch.where(level, above, points.label))


def _new_line(log_target: Tensor, u: Tensor, factor: Tensor) -> _Line:
    noise = torch.randn_like(u)
    noise = noise / noise.norm(dim=-1, keepdim=True)
    low = -_WIDTH * torch.rand_like(log_target)
    height = log_target + torch.rand_like(log_target).log()
    return _Line(noise @ factor.mT, height, low, low + _WIDTH)


def _where(good: Tensor, new: tuple[Tensor, ...], old: tuple[Tensor, ...]) -> list[Tensor]:
    return [
        torch.where(good if a.ndim == 2 else good.unsqueeze(-1), a, b)
        for a, b in zip(new, old, strict=True)
    ]


def _put(points: Live, columns: Tensor, part: Live) -> Live:
    """The points with those of some columns replaced."""
    replaced = []
    for old, new in zip(points, part, strict=True):
        old = old.clone()
        old[torch.arange(len(old)).unsqueeze(-1), columns] = new
        replaced.append(old)
    return Live(*replaced)
