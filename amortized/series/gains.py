"""Gains of Kalman filters, which do not depend on the values of a series."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from amortized.series.structures import StateSpace, structures

_ROUND = 64  # lengths of the courses that are kept


class Gains(NamedTuple):
    """A course of gains for R patterns of missing steps, K models and S states.

    Attributes:
        gain: ``(T, R, K, S)``; 0 where a step is missing.
        variance: variance of the innovations, relative to the scale, ``(T, R, K)``.
        cov: covariance of the states after each of some steps, ``(ends, R, K, S, S)``.
    """

    gain: Tensor
    variance: Tensor
    cov: Tensor


def gains(model: StateSpace, seen: Tensor, ends: Sequence[int]) -> Gains:
    """Run the recursion of the covariances.

    Args:
        model: K models.
        seen: steps with a value, ``(R, T)``.
        ends: steps whose covariances are kept, ascending.
    """
    a, q, h = model.transition, model.step_cov, model.observation
    p = model.first_cov.expand(len(seen), -1, -1, -1)
    complete, wanted = bool(seen.all()), set(ends)
    all_gains, variances, covs = [], [], []
    for t in range(seen.shape[1]):
        if t > 0:
            p = a @ p @ a.mT + q
        cross = p @ h
        variance = cross @ h + model.noise
        gain = cross / variance.unsqueeze(-1)
        if not complete:
            gain = gain * seen[:, t, None, None]
        p = torch.baddbmm(
            p.flatten(0, 1), gain.flatten(0, 1)[..., None], cross.flatten(0, 1)[:, None], alpha=-1
        ).view_as(p)
        all_gains.append(gain.float())
        variances.append(variance)
        if t in wanted:
            covs.append(p)
    return Gains(torch.stack(all_gains), torch.stack(variances), torch.stack(covs))


def complete_gains(
    periods: tuple[float, ...], which: int, n_steps: int, ends: Sequence[int]
) -> Gains:
    """The course for series without missing steps, kept for later calls.

    Args:
        periods: periods of `structures`.
        which: number of the state space among them.
        n_steps: number of steps of the series.
        ends: steps whose covariances are wanted.
    """
    longest = -(-n_steps // _ROUND) * _ROUND
    if longest > 1024:  # too large to be kept
        model = structures(periods)[which]
        return gains(model, torch.ones(1, n_steps, dtype=torch.bool), ends)
    course = _course(periods, which, longest)
    return Gains(course.gain[:n_steps], course.variance[:n_steps], course.cov[list(ends)].double())


@lru_cache(maxsize=48)
def _course(periods: tuple[float, ...], which: int, n_steps: int) -> Gains:
    with torch.device("cpu"):
        seen = torch.ones(1, n_steps, dtype=torch.bool)
        course = gains(structures(periods)[which], seen, range(n_steps))
    return course._replace(cov=course.cov.float())
