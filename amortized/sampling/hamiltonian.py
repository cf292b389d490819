r"""Hamiltonian moves for a batch of datasets with many particles each.

With the particles' own covariance :math:`L L^T` as the inverse mass and velocity :math:`L w`,

.. math:: u' = u + \epsilon L w, \qquad w' = w + \epsilon L^T \nabla \log \pi(u),

the target is nearly isotropic whatever its scales and correlations, and a path of length
:math:`\pi / 2` carries a normal target's particles to independent places. The step
:math:`\epsilon` is adapted for each dataset.

References:
    Neal, MCMC using Hamiltonian dynamics (2011), arXiv 1206.1901.
    Buchholz, Chopin and Jacob, Adaptive tuning of Hamiltonian Monte Carlo within sequential Monte
    Carlo (2021), arXiv 1808.07730.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.sampling.tempering import Path, Point

TARGET_ACCEPT = 0.8
MAX_LEAPFROG = 24


class Tuning(NamedTuple):
    """Step and mass of each dataset.

    Attributes:
        step: in units of the particles' spread, ``(batch,)``.
        factor: L, ``(batch, dim, dim)``.
        accept: mean acceptance probability of the last move, ``(batch,)``.
    """

    step: Float[Tensor, " batch"]
    factor: Float[Tensor, "batch dim dim"]
    accept: Float[Tensor, " batch"]


def initial_step(n_datasets: int, dim: int) -> Float[Tensor, " batch"]:
    """The step that suits a normal target of this dimension."""
    return torch.full((n_datasets,), 1.3 * dim**-0.25, dtype=torch.float64)


def spread_factor(
    u: Float[Tensor, "batch n dim"], weights: Float[Tensor, "batch n"]
) -> Float[Tensor, "batch dim dim"]:
    """Cholesky factor of the weighted covariance, its correlations shrunk where few draws tell.

    The number of draws that tell is the effective one, ``1 / sum(w^2)``.
    """
    mean = (weights.unsqueeze(-1) * u).sum(1, keepdim=True)
    centred = u - mean
    covariance = (centred * weights.unsqueeze(-1)).mT @ centred
    scale = covariance.diagonal(dim1=-1, dim2=-2).clamp(min=1e-20).sqrt()
    correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    n = weights.square().sum(-1).reciprocal()[:, None, None]
    shrink = u.shape[-1] / (u.shape[-1] + n)
    eye = torch.eye(u.shape[-1], dtype=u.dtype)
    correlation = torch.where(eye.bool(), 1.0, (1 - shrink) * correlation)
    factor, info = torch.linalg.cholesky_ex(correlation)
    factor = torch.where((info == 0)[:, None, None], factor, eye)
    return scale.unsqueeze(-1) * factor


def hamiltonian_move(
    path: Path, point: Point, beta: Float[Tensor, " batch"], tuning: Tuning
) -> tuple[Point, Tuning]:
    """Moves every particle once; the gradient in ``point`` must be that of ``beta``.

    Returns:
        the particles after the move, and the tuning with its step adapted by this move.
    """
    middle = tuning.step.median().item()
    n_leapfrog = min(MAX_LEAPFROG, max(1, math.ceil(0.5 * math.pi / middle)))
    jitter = 0.7 + 0.6 * torch.rand(point.u.shape[:2], dtype=point.u.dtype)
    step = (tuning.step.unsqueeze(-1) * jitter).unsqueeze(-1)
    factor = tuning.factor
    velocity = torch.randn_like(point.u)
    before = point.log_density(beta) - 0.5 * velocity.square().sum(-1)

    new = point
    velocity = velocity + 0.5 * step * (point.gradient @ factor)
    for i in range(n_leapfrog):
        new = path.at(new.u + step * (velocity @ factor.mT), beta)
        share = 0.5 if i == n_leapfrog - 1 else 1.0
        velocity = velocity + share * step * (new.gradient @ factor)
    after = new.log_density(beta) - 0.5 * velocity.square().sum(-1)

    # A particle from where the density is 0 moves wherever it is not.
    log_ratio = torch.where(before == -torch.inf, torch.inf, after - before)
    accept = log_ratio.nan_to_num(-torch.inf, torch.inf, -torch.inf).clamp(max=0.0).exp()
    moved = torch.rand_like(accept) < accept
    kept = Point(
        *(
            torch.where(moved.reshape(moved.shape + (1,) * (a.ndim - 2)), a, b)
            for a, b in zip(new, point, strict=True)
        )
    )
    rate = accept.mean(-1)
    # The rate over many particles is exact enough for bold corrections.
    adapted = tuning.step * (1.5 * (rate - TARGET_ACCEPT)).exp()
    return kept, tuning._replace(step=adapted.clamp(1e-5, 2.0), accept=rate)
