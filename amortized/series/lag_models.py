r"""Autoregressions of many series at once, conjugate and with shrunken coefficients.

.. math:: \delta(L) y_t = c + \sum_k w_k \delta(L) y_{t - k} + \sigma \epsilon_t, \qquad
    w \mid \sigma^2 \sim N(0, \sigma^2 \Lambda_0^{-1})

with :math:`\delta` no difference, that of neighbours, or that of seasons. Precisions
:math:`\Lambda_0` grow with the lag. Forecasts are those of the mean coefficients.

References:
    Forecasting with Bayesian vector autoregressions (Litterman, 1986).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from amortized.series.filter_bank import N_RECENT, RATE, SHAPE, Reading, innovation_signs


class Lags(NamedTuple):
    """An autoregression: the step of its difference, 0 for none, and its lags."""

    difference: int
    lags: tuple[int, ...]


N_KINDS = 9
_MOST = 1e3  # standard deviations, where an explosive forecast is cut


def lag_models(period: int) -> tuple[Lags, ...]:
    """The autoregressions without a season, and those with one if the period is at least 2."""
    plain = [Lags(0, (1, 2)), Lags(0, tuple(range(1, 5))), Lags(0, tuple(range(1, 11)))]
    plain += [Lags(1, (1,)), Lags(1, tuple(range(1, 5))), Lags(1, tuple(range(1, 11)))]
    if period < 2:
        return tuple(plain)
    near = tuple(sorted({1, 2, period, period + 1}))
    return (*plain, Lags(0, near), Lags(period, (1,)), Lags(period, (1, 2, 3, period)))


def lag_readings(y: Tensor, last: Tensor, period: int, horizon: int) -> Reading:
    """Fit all autoregressions, and forecast from each series' last step.

    Args:
        y: series without gaps, about standardised, ``(B, T)``; nothing after the last step is read.
        last: number of the last step of each series, ``(B,)``.
        period: period of the season, 1 for none.
        horizon: steps ahead.

    Returns:
        The reading; evidence is -inf where a series is too short.
    """
    models = lag_models(period)
    longest = max(each.difference + max(each.lags) for each in models)
    fits = [_fit(y, last, each, longest) for each in models]
    weights, level, sigma, evidence, signs = (
        torch.stack(part, 1) for part in zip(*fits, strict=True)
    )
    steps = last[:, None] - torch.arange(longest)
    past = y.gather(1, steps.clamp_min(0)) * (steps >= 0)
    mean, impulse = _continued(weights, level, past, horizon)
    sd = sigma[..., None] * impulse.square().cumsum(-1).sqrt()
    return Reading(
        mean=mean.clamp(-_MOST, _MOST),
        sd=sd.clamp_max(_MOST),
        dof=(2 * SHAPE + last + 1).to(y),
        log_evidence=evidence,
        signs=signs,
        number=torch.arange(len(models)),
        impulse=impulse,
    )


def _fit(y: Tensor, last: Tensor, model: Lags, longest: int) -> tuple[Tensor, ...]:
    """Coefficients of the series' own lags, level, scale, evidence and signs of one model."""
    d, start = model.difference, model.difference + max(model.lags)
    n_rows = y.shape[1] - start
    p = len(model.lags)
    if n_rows < 1:
        none = y.new_zeros(len(y))
        signs = y.new_zeros(len(y), 6)
        return y.new_zeros(len(y), longest), none, none + 1, none - torch.inf, signs
    z = y if d == 0 else y[:, d:] - y[:, :-d]
    rows = torch.arange(start, y.shape[1]) <= last[:, None]
    target = z[:, max(model.lags) :] * rows
    columns = [z[:, max(model.lags) - k : z.shape[1] - k] * rows for k in model.lags]
    x = torch.stack([rows.to(y), *columns], -1).double()
    n = rows.sum(1).double()
    square = (target.double().square().sum(1) / n.clamp_min(1)).clamp_min(1e-6)
    x[..., 0] *= square.sqrt()[:, None]
    order = torch.tensor([0.1, *(1.0 + i for i in range(p))], dtype=torch.float64)
    prior = torch.diag(order) * square[:, None, None]
    precision = prior + x.mT @ x
    cross = (x.mT @ target.double()[..., None]).squeeze(-1)
    factor = torch.linalg.cholesky(precision)
    coefficient = torch.cholesky_solve(cross[..., None], factor).squeeze(-1)
    left = target.double().square().sum(1) - (coefficient * cross).sum(1)
    shape, rate = SHAPE + n / 2, RATE + left.clamp_min(0) / 2
    evidence = torch.lgamma(shape) - math.lgamma(SHAPE) + SHAPE * math.log(RATE)
    evidence = evidence - shape * rate.log() - n / 2 * math.log(2 * math.pi)
    evidence += 0.5 * prior.diagonal(dim1=1, dim2=2).log().sum(1)
    evidence -= factor.diagonal(dim1=1, dim2=2).log().sum(1)
    first = y[:, :start].double()  # these are given; the standard normal stands for their density
    evidence -= 0.5 * (first.square() + math.log(2 * math.pi)).sum(1)
    evidence = torch.where(n >= p + 4, evidence, -torch.inf)
    sigma = (rate / shape).sqrt()
    error = (target - (x @ coefficient[..., None]).squeeze(-1)).to(y)
    signs = _signs(error / sigma[:, None].to(y), rows, last, start, sigma.to(y))
    weights = _expanded(coefficient[:, 1:].to(y), model, longest)
    level = (coefficient[:, 0] * square.sqrt()).to(y)
    return weights, level, sigma.to(y), evidence.to(y), signs


def _signs(z: Tensor, rows: Tensor, last: Tensor, start: int, sigma: Tensor) -> Tensor:
    t = torch.arange(start, start + z.shape[1])[:, None]
    known = rows.T[:, None]
    recent = known & (t > last - N_RECENT)[:, None]
    signs = innovation_signs(z.T[:, None] * known, known, recent)[:, 0]
    log_scale = sigma.clamp_min(1e-9).log()
    return torch.cat((log_scale[:, None], signs[:, 1:2] - log_scale[:, None], signs[:, 2:]), -1)


def _expanded(coefficient: Tensor, model: Lags, longest: int) -> Tensor:
    """Coefficients of y itself at lags 1, 2, ..., ``(B, longest)``."""
    full = coefficient.new_zeros(len(coefficient), longest + 1)
    full[:, list(model.lags)] = coefficient
    d = model.difference
    if d:
        moved = torch.zeros_like(full)
        moved[:, d:] = full[:, : longest + 1 - d]
        full = full - moved
        full[:, d] += 1.0
    return full[:, 1:]


def _continued(weights: Tensor, level: Tensor, past: Tensor, horizon: int) -> tuple[Tensor, Tensor]:
    """Forecasts, and responses to a shock of one, ``(B, K, H)``; the past has the last first."""
    longest = weights.shape[-1]
    reverse = weights.flip(-1)
    course = past.flip(-1)[:, None].expand(weights.shape)
    both = torch.stack((course, torch.zeros_like(course)))
    both = torch.cat((both, both.new_zeros(*both.shape[:-1], horizon)), -1)
    shift = torch.stack((level, torch.zeros_like(level)))
    for h in range(horizon):
        now = (both[..., h : h + longest] * reverse).sum(-1) + shift
        if h == 0:
            now[1] = 1.0
        both[..., longest + h] = now.clamp(-_MOST, _MOST)
    return both[0, ..., longest:], both[1, ..., longest:]
