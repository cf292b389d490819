r"""Hamiltonian Monte Carlo moves for a batch of datasets with many particles each.

With the particles' covariance :math:`L L^T` as inverse mass matrix and velocity :math:`L w`,

.. math:: u' = u + \epsilon L w, \qquad w' = w + \epsilon L^T \nabla \log \pi(u),

the target is nearly isotropic whatever its scales and correlations, and for a normal target a
trajectory of length :math:`\pi / 2` makes the new position independent of the old one. The step
size :math:`\epsilon` is adapted for each dataset.

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

from amortized.distributions.cholesky import squared_length
from amortized.sampling.steps.tempering import Evaluates, Point

TARGET_ACCEPT = 0.8  # mean over all particles
TAIL_ACCEPT = 0.55  # mean in the tail of the coordinate where it is lowest
MAX_LEAPFROG = 64
_FEWEST = 12  # effective number of particles needed to estimate the acceptance in a tail


class Tuning(NamedTuple):
    """Step size and mass matrix of each dataset.

    Attributes:
        step: step size in units of the particles' spread, ``(batch,)``.
        factor: L for each of several groups of equal size, ``(batch, groups, dim, dim)``.
        accept: mean acceptance probability of the last move, ``(batch,)``.
        tails: mean acceptance of particles in the lower and in the upper tail of each coordinate,
            averaged over moves, ``(batch, 2 dim)``. It is low where the target is much narrower
            than the particles' covariance, as in the neck of a funnel: the step size is too large
            there, and the region behind it is not explored.
    """

    step: Float[Tensor, " batch"]
    factor: Float[Tensor, "batch groups dim dim"]
    accept: Float[Tensor, " batch"]
    tails: Float[Tensor, "batch tails"]


def initial_tuning(factor: Float[Tensor, "batch groups dim dim"]) -> Tuning:
    """Step size suited to a normal target of this dimension, with a given mass matrix."""
    n_datasets, dim = len(factor), factor.shape[-1]
    one = factor.new_ones(n_datasets)
    return Tuning(_of_a_normal(dim) * one, factor, one, factor.new_ones(n_datasets, 2 * dim))


def with_factor(tuning: Tuning, factor: Float[Tensor, "batch groups dim dim"]) -> Tuning:
    """The tuning with another mass matrix, and a step of the same length in the units of u.

    Steps are in units of the particles' spread. A few particles far out in a heavy tail make them
    tiny; once these are gone, they would take many moves to grow again.
    """
    spreads = [each.norm(dim=-1) for each in (tuning.factor, factor)]
    narrower = (spreads[0] / spreads[1].clamp(min=1e-300)).amax((1, 2))
    longest = torch.maximum(tuning.step, tuning.step.new_tensor(_of_a_normal(factor.shape[-1])))
    step = (tuning.step * narrower.clamp(min=1.0)).minimum(longest)
    return tuning._replace(step=step, factor=factor)


def _of_a_normal(dim: int) -> float:
    return 1.3 * dim**-0.25


def spread_factor(
    u: Float[Tensor, "batch n dim"], weights: Float[Tensor, "batch n"]
) -> Float[Tensor, "batch dim dim"]:
    """Cholesky factor of the weighted covariance, with correlations shrunk for small samples.

    The sample size is the effective one, ``1 / sum(w^2)`` for weights that add up to 1.
    """
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    mean = (weights.unsqueeze(-1) * u).sum(1, keepdim=True)
    centred = u - mean
    covariance = (centred * weights.unsqueeze(-1)).mT @ centred
    scale = covariance.diagonal(dim1=-1, dim2=-2).clamp(min=1e-20).sqrt()
    correlation = covariance / (scale.unsqueeze(-1) * scale.unsqueeze(-2))
    n = weights.square().sum(-1).clamp(min=1e-300).reciprocal()[:, None, None]
    shrink = u.shape[-1] / (u.shape[-1] + n)
    eye = torch.eye(u.shape[-1], dtype=u.dtype)
    correlation = torch.where(eye.bool(), 1.0, (1 - shrink) * correlation)
    factor, info = torch.linalg.cholesky_ex(correlation)
    factor = torch.where((info == 0)[:, None, None], factor, eye)
    return scale.unsqueeze(-1) * factor


def crossed_factors(
    u: Float[Tensor, "batch n dim"], weights: Float[Tensor, "batch n"]
) -> Float[Tensor, "batch 2 dim dim"]:
    """Covariance factor of each half of the particles, estimated from the other half.

    A mass matrix estimated from the particles that it moves depends on them, so the moves leave the
    target only approximately invariant; over many moves that biases the evidence downwards.
    """
    halves = zip(u.chunk(2, 1), weights.chunk(2, 1), strict=True)
    first, second = (spread_factor(*half) for half in halves)
    return torch.stack([second, first], 1)


def _times(factor: Tensor, vectors: Tensor) -> Float[Tensor, "batch n dim"]:
    """Multiplies each particle's vector by the factor of its group."""
    return (vectors.unflatten(1, (factor.shape[1], -1)) @ factor.mT).flatten(1, 2)


def hamiltonian_move(
    path: Evaluates, point: Point, beta: Float[Tensor, " batch"], tuning: Tuning
) -> tuple[Point, Tuning]:
    """Moves every particle once; ``point.gradient`` must be the gradient at ``beta``.

    Returns:
        the particles after the move, and the tuning with the step size adapted to this move.
    """
    middle = tuning.step.median().item()
    n_leapfrog = min(MAX_LEAPFROG, max(1, math.ceil(0.5 * math.pi / middle)))
    jitter = 0.7 + 0.6 * torch.rand(point.u.shape[:2], dtype=point.u.dtype)
    step = (tuning.step.unsqueeze(-1) * jitter).unsqueeze(-1)
    factor = tuning.factor
    velocity = torch.randn_like(point.u)
    before = point.log_density(beta) - 0.5 * squared_length(velocity)

    new = point
    velocity = velocity + 0.5 * step * _times(factor.mT, point.gradient)
    for i in range(n_leapfrog):
        new = path.at(new.u + step * _times(factor, velocity), beta)
        share = 0.5 if i == n_leapfrog - 1 else 1.0
        velocity = velocity + share * step * _times(factor.mT, new.gradient)
    after = new.log_density(beta) - 0.5 * squared_length(velocity)

    # A particle at zero density moves to any point of positive density.
    log_ratio = torch.where(before == -torch.inf, torch.inf, after - before)
    accept = log_ratio.nan_to_num(-torch.inf, torch.inf, -torch.inf).clamp(max=0.0).exp()
    moved = torch.rand_like(accept) < accept
    kept = Point(
        *(
            torch.where(moved.reshape(moved.shape + (1,) * (a.ndim - 2)), a, b)
            for a, b in zip(new, point, strict=True)
        )
    )
    rate, tails = accept.mean(-1), 0.5 * (tuning.tails + _tail_means(point.u, accept))
    # The acceptance rate over many particles is precise enough for large corrections.
    excess = torch.minimum(rate - TARGET_ACCEPT, tails.amin(-1) - TAIL_ACCEPT)
    adapted = (tuning.step * (1.5 * excess).exp()).clamp(1e-5, 2.0)
    return kept, Tuning(adapted, factor, rate, tails)


def _tail_means(
    u: Float[Tensor, "batch n dim"], accept: Float[Tensor, "batch n"]
) -> Float[Tensor, "batch tails"]:
    """Weighted mean acceptance in each tail; weights grow with the distance from the mean."""
    centred = u - u.mean(1, keepdim=True)
    z = centred / centred.square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
    weight = torch.cat([(-z - 1).clamp(0.0, 1.5), (z - 1).clamp(0.0, 1.5)], -1)
    total = weight.sum(1)
    mean = (accept.unsqueeze(1) @ weight).squeeze(1) / total.clamp(min=1e-30)
    enough = total.square() > _FEWEST * weight.square().sum(1)  # effective number in the tail
    return torch.where(enough, mean, 1.0)
