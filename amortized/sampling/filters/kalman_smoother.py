r"""The Kalman smoother: every state given all observations, earlier and later ones.

Backwards from the last filtered state, with ``m_t, C_t`` filtered and ``p_t, P_t`` predicted,

    G_t = C_t A' P_{t+1}^{-1},
    mean_t = m_t + G_t (mean_{t+1} - p_{t+1}),
    cov_t = (I - G_t A) C_t (I - G_t A)' + G_t Q G_t' + G_t cov_{t+1} G_t'.

The covariance is a sum of squares and so stays positive; as in the filter it is computed in
float64, once for all series with the same matrices and the same pattern of missing entries.

References:
    Maximum likelihood estimates of linear dynamic systems (Rauch, Tung and Striebel, 1965).
    Bayesian filtering and smoothing (Särkkä, 2013), chapter 8.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space.covariances import covariance_inverse
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman import GaussianStates, as_matrix, as_vector, filter_path

__all__ = ["kalman_smoother"]


def kalman_smoother(
    model: LinearGaussianModel, y: Float[Tensor, "batch time observed"]
) -> GaussianStates:
    """Smooths all series in one call; exact, and differentiable in the model and the data.

    Arguments and errors are those of `kalman_filter`.

    Example:
        >>> from amortized.priors.state_space.trends import LocalLevel
        >>> walk = LocalLevel(drift=1.0, start=1.0).model(torch.arange(3.0), noise=1.0)
        >>> kalman_smoother(walk, torch.tensor([[[1.0], [torch.nan], [2.0]]])).mean[0, :, 0]
        tensor([0.7143, 1.1429, 1.5714])
    """
    path = filter_path(model, y)
    a, q = as_matrix(model.transition).double(), as_matrix(model.transition_cov).double()
    if model.n_steps is not None:  # entry t is that of the transition to step t
        a, q = (part[1:] if len(part) > 1 else part for part in (a, q))
    gain = _smoother_gain(a, path.cov[:-1], path.predicted_cov[1:])
    rest = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device) - gain @ a
    own_cov = rest @ path.cov[:-1] @ rest.mT + gain @ q @ gain.mT
    cov = [path.cov[-1]]
    for g, own in zip(gain.flip(0), own_cov.flip(0), strict=True):
        cov.append(torch.baddbmm(own, g @ cov[-1], g.mT))
    gain, rest = (part.to(path.mean.dtype) for part in (gain, rest))
    own_mean = rest @ path.mean[:-1]
    if model.transition_offset is not None:
        offset = as_vector(model.transition_offset, gain.shape[1])
        own_mean = own_mean - gain @ (offset[1:] if len(offset) > 1 else offset)
    mean = [path.mean[-1]]
    for g, own in zip(gain.flip(0), own_mean.flip(0), strict=True):
        mean.append(torch.baddbmm(own, g, mean[-1]))
    return path.states(torch.stack(mean[::-1]), torch.stack(cov[::-1]))


def _smoother_gain(a: Tensor, cov: Tensor, predicted_cov: Tensor) -> Tensor:
    """``C_t A' P_{t+1}^{-1}``; for singular ``P_{t+1}`` a generalised inverse is exact too."""
    factor, info = torch.linalg.cholesky_ex(predicted_cov)
    across = a @ cov
    gain = torch.cholesky_solve(across, factor).mT
    singular = (info > 0) & predicted_cov.isfinite().all(-1).all(-1)
    if bool(singular.any()):
        gain = gain.clone()
        gain[singular] = across[singular].mT @ covariance_inverse(predicted_cov[singular])
    return gain
