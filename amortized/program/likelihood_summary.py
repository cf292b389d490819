r"""Likelihood summaries: Gaussian approximations of likelihoods, an input of amortised posteriors.

A likelihood that is nearly :math:`\exp(s^\top (u - v) - \tfrac12 (u - v)^\top P (u - v))` around a
point v is written as d pseudo-observations :math:`z = H u + N(0, I)` with :math:`H = P^{1/2}` and
:math:`z = H v + H^{-1} s`. Directions about which the data are uninformative have rows of zeros,
so a summary is always finite.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_DIFFERENCE = 1e-4
_N_STEPS = 8  # damped Gauss-Newton steps, none longer than one in any coordinate

# The arguments of a program's method ``likelihood_summary(x, y, mask)``; False marks padding rows.
Inputs = Float[Tensor, "batch n features"]
Targets = Float[Tensor, "batch n"]
Mask = Bool[Tensor, "batch n"]


class LikelihoodSummary(NamedTuple):
    r"""A normal approximation of a likelihood, as :math:`z = H u + N(0, I)`.

    Given one (such as a least-squares estimate and its covariance), an amortised posterior only has
    to learn the difference between it and the likelihood.

    Attributes:
        value: z, ``(batch, rows)``.
        matrix: H, ``(batch, rows, dim)``, for u in unconstrained space.
    """

    value: Float[Tensor, "batch rows"]
    matrix: Float[Tensor, "batch rows dim"]

    def where(self, observed: Bool[Tensor, " batch"]) -> "LikelihoodSummary":
        """The same summary in float32, uninformative for datasets that were not observed."""
        value = self.value.where(observed[:, None], 0.0)
        return LikelihoodSummary(
            value.float(), self.matrix.where(observed[:, None, None], 0.0).float()
        )


def summary_of_quadratic(
    point: Float[Tensor, "batch dim"],
    score: Float[Tensor, "batch dim"],
    precision: Float[Tensor, "batch dim dim"],
    least: float = 1e-9,
) -> LikelihoodSummary:
    """The summary of a log likelihood from its score and curvature at a point.

    Args:
        point: v.
        score: s, the gradient there.
        precision: P, the negative Hessian or an approximation without negative directions.
        least: fraction of the largest curvature below which a direction counts as uninformative.
    """
    values, vectors = torch.linalg.eigh(precision)
    there = values > least * values[..., -1:].clamp_min(1e-30)
    root = values.clamp_min(0.0).sqrt().where(there, 0.0)
    turned = (vectors.mT @ score.unsqueeze(-1)).squeeze(-1)
    matrix = (vectors * root.unsqueeze(-2)) @ vectors.mT
    pull = (vectors @ (turned / root).where(there, 0.0).unsqueeze(-1)).squeeze(-1)
    return LikelihoodSummary((matrix @ point.unsqueeze(-1)).squeeze(-1) + pull, matrix)


def gauss_newton_summary(
    predict: Callable[[Tensor], Tensor],
    observed: Float[Tensor, "batch numbers"],
    start: Float[Tensor, "batch dim"],
    prior_sd: float,
) -> LikelihoodSummary:
    """The summary of observations that are normal around a smooth function of the latents.

    Args:
        predict: the expected observations at u, ``(batch, dim) -> (batch, numbers)``, in units of
            their standard deviations.
        observed: the observations in the same units.
        start: initial u.
        prior_sd: standard deviation of a weak normal prior around zero, for regularisation.

    References:
        | An Algorithm for Least-Squares Estimation of Nonlinear Parameters (Marquardt, 1963)

    Example:
        >>> import torch
        >>> summary = gauss_newton_summary(torch.exp, torch.ones(1, 1), torch.ones(1, 1), 10.0)
        >>> round((summary.value / summary.matrix[..., 0]).item(), 3)
        0.0
    """
    u, observed = start.double(), observed.double()
    eye = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)
    best = (u, *_linearised(predict, observed, u))
    damping = u.new_ones(len(u), 1)
    for _ in range(_N_STEPS):
        point, jacobian, residual = best
        normal = jacobian.mT @ jacobian + eye / prior_sd**2
        pull = (jacobian.mT @ residual.unsqueeze(-1)).squeeze(-1) - point / prior_sd**2
        damped = normal + torch.diag_embed(damping * normal.diagonal(dim1=-1, dim2=-2))
        tried = point + torch.linalg.solve(damped, pull).clamp(-1.0, 1.0)
        trial = (tried, *_linearised(predict, observed, tried))
        better = _misfit(trial, prior_sd) < _misfit(best, prior_sd)
        damping = torch.where(better.unsqueeze(-1), damping / 10, damping * 10)
        point, jacobian, residual = (
            torch.where(better.reshape(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial, best, strict=True)
        )
        best = (point, jacobian, residual)
    point, jacobian, residual = best
    # A misfit beyond chance means that this is not the mode, or not normal: inflate the errors.
    n_free = max(1, residual.shape[-1] - u.shape[-1])
    excess = (residual.square().sum(-1) / n_free).clamp_min(1.0)[:, None, None]
    score = (jacobian.mT @ residual.unsqueeze(-1) / excess).squeeze(-1)
    return summary_of_quadratic(point, score, jacobian.mT @ jacobian / excess, least=1e-12)


def moment_summary(
    log_likelihood: Callable[[Tensor], Tensor],
    seen: Bool[Tensor, " batch"],
    centre: float,
    spread: float,
) -> LikelihoodSummary:
    r"""The summary of any likelihood of one latent: its mean and variance under a wide normal.

    Moments are computed on a grid of 13 points, which is twice recentred and narrowed to four
    standard deviations on each side. Unlike a mode they represent a skewed likelihood well. The
    wide normal is then divided out; the centre of a monotone likelihood stays within two of its
    standard deviations.

    Args:
        log_likelihood: function of u, ``(batch, points) -> (batch, points)``.
        seen: whether each dataset was observed; the summary of others is uninformative.
        centre: mean of the wide normal.
        spread: standard deviation of the wide normal.

    Example:
        >>> import torch
        >>> normal = lambda u: -0.5 * ((u - 1.0) / 0.5).square()
        >>> summary = moment_summary(normal, torch.tensor([True]), 0.0, 2.0)
        >>> [round(part.item(), 2) for part in summary]  # (u - 1) / 0.5 as H u - z
        [2.0, 2.0]
    """
    line = torch.linspace(-4.0, 4.0, 13, device=seen.device)
    mean = torch.full(seen.shape, centre, device=seen.device)
    sd = torch.full_like(mean, spread)
    for _ in range(3):
        u = mean.unsqueeze(-1) + sd.unsqueeze(-1) * line
        log_wide = -0.5 * ((u - centre) / spread).square()
        weights = (log_likelihood(u) + log_wide).softmax(-1)
        mean = (weights * u).sum(-1)
        variance = (weights * (u - mean.unsqueeze(-1)).square()).sum(-1)
        sd = torch.maximum(variance.sqrt(), sd * (line[1] - line[0]) / 2)
    score = (mean - centre) / spread**2
    precision = torch.maximum(sd.square().reciprocal() - spread**-2, score.abs() / (2 * spread))
    precision, score = precision.where(seen, 0.0), score.where(seen, 0.0)
    return summary_of_quadratic(mean[:, None], score[:, None], precision[:, None, None])


def _misfit(state: tuple[Tensor, Tensor, Tensor], prior_sd: float) -> Tensor:
    """Twice the negative log posterior of a state (u, Jacobian, residual)."""
    return state[2].square().sum(-1) + state[0].square().sum(-1) / prior_sd**2


def _linearised(
    predict: Callable[[Tensor], Tensor], observed: Tensor, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Jacobian by central differences, all in one run, and residual."""
    n, dim = u.shape
    shifts = _DIFFERENCE * torch.eye(dim, dtype=u.dtype, device=u.device)
    points = torch.cat([u.unsqueeze(0), u + shifts.unsqueeze(1), u - shifts.unsqueeze(1)])
    values = predict(points.flatten(0, 1)).unflatten(0, (1 + 2 * dim, n))
    jacobian = (values[1 : 1 + dim] - values[1 + dim :]) / (2 * _DIFFERENCE)
    return jacobian.permute(1, 2, 0), observed - values[0]
