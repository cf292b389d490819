r"""Bridge sampling: the log evidence from draws of the posterior.

With draws :math:`u_i` of the posterior and draws :math:`v_j` of a normalised density q, here a
normal with the moments of the posterior draws, the optimal bridge estimator solves

.. math:: Z = \frac{\frac1m \sum_j \ell(v_j) / (s_1 \ell(v_j) + s_2 Z)}
                  {\frac1n \sum_i 1 / (s_1 \ell(u_i) + s_2 Z)}, \qquad \ell = p(u, y) / q(u),

where :math:`s_1, s_2` are the shares of the two sets of draws. Unlike importance sampling, this
does not need a q with heavier tails than the posterior; overlap is enough. The normal used with one
half of the draws is fitted to the other half, so that no draw is evaluated under its own fit.

References:
    Meng and Wong, Simulating ratios of normalizing constants via a simple identity (1996).
    Gronau et al., A tutorial on bridge sampling (2017), arXiv 1703.05984.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.convergence import clustered_variance
from amortized.sampling.start import FromMixture
from amortized.sampling.steps.hamiltonian import spread_factor

_N_STEPS = 40
_CHUNK = 4096  # particles


class Evidence(NamedTuple):
    """Log evidence of each dataset and its standard error, infinite where q hardly overlaps."""

    log_evidence: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]


def bridge_evidence(
    density: ProgramDensity, u: Tensor, cluster: Tensor, log_density: Tensor | None = None
) -> Evidence:
    """Estimates the log evidence of every dataset from equally weighted posterior draws.

    Args:
        density: log density of the posterior.
        u: draws, ``(batch, n, dim)`` with an even n.
        cluster: labels from 0 to n - 1, ``(batch, n)``; draws with the same label are dependent.
            No label should occur in both halves of u.
        log_density: log density at the draws, ``(batch, n)``, if already known.
    """
    if log_density is None:
        log_density = _evaluated(density, u)
    halves = [each.chunk(2, 1) for each in (u, log_density, cluster)]
    normals = [_normal(half) for half in halves[0]]
    parts = []
    for normal, half, height, label in zip(normals[::-1], *halves, strict=True):
        q = FromMixture(normal)
        proposed = q.sample(half.shape[1])
        of_posterior = height.nan_to_num(-torch.inf) - q.log_prob(half)
        of_normal = _evaluated(density, proposed) - q.log_prob(proposed)
        parts.append(_bridge(of_posterior, of_normal, label))
    log_evidence = torch.stack([part.log_evidence for part in parts])
    error = torch.stack([part.error for part in parts])
    weight = error.square().clamp(min=1e-12).reciprocal()
    total = weight.sum(0)
    mean = (weight * log_evidence).sum(0) / total
    scatter = (weight * (log_evidence - mean).square()).sum(0)  # chi-square(1) if errors are right
    error = (scatter.clamp(min=1.0) / total).sqrt()
    known = torch.isfinite(mean) & torch.isfinite(error)
    return Evidence(torch.where(known, mean, -torch.inf), torch.where(known, error, torch.inf))


def _evaluated(density: ProgramDensity, u: Tensor) -> Float[Tensor, "batch n"]:
    """Log density of the draws, computed for a few datasets at a time so that it fits in cache."""
    with torch.no_grad():
        parts = [
            density.take(rows).log_density(u[rows])
            for rows in torch.arange(len(u)).split(max(1, _CHUNK // u.shape[1]))
        ]
    return torch.cat(parts).nan_to_num(-torch.inf, torch.inf, -torch.inf)


def _normal(u: Tensor) -> GaussianMixture:
    equal = torch.ones(u.shape[:2], dtype=u.dtype)
    factor = spread_factor(u, equal)
    weight = u.new_zeros(len(u), 1)
    return GaussianMixture(weight, u.mean(1, keepdim=True), factor.unsqueeze(1), False)


def _bridge(
    of_posterior: Float[Tensor, "batch n"],
    of_normal: Float[Tensor, "batch m"],
    cluster: Int[Tensor, "batch n"],
) -> Evidence:
    """Log evidence from the log ratios p / q at draws of p and at draws of q."""
    n, m = of_posterior.shape[1], of_normal.shape[1]
    log_z = of_posterior.median(1, keepdim=True).values
    s_1, s_2 = n / (n + m), m / (n + m)
    for _ in range(_N_STEPS):
        weight = _inverse_sum(of_posterior, log_z, s_1, s_2)
        other = of_normal + _inverse_sum(of_normal, log_z, s_1, s_2)
        log_z = other.logsumexp(1, keepdim=True) - weight.logsumexp(1, keepdim=True)
        log_z = log_z + torch.tensor(n / m).log()
    weight = _relative(_inverse_sum(of_posterior, log_z, s_1, s_2))
    other = _relative(of_normal + _inverse_sum(of_normal, log_z, s_1, s_2))
    variance = clustered_variance(weight.unsqueeze(-1), cluster)[:, 0] + other.var(1) / m
    return Evidence(log_z[:, 0], variance.sqrt())


def _inverse_sum(log_ratio: Tensor, log_z: Tensor, s_1: float, s_2: float) -> Tensor:
    """Log of ``1 / (s_1 l + s_2 Z)``."""
    constants = torch.tensor([s_1, s_2]).log()
    return -torch.logaddexp(log_ratio + constants[0], log_z + constants[1])


def _relative(log_value: Tensor) -> Tensor:
    """Values divided by their mean."""
    return torch.softmax(log_value, 1) * log_value.shape[1]
