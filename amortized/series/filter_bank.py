r"""Exact Kalman filters of many models over many series at once, with an unknown scale.

With :math:`\sigma^2 \sim IG(a_0, b_0)` the innovations :math:`e_t` and their relative variances
:math:`S_t` give the scale's posterior :math:`a_n = a_0 + n / 2`,
:math:`b_n = b_0 + \tfrac12 \sum e_t^2 / S_t` and the evidence

.. math:: \log p(y) = \log \frac{\Gamma(a_n) b_0^{a_0}}{\Gamma(a_0) b_n^{a_n}}
    - \tfrac12 \sum_t \log (2 \pi S_t).

References:
    Bayesian forecasting and dynamic models (West and Harrison, 1997), section 4.5.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from amortized.series.gains import Gains, complete_gains, gains
from amortized.series.structures import StateSpace, structures

SHAPE, RATE = 0.5, 5e-4  # of the scale's prior, for series of variance one
N_RECENT = 12
N_SIGNS = 6


@dataclass(frozen=True)
class Reading:
    """What K models say of each of B series, for H steps ahead.

    Attributes:
        mean: mean of the forecasts, ``(B, K, H)``.
        sd: their scale, that of a Student's t of ``dof`` degrees, ``(B, K, H)``.
        dof: degrees of freedom, ``(B,)``.
        log_evidence: ``(B, K)``.
        signs: how the innovations behaved, ``(B, K, N_SIGNS)``: log scale; over the last steps
            their log score, mean and mean size; autocorrelation and tails. All are standardised.
        number: kind of each model, ``(K,)``.
        impulse: responses of autoregressions to a shock, ``(B, K, H)``; None of other models.
    """

    mean: Tensor
    sd: Tensor
    dof: Tensor
    log_evidence: Tensor
    signs: Tensor
    number: Tensor
    impulse: Tensor | None = None


def structural_readings(
    y: Tensor, seen: Tensor, last: Tensor, periods: tuple[float, ...], horizon: int
) -> tuple[list[Reading], Tensor]:
    """Filter with all structural models, and forecast from each series' last step.

    Args:
        y: series, about standardised, ``(B, T)``; what is not seen is not read.
        seen: steps with a value, ``(B, T)``, or ``(1, T)`` if all series share them.
        last: number of the last step of each series, ``(B,)``.
        periods: periods of the seasons.
        horizon: steps ahead.

    Returns:
        The readings, and each model's predictions one step ahead, ``(T, K, B)``.
    """
    ends = sorted(set(last.tolist()))
    readings, predictions = [], []
    for which, model in enumerate(structures(periods)):
        if bool(seen.all()):
            course = complete_gains(periods, which, y.shape[1], ends)
        else:
            course = gains(model, seen, ends)
        states, errors = filtered(model, course, y, seen, last)
        mean, variance = _ahead(model, course, states, last, ends, horizon)
        readings.append(_reading(model, course, errors, seen, last, mean, variance))
        predictions.append(y.T[:, None] - errors)
    return readings, torch.cat(predictions, 1)


def filtered(
    model: StateSpace, course: Gains, y: Tensor, seen: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """States after each series' last step, ``(B, K, S)``, and innovations, ``(T, K, B)``."""
    n_patterns, n_models = course.gain.shape[1:3]
    a, h = model.transition.to(y), model.observation.to(y)
    # One product moves the states and gives, as its last row, what is expected of y.
    step = torch.cat((a, (h @ a)[:, None]), 1).repeat(n_patterns, 1, 1)
    rows = y.reshape(n_patterns, 1, -1, y.shape[1])  # series of one pattern are columns of a matrix
    values = rows.expand(-1, n_models, -1, -1).flatten(0, 1)[:, None].unbind(-1)
    all_gains = course.gain.to(y).flatten(1, 2)[..., None].unbind(0)
    x = y.new_zeros(len(step), a.shape[-1], rows.shape[2])
    errors, kept = [], {}
    order = last.tolist()
    ends = set(order)
    for t, (value, gain) in enumerate(zip(values, all_gains, strict=True)):
        moved = step @ x  # zero at the first step
        error = value - moved[:, -1:]
        x = torch.addcmul(moved[:, :-1], gain, error)
        errors.append(error)
        if t in ends:
            kept[t] = x.unflatten(0, (n_patterns, n_models)).movedim(-1, 1).flatten(0, 1)
    if len(kept) > 1:
        states = torch.stack([kept[end][i] for i, end in enumerate(order)])
    else:
        states = kept[order[0]]
    found = torch.stack(errors)[:, :, 0].unflatten(1, (n_patterns, n_models))
    return states, found.transpose(1, 2).flatten(2)


def _ahead(
    model: StateSpace, course: Gains, x: Tensor, last: Tensor, ends: list[int], horizon: int
) -> tuple[Tensor, Tensor]:
    """Means and relative variances of the forecasts, ``(B, K, H)``."""
    w = model.responses(horizon)
    means = (w[:, 1:].to(x) @ x[..., None])[..., 0]
    of_steps = ((w @ model.step_cov) * w).sum(-1)[:, :-1].cumsum(-1)  # of all steps until then
    variances = ((w[:, 1:] @ course.cov) * w[:, 1:]).sum(-1) + of_steps + model.noise[:, None]
    which = torch.tensor([ends.index(end) for end in last.tolist()])
    pattern = torch.arange(len(last)) if course.cov.shape[1] > 1 else torch.zeros_like(which)
    return means, variances[which, pattern].to(x)


def _reading(
    model: StateSpace,
    course: Gains,
    errors: Tensor,
    seen: Tensor,
    last: Tensor,
    mean: Tensor,
    variance: Tensor,
) -> Reading:
    """Evidence and scale of the innovations, and the forecasts with them."""
    n_steps, n_series = errors.shape[0], errors.shape[2]
    before = torch.arange(n_steps)[:, None] <= last
    known = (seen.T & before)[:, None].expand(-1, 1, n_series)
    s = course.variance.movedim(1, -1)  # (T, K, R)
    z = torch.where(known, errors * s.rsqrt().to(errors), 0.0)
    n = known.sum((0, 1))[:, None]
    shape = SHAPE + n / 2
    rate = RATE + z.double().square().sum(0).T / 2
    log_s = torch.where(known, s.log(), 0.0).sum(0).T
    evidence = torch.lgamma(shape) - math.lgamma(SHAPE) + SHAPE * math.log(RATE)
    evidence = evidence - shape * rate.log() - 0.5 * log_s - n / 2 * math.log(2 * math.pi)
    sigma = (rate / shape).sqrt().to(mean)
    recent = known & (torch.arange(n_steps)[:, None, None] > last - N_RECENT)
    signs = innovation_signs(z / sigma.T.clamp_min(1e-9), known, recent)
    signs[..., 1] -= sigma.log() + 0.5 * _mean(s.log().to(z), recent)
    return Reading(
        mean=mean,
        sd=sigma[..., None] * variance.sqrt(),
        dof=(2 * shape[:, 0]).to(mean),
        log_evidence=evidence.to(mean),
        signs=torch.cat((sigma.log()[..., None], signs[..., 1:]), -1),
        number=model.number,
    )


def innovation_signs(z: Tensor, known: Tensor, recent: Tensor) -> Tensor:
    """Signs of standardised innovations, ``(T, K, B)`` to ``(B, K, N_SIGNS)``; the first is 0."""
    squares = z.square()
    lagged = (z[1:] * z[:-1]).sum(0).T / squares.sum(0).T.clamp_min(1e-9)
    size = _mean(squares, recent)
    tails = _mean(squares.square(), known) / _mean(squares, known).square().clamp_min(1e-9)
    return torch.stack(
        (
            torch.zeros_like(size),
            -0.5 * size.clamp_max(40),
            _mean(z, recent).clamp(-4, 4),
            _mean(z.abs(), recent).clamp(0, 4),
            lagged,
            tails.clamp_min(1e-3).log(),
        ),
        -1,
    )


def _mean(values: Tensor, where: Tensor) -> Tensor:
    """Mean over some steps, ``(B, K)``."""
    return ((values * where).sum(0) / where.sum(0).clamp_min(1)).T
