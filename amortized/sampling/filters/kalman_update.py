"""The covariance update shared by the linear and the extended Kalman filter."""

from typing import NamedTuple

import torch
from torch import Tensor


class Update(NamedTuple):
    """Effect of one observation on a covariance: ``K``, ``chol(S)^{-1}``, ``C``, and S > 0."""

    gain: Tensor
    whitener: Tensor
    cov: Tensor
    valid: Tensor


def update(cov: Tensor, observation: Tensor, observation_cov: Tensor) -> Update:
    """Updates covariances ``(..., state, state)`` by one observation, in Joseph form."""
    across = observation @ cov
    factor, info = torch.linalg.cholesky_ex(across @ observation.mT + observation_cov)
    eye = torch.eye(factor.shape[-1], dtype=cov.dtype, device=cov.device)
    whitener = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
    gain = (whitener @ across).mT @ whitener
    keep = torch.eye(cov.shape[-1], dtype=cov.dtype, device=cov.device) - gain @ observation
    filtered = keep @ cov @ keep.mT + gain @ observation_cov @ gain.mT
    return Update(gain, whitener, filtered, info == 0)


def leave_out_missing(
    observation: Tensor, observation_cov: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor]:
    """``H`` and ``R`` under which missing entries are independent noise of unit variance.

    With residual 0 they change no state and contribute nothing to ``log det S`` or the quadratic
    form.
    """
    both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
    unit = torch.eye(seen.shape[-1], dtype=observation.dtype, device=observation.device)
    return observation * seen.unsqueeze(-1), torch.where(both, observation_cov, unit)
