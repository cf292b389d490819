r"""Effects of covariates on a series, by generalised least squares under its best model.

A Kalman filter is linear, so the innovations of :math:`y - X \beta` are those of y less those of
the columns of X. Divided by their standard deviations they are independent, and :math:`\beta` is a
regression of one on the others: exact given the model.

References:
    The generalised least squares of structural models (Harvey, 1989), section 3.4.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.series.candidates import candidates
from amortized.series.filter_bank import filtered
from amortized.series.gains import gains
from amortized.series.structures import N_KINDS, structures

_ROUNDS = 2  # the best model of the series, and then of what the covariates leave
_RIDGE = 1e-3  # rows of prior, for columns that do not vary over the past


@dataclass(frozen=True)
class Effects:
    """Normal posterior of the effects.

    Attributes:
        mean: ``(n_features,)``.
        cov: ``(n_features, n_features)``.
        centre: centre of the columns, ``(n_features,)``.
    """

    mean: Tensor
    cov: Tensor
    centre: Tensor

    def shift(self, x: Tensor) -> Tensor:
        """What rows of covariates add to the series."""
        return (x - self.centre) @ self.mean

    def variance(self, x: Tensor) -> Tensor:
        """Of that, over the posterior."""
        x = x - self.centre
        return ((x @ self.cov) * x).sum(-1)


def covariate_effects(y: Tensor, seen: Tensor, x: Tensor, periods: tuple[float, ...]) -> Effects:
    """Effects in one series.

    Args:
        y: the series, ``(T,)``.
        seen: steps with a value, ``(T,)``.
        x: covariates of every step that is seen, ``(T, n_features)``.
        periods: periods of the seasons.
    """
    last = torch.tensor([len(y) - 1])
    centre = x[seen].mean(0)
    size = (x[seen] - centre).std(0).clamp_min(1e-12)
    columns = torch.where(seen[:, None], (x - centre) / size, 0.0)
    location, scale = y[seen].mean(), y[seen].std().clamp_min(1e-12)
    target = torch.where(seen, (y - location) / scale, 0.0)
    effect = torch.zeros_like(size)
    cov = torch.zeros(len(size), len(size), dtype=y.dtype)
    for _ in range(_ROUNDS):
        rest = target - columns @ effect
        found = candidates(rest[None], seen[None], last, periods, 1)
        structural = (found.kind[0] < N_KINDS) & ~found.is_log[0]
        best = int(found.log_evidence[0].masked_fill(~structural, -torch.inf).argmax())
        number = int(found.kind[0, best])
        space = next(s for s in structures(periods) if number in s.number)
        k = int((space.number == number).nonzero())
        course = gains(space, seen[None], [len(y) - 1])
        stacked = torch.cat((target[None], columns.T))
        _, errors = filtered(space, course, stacked, seen[None], last.expand(len(stacked)))
        white = errors[:, k] * course.variance[:, 0, k, None].rsqrt()
        white = white[seen].to(y.dtype)
        z, known = white[:, 1:], white[:, 0]
        precision = z.T @ z + _RIDGE * torch.eye(z.shape[1], dtype=y.dtype)
        effect = torch.linalg.solve(precision, z.T @ known)
        left = (known - z @ effect).square().sum() / max(1, len(known) - z.shape[1])
        cov = left * torch.linalg.inv(precision)
    per_unit = scale / size
    return Effects(effect * per_unit, cov * per_unit[:, None] * per_unit, centre)
