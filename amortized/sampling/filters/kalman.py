r"""The Kalman filter: exact posteriors of linear-Gaussian state-space models.

For ``x_t ~ N(A x_{t-1} + b, Q)`` and ``y_t ~ N(H x_t + d, R)``, with ``N(p_t, P_t)`` the
distribution of ``x_t`` given the observations before ``t``,

    S_t = H P_t H' + R,    K_t = P_t H' S_t^{-1},    v_t = y_t - d - H p_t,
    filtered    m_t = p_t + K_t v_t,    C_t = (I - K_t H) P_t (I - K_t H)' + K_t R K_t',
    predicted   p_{t+1} = A m_t + b,    P_{t+1} = A C_t A' + Q,
    log p(y_1..T) = sum_t log N(v_t; 0, S_t).

The Joseph form of ``C_t`` is symmetric and cannot become negative by rounding. Covariances are
computed in float64 whatever the model's dtype, because float32 would lose a precise sensor after a
diffuse start. The means, which take nearly all the time, have the model's dtype.

The covariances depend only on the model and the pattern of missing entries, not on the data. Series
that share both share one recursion, which for time-invariant models stops once it has converged.
For each series only ``m_t = F_t m_{t-1} + u_t`` remains, one small matrix product per step for all
series together; everything else is one product over many steps.

Not implemented: diffuse initial states (use a large ``P_0``).

References:
    A new approach to linear filtering and prediction problems (Kalman, 1960).
    Filtering for stochastic processes with applications to guidance (Bucy and Joseph, 1968).
    Bayesian filtering and smoothing (Särkkä, 2013), chapter 4.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.priors.state_space.covariances import own_scale
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman_update import Update, leave_out_missing, update

__all__ = ["GaussianStates", "LinearGaussianModel", "kalman_filter"]

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class GaussianStates:
    """Moments of the states of many series. Series with the same covariances share memory.

    Attributes:
        mean: ``E(x_t | y)``, ``(batch, time, state)``, given ``y_1..t`` by a filter and all of y
            by a smoother.
        cov: ``Cov(x_t | y)``, ``(batch, time, state, state)``.
        log_likelihood: ``log p(y_t | y_1..t-1)``, ``(batch, time)``; 0 where all of y_t is missing.
        log_evidence: ``log p(y_1..T)``, ``(batch,)``; -inf where ``valid`` is False.
        valid: ``(batch,)``; False if some ``S_t`` was not positive definite, or numbers became
            infinite: the observations then have no density and the moments are meaningless.
    """

    mean: Float[Tensor, "batch time state"]
    cov: Float[Tensor, "batch time state state"]
    log_likelihood: Float[Tensor, "batch time"]
    log_evidence: Float[Tensor, " batch"]
    valid: Bool[Tensor, " batch"]


def kalman_filter(
    model: LinearGaussianModel, y: Float[Tensor, "batch time observed"]
) -> GaussianStates:
    """Filters all series in one call; exact, and differentiable in the model and the data.

    Args:
        model: one model for all series, or one per series.
        y: observations; NaN marks a missing entry, and NaN rows at the end give forecasts. One
            series with a batch of models is filtered under each of them.

    Raises:
        ValueError: if y does not fit the model, or is infinite.

    Example:
        >>> one = torch.ones(1, 1)
        >>> walk = LinearGaussianModel(one, one, one, one, torch.zeros(1), one)
        >>> filtered = kalman_filter(walk, torch.tensor([[[1.0], [torch.nan], [2.0]]]))
        >>> filtered.mean[0, :, 0]
        tensor([0.5000, 0.5000, 1.5714])
    """
    path = filter_path(model, y)
    return path.states(path.mean, path.cov)


def observed_entries(y: Tensor, n_observed: int, dtype: torch.dtype) -> Tensor | None:
    """Mask of observed entries of ``y``, ``(batch, time, observed)``; None if all are."""
    if y.ndim != 3 or y.shape[-1] != n_observed or y.shape[1] < 1:
        raise ValueError(
            f"Expected y of shape (batch, time, {n_observed}) with at least one step; got "
            f"{tuple(y.shape)}. One series y of shape (time,) is y[None, :, None]."
        )
    if y.dtype != dtype:
        raise ValueError(f"Expected y of the model's dtype {dtype}; got {y.dtype}.")
    try:
        if torch.isfinite(y.detach().sum()):  # one cheap pass: a finite sum contains no NaN
            return None
    except RuntimeError:  # values are hidden under torch.func.vmap
        return ~y.isnan()
    if y.isinf().any():
        raise ValueError("Expected y to be finite, or NaN where missing; got infinite entries.")
    seen = ~y.isnan()
    return None if bool(seen.all()) else seen


class Path(NamedTuple):
    """The filtered path, time first, for ``groups`` of ``members`` that share covariances.

    Covariances are float64. Either one group holds all series, or each series is its own group.
    Members come last because a matrix product over thousands of columns is several times faster
    than one over rows.
    """

    mean: Tensor  # (time, groups, state, members)
    predicted_cov: Tensor  # (time, groups, state, state)
    cov: Tensor
    log_likelihood: Tensor  # (time, groups, 1, members)
    valid: Tensor  # (groups,)

    def states(self, mean: Tensor, cov: Tensor) -> GaussianStates:
        """The result of a filter or smoother, from its moments with time first."""
        log_likelihood = batch_first(self.log_likelihood)[..., 0]
        n_series = len(log_likelihood)
        finite = mean.isfinite().all(-2).all(0).flatten() & log_likelihood.isfinite().all(-1)
        valid = self.valid.expand(n_series) & finite
        log_evidence = torch.where(valid, log_likelihood.sum(-1), -torch.inf)
        cov = cov.transpose(0, 1).to(mean.dtype).expand(n_series, -1, -1, -1)
        return GaussianStates(batch_first(mean), cov, log_likelihood, log_evidence, valid)


def filter_path(model: LinearGaussianModel, y: Tensor) -> Path:
    """Computes the covariances once per group, then the means of all series."""
    seen = observed_entries(y, model.observation.shape[-2], model.observation.dtype)
    n_models = model.n_models
    if n_models is not None and y.shape[0] not in (1, n_models):
        raise ValueError(
            f"Expected y with one series or with {n_models}, as many as there are models; got "
            f"{y.shape[0]}."
        )
    if model.n_steps is not None and y.shape[1] != model.n_steps:
        raise ValueError(
            f"Expected y of {model.n_steps} steps, as many as the model has matrices for; got "
            f"{y.shape[1]}. Mark steps without an observation by NaN."
        )
    n_series = n_models or y.shape[0]
    y = y.expand(n_series, -1, -1)
    h, r = as_matrix(model.observation), as_matrix(model.observation_cov)
    which = None
    if seen is not None:
        seen = seen.expand(n_series, -1, -1)
        patterns = seen
        if model.shares_matrices and n_series > 1:
            patterns, which = torch.unique(seen, dim=0, return_inverse=True)
        h, r = leave_out_missing(h, r, patterns.transpose(0, 1))
    covs = _covariance_path(model, h, r, n_steps=y.shape[1], steady=seen is None)
    if which is not None and covs.gain.shape[1] > 1:
        h = h[:, which]
        predicted_cov, cov, gain, whitener = (part[:, which] for part in covs[:-1])
        covs = CovariancePath(predicted_cov, cov, gain, whitener, covs.valid[which])
    return _mean_path(model, h, covs, y, seen)


class CovariancePath(NamedTuple):
    """The quantities of a filter that do not depend on the data, ``(time, groups, ., .)``."""

    predicted_cov: Tensor
    cov: Tensor
    gain: Tensor
    whitener: Tensor
    valid: Tensor  # (groups,)


def _covariance_path(
    model: LinearGaussianModel, h: Tensor, r: Tensor, n_steps: int, steady: bool
) -> CovariancePath:
    """The Riccati recursion; if ``steady``, it stops once it has converged."""
    matrices = (model.transition, model.transition_cov, model.initial_cov)
    a, q, cov = (as_matrix(matrix).double() for matrix in matrices)
    h, r = h.double(), r.double()
    n_groups = max(part.shape[1] for part in (a, q, cov, h, r))
    cov = cov[0].expand(n_groups, -1, -1)
    a, q, h, r = (part.expand(n_steps, -1, -1, -1) for part in (a, q, h, r))
    if n_groups == 1:  # plain matrices: a batched product of one costs three times as much
        cov = cov[0]
        a, q, h, r = (part[:, 0] for part in (a, q, h, r))
    each_a, each_q, hs, rs = (part.unbind() for part in (a, q, h, r))
    steady = steady and model.n_steps is None
    predicted, updates = [cov], [update(cov, hs[0], rs[0])]
    for t in range(1, n_steps):
        cov = each_a[t] @ updates[-1].cov @ each_a[t].mT + each_q[t]
        predicted.append(cov)
        updates.append(update(cov, hs[t], rs[t]))
        # Derivatives converge later than values, so with a gradient the recursion runs to the end.
        if steady and t % 4 == 0 and not cov.requires_grad and _converged(predicted, updates):
            break
    gain, whitener, filtered, valid = (_stack(part, n_steps) for part in zip(*updates, strict=True))
    path = CovariancePath(_stack(predicted, n_steps), filtered, gain, whitener, valid)
    if n_groups == 1:
        path = CovariancePath(*(part.unsqueeze(1) for part in path))
    return path._replace(valid=path.valid.all(0))


def _stack(steps: Sequence[Tensor], n_steps: int) -> Tensor:
    """Stacks the steps and repeats the last one up to ``n_steps``."""
    path = torch.stack(list(steps))
    rest = path[-1:].expand(n_steps - len(path), *path.shape[1:])
    return torch.cat((path, rest))


def _converged(predicted: Sequence[Tensor], updates: Sequence[Update]) -> bool:
    """Whether the last step changed only the last bits, each entry relative to its own scale.

    The whitener is compared as well, because the difference of two strongly correlated states is
    known far more precisely than either of them.
    """
    (before, after), (last, now) = predicted[-2:], updates[-2:]
    eps = torch.finfo(after.dtype).eps
    whitener = now.whitener.abs().amax(-2, keepdim=True)
    try:
        return bool(((after - before).abs() <= 4 * eps * own_scale(after)).all()) and bool(
            ((now.whitener - last.whitener).abs() <= 16 * eps * whitener).all()
        )
    except RuntimeError:  # values cannot be inspected under torch.func.vmap
        return False


def _mean_path(
    model: LinearGaussianModel, h: Tensor, covs: CovariancePath, y: Tensor, seen: Tensor | None
) -> Path:
    """The recursion of the means, in blocks of time, and the log likelihood."""
    n_groups, (n_series, n_steps, n_observed) = covs.gain.shape[1], y.shape
    gains, whiteners = covs.gain.to(y.dtype), covs.whitener.to(y.dtype)
    mean = as_vector(model.initial_mean, n_groups)[0].expand(n_groups, -1, n_series // n_groups)
    h = h.expand(n_steps, n_groups, -1, -1)
    a = as_matrix(model.transition).expand(n_steps, n_groups, -1, -1)
    offset = _over_time(model.transition_offset, n_groups, n_steps)
    level = _over_time(model.observation_offset, n_groups, n_steps)
    # Temporaries of about 1 MB stay in the cache; whole paths of thousands of series do not.
    length = max(16, 2**17 // mean.numel())
    inputs = (gains, y, *(getattr(model, name) for name in model._shapes()))
    course = None
    if not any(value is not None and (value.requires_grad or _hidden(value)) for value in inputs):
        course = gains.new_empty(n_steps + 1, *mean.shape)  # written in place, touched once
    means, squares = [], []
    for start in range(0, n_steps, length):
        now = slice(start, start + length)
        there = None if seen is None else seen[:, now]
        rows = _residual(y[:, now], None if level is None else level[now], there, n_groups)
        slots = None if course is None else course[start : start + length + 1]
        shift = None if offset is None else offset[now]
        parts = (a[now], shift, h[now], gains[now], mean, rows, slots)
        states, innovation = _mean_block(*parts, first=start == 0)
        white = whiteners[now] @ innovation
        means.append(states)
        squares.append((white * white).sum(2, keepdim=True))
        mean = states[-1]
    # log det S comes from the whitener; missing entries have variance 1 and no factor 2 pi.
    log_det = covs.whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)[..., None, None]
    n_seen = (
        n_observed if seen is None else _grouped(seen.to(y.dtype), n_groups).sum(2, keepdim=True)
    )
    log_likelihood = log_det.to(y.dtype) - 0.5 * (n_seen * _LOG_2PI + torch.cat(squares))
    mean_path = torch.cat(means) if course is None else course[1:]
    return Path(mean_path, covs.predicted_cov, covs.cov, log_likelihood, covs.valid)


def _hidden(value: Tensor) -> bool:
    """Whether torch.func.vmap hides the values, and with them whether they have a gradient."""
    try:
        value.flatten()[:1].sum().item()
        return False
    except RuntimeError:
        return True


def _mean_block(
    predict: Tensor,
    offset: Tensor | None,
    h: Tensor,
    gain: Tensor,
    mean: Tensor,
    residual: Tensor,
    slots: Tensor | None,
    *,
    first: bool,
) -> tuple[Tensor, Tensor]:
    """``m_t = (I - K_t H)(A m_{t-1} + b) + K_t (y_t - d)`` over one block, and the innovations.

    In the first block ``mean`` is the predicted ``m_0``, without a preceding transition.
    """
    eye = torch.eye(predict.shape[-1], dtype=h.dtype, device=h.device)
    if first:
        predict = torch.cat((eye.expand_as(predict[:1]), predict[1:]))
    if offset is not None:
        offset = torch.cat((torch.zeros_like(offset[:1]), offset[1:])) if first else offset
        residual = residual - h @ offset
    push = gain @ residual
    if offset is not None:
        push = push + offset
    states = _linear_recursion(predict - gain @ h @ predict, push, mean, slots)
    innovation = _add_product(residual, -(h @ predict), states[:-1])
    return states[1:], innovation


def _linear_recursion(step: Tensor, push: Tensor, mean: Tensor, slots: Tensor | None) -> Tensor:
    """Iterates ``m_t = F_t m_{t-1} + u_t``; the result begins with ``mean``."""
    if slots is None:  # a gradient is required, so nothing is written in place
        course = [mean]
        for matrix, shift in zip(step.unbind(), push.unbind(), strict=True):
            course.append(torch.baddbmm(shift, matrix, course[-1]))
        return torch.stack(course)
    slots[0], slots[1:] = mean, push
    each = slots.unbind()
    for matrix, before, after in zip(step.unbind(), each[:-1], each[1:], strict=True):
        after.baddbmm_(matrix, before)
    return slots


def _residual(y: Tensor, offset: Tensor | None, seen: Tensor | None, n_groups: int) -> Tensor:
    """``y_t - d``, 0 where missing, ``(time, groups, observed, members)``."""
    rows = _grouped(y, n_groups)
    if offset is not None:
        rows = rows - offset
    return rows if seen is None else torch.where(_grouped(seen, n_groups), rows, 0.0)


def _add_product(rows: Tensor, matrix: Tensor, other: Tensor) -> Tensor:
    """``rows + matrix @ other`` as one fused operation."""
    fused = torch.baddbmm(rows.flatten(0, 1), matrix.flatten(0, 1), other.flatten(0, 1))
    return fused.unflatten(0, rows.shape[:2])


def as_matrix(value: Tensor) -> Tensor:
    """A matrix, possibly by series and step, as ``(time or 1, groups, rows, columns)``."""
    if value.ndim == 4:
        return value.transpose(0, 1)
    return value[None, None] if value.ndim == 2 else value[None]


def _grouped(rows: Tensor, n_groups: int) -> Tensor:
    """``(batch, time, dim) -> (time, groups, dim, members)``."""
    return rows.unflatten(0, (n_groups, -1)).permute(2, 0, 3, 1).contiguous()


def as_vector(value: Tensor, n_groups: int) -> Tensor:
    """A vector, possibly by series and step, to broadcast with ``(time, groups, dim, members)``."""
    if value.ndim < 3:
        value = value[None, None] if value.ndim == 1 else value[:, None]
    if value.shape[0] == 1:
        return value.transpose(0, 1).unsqueeze(-1)
    return _grouped(value, n_groups)


def _over_time(value: Tensor | None, n_groups: int, n_steps: int) -> Tensor | None:
    """An offset expanded over time, ``(time, groups or 1, dim, members or 1)``."""
    return None if value is None else as_vector(value, n_groups).expand(n_steps, -1, -1, -1)


def batch_first(path: Tensor) -> Tensor:
    """``(time, groups, dim, members) -> (batch, time, dim)``."""
    return path.permute(1, 3, 0, 2).flatten(0, 1)
