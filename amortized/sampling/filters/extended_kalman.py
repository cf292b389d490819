r"""The extended Kalman filter: a Kalman filter for the model linearised at its own estimates.

For ``x_t ~ N(f(x_{t-1}, t), Q)`` and ``y_t ~ N(h(x_t, t), R)``, with the Jacobians F of f at
``m_{t-1}`` and H of h at ``p_t``,

    p_t = f(m_{t-1}, t),    P_t = F C_{t-1} F' + Q,
    m_t = p_t + K_t (y_t - h(p_t, t)),    K_t and C_t as in the Kalman filter.

The process noise enters through its covariance Q, not through a factor of it. The filter is exact
if f and h are linear, inaccurate if they are curved within one standard deviation, and unable to
represent a second mode. A particle filter on the same data shows the error: compare the evidence.

Not implemented: iterated updates and sigma points.

References:
    Application of statistical filter theory to the optimal estimation of position and velocity on
    board a circumlunar vehicle (Smith, Schmidt and McGee, 1962).
    Bayesian filtering and smoothing (Särkkä, 2013), chapter 5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space.covariances import check_covariance, is_covariance
from amortized.sampling.filters.kalman import GaussianStates, observed_entries
from amortized.sampling.filters.kalman_update import leave_out_missing, update

__all__ = ["NonlinearGaussianModel", "extended_kalman_filter"]

StateFunction = Callable[[Tensor, int], Tensor]

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False)
class NonlinearGaussianModel:
    """A state-space model with smooth mean functions and Gaussian noise.

    The functions receive ``state`` of shape ``(..., batch, state)`` and the step ``t``, and must
    broadcast over leading dimensions; a parameter that differs by series is a ``(batch,)`` tensor.

    Attributes:
        transition: ``f``, the mean of ``x_t`` given ``x_{t-1}``, for ``t >= 1``.
        transition_cov: ``Q``, ``(state, state)`` or ``(batch, state, state)``, or a function of
            ``x_{t-1}`` and ``t`` that returns one.
        observation: ``h``, the mean of ``y_t`` given ``x_t``, ``(..., batch, observed)``.
        observation_cov: ``R``, like ``transition_cov``; a function receives the predicted ``x_t``.
        initial_mean: mean of ``x_0``, the state at the first observation, ``(state,)`` or batched.
        initial_cov: covariance of ``x_0``, ``(state, state)`` or batched.
        residual: replaces the difference of ``y_t`` and its mean, for example to wrap an angle.

    Raises:
        ValueError: if a covariance is not symmetric and positive semi-definite. A series for which
            a function returns such a matrix is marked as not ``valid`` instead.
    """

    transition: StateFunction
    transition_cov: Tensor | StateFunction
    observation: StateFunction
    observation_cov: Tensor | StateFunction
    initial_mean: Float[Tensor, "... state"]
    initial_cov: Float[Tensor, "... state state"]
    residual: Callable[[Tensor, Tensor], Tensor] = torch.sub

    def __post_init__(self) -> None:
        for name in ("transition_cov", "observation_cov", "initial_cov"):
            value = getattr(self, name)
            if isinstance(value, Tensor):
                check_covariance(name, value)


def extended_kalman_filter(
    model: NonlinearGaussianModel, y: Float[Tensor, "batch time observed"]
) -> GaussianStates:
    """Filters all series in one call, by linearising the model.

    Args:
        model: the model of all series.
        y: observations; NaN marks a missing entry.

    Raises:
        ValueError: if y or the value of a function has the wrong shape, or y is infinite.

    Example:
        >>> pendulum = NonlinearGaussianModel(
        ...     transition=lambda x, t: torch.stack(
        ...         (x[..., 0] + 0.1 * x[..., 1], x[..., 1] - 0.98 * x[..., 0].sin()), -1),
        ...     transition_cov=1e-3 * torch.eye(2),
        ...     observation=lambda x, t: x[..., :1].sin(),
        ...     observation_cov=0.01 * torch.eye(1),
        ...     initial_mean=torch.tensor([1.0, 0.0]),
        ...     initial_cov=0.1 * torch.eye(2),
        ... )
        >>> extended_kalman_filter(pendulum, torch.full((5, 20, 1), 0.8)).mean.shape
        torch.Size([5, 20, 2])
    """
    start = model.initial_mean
    seen = observed_entries(y, y.shape[-1], start.dtype)
    mean = start.expand(len(y), start.shape[-1])
    cov = model.initial_cov.double().expand(len(y), -1, -1)  # as in the Kalman filter
    means, covs, log_likelihoods, valids = [], [], [], []
    for t in range(y.shape[1]):
        if t > 0:
            noise, is_noise = _noise(model.transition_cov, mean, t)
            mean, slope = _linearise(model.transition, mean, t, "transition", mean.shape[-1])
            cov = slope @ cov @ slope.mT + noise
            valids.append(is_noise)
        there = None if seen is None else seen[:, t]
        mean, cov, log_likelihood, valid = _observe(model, mean, cov, y[:, t], there, t)
        means.append(mean)
        covs.append(cov)
        log_likelihoods.append(log_likelihood)
        valids.append(valid)
    increments = torch.stack(log_likelihoods, 1)
    path = torch.stack(means, 1)
    valid = torch.stack([part.expand(len(y)) for part in valids]).all(0)
    valid = valid & path.isfinite().all(-1).all(-1)
    log_evidence = torch.where(valid, increments.sum(-1), -torch.inf)
    return GaussianStates(path, torch.stack(covs, 1).to(y.dtype), increments, log_evidence, valid)


def _observe(
    model: NonlinearGaussianModel, mean: Tensor, cov: Tensor, y: Tensor, seen: Tensor | None, t: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean, covariance, log likelihood and validity after one observation of each series."""
    noise, is_noise = _noise(model.observation_cov, mean, t)
    expected, slope = _linearise(model.observation, mean, t, "observation", y.shape[-1])
    residual = model.residual(y, expected)
    n_seen: int | Tensor = y.shape[-1]
    if seen is not None:
        slope, noise = leave_out_missing(slope, noise, seen)
        residual = torch.where(seen, residual, 0.0)
        n_seen = seen.to(y.dtype).sum(-1)
    after = update(cov, slope, noise)
    white = (after.whitener.to(y.dtype) @ residual[..., None])[..., 0]
    log_det = after.whitener.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_likelihood = log_det.to(y.dtype) - 0.5 * (n_seen * _LOG_2PI + (white * white).sum(-1))
    mean = mean + (after.gain.to(y.dtype) @ residual[..., None])[..., 0]
    return mean, after.cov, log_likelihood, is_noise & after.valid & log_likelihood.isfinite()


def _linearise(
    function: StateFunction, state: Tensor, t: int, name: str, n_out: int
) -> tuple[Tensor, Tensor]:
    """Value ``(batch, out)`` and Jacobian ``(batch, out, state)`` of a function at a state."""
    # One forward-mode pass for all directions: they form a leading dimension before the batch.
    n_state = state.shape[-1]
    states = state.repeat(n_state, 1, 1)
    unit = torch.eye(n_state, dtype=state.dtype, device=state.device)
    directions = unit[:, None].repeat(1, len(state), 1)
    value: Tensor
    slope: Tensor
    value, slope = torch.func.jvp(lambda x: function(x, t), (states,), (directions,))  # type: ignore[misc]
    if value.shape != (*states.shape[:-1], n_out):
        raise ValueError(
            f"Expected {name} to map {tuple(states.shape)} to {(*states.shape[:-1], n_out)}; got "
            f"{tuple(value.shape)}. Let it act on the last dimension alone: x[..., i], torch.stack("
            "(...), -1)."
        )
    return value[0], slope.permute(1, 2, 0).double()


def _noise(cov: Tensor | StateFunction, state: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """The covariance in float64, evaluated at a state if it is a function, and its validity."""
    if isinstance(cov, Tensor):  # already validated with the model
        return cov.double(), torch.ones((), dtype=torch.bool, device=cov.device)
    value = cov(state, t)
    return value.double(), is_covariance(value)
