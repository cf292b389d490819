r"""Pareto-smoothed importance sampling: reliability and smoothing of importance weights.

The largest weights are replaced by the expected order statistics of a generalised Pareto
distribution fitted to them. Its shape :math:`\hat k` measures reliability: the weights have
:math:`1 / \hat k` finite moments, and estimates are reliable if :math:`\hat k < 0.7`. Weights that
hardly exceed their mean have no tail, and a fit to them would only fit noise.

References:
    Vehtari et al., Pareto smoothed importance sampling (2024), arXiv 1507.02646.
    Zhang and Stephens, A new and efficient estimation method for the generalized Pareto
    distribution (2009).
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_NO_TAIL = 0.4  # log of the largest weight over the mean below which there is no tail


class SmoothedWeights(NamedTuple):
    """Importance weights after Pareto smoothing, for each row of a batch.

    Attributes:
        log_weights: normalised so that the weights of a row add up to 1.
        k_hat: shape of the tail; -inf without a tail, +inf if no weight of a row is finite.
        ess: effective sample size, ``1 / sum(weights ** 2)``; 0 if no weight is finite.
        log_mean: log of the mean unnormalised weight, which estimates the log evidence.
    """

    log_weights: Float[Tensor, "*batch n"]
    k_hat: Float[Tensor, "*batch"]
    ess: Float[Tensor, "*batch"]
    log_mean: Float[Tensor, "*batch"]


def smooth_weights(log_weights: Float[Tensor, "*batch n"]) -> SmoothedWeights:
    """Smooths unnormalised log weights; NaN counts as a weight of zero.

    Example:
        >>> import torch
        >>> smooth_weights(torch.randn(2, 1000)).k_hat < 0.7
        tensor([True, True])
    """
    n = log_weights.shape[-1]
    log_weights = log_weights.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    top = log_weights.max(-1, keepdim=True).values
    alive = torch.isfinite(top)
    shifted = torch.where(alive, log_weights - top, 0.0)
    n_tail = math.ceil(min(0.2 * n, 3 * math.sqrt(n)))
    k_hat = torch.full_like(top, torch.inf)
    if n_tail >= 5:
        ordered, order = shifted.sort(-1)
        cutoff = ordered[..., -n_tail - 1 : -n_tail].clamp(
            min=math.log(torch.finfo(top.dtype).tiny)
        )
        excess = (ordered[..., -n_tail:].exp() - cutoff.exp()).clamp(min=0.0)
        k_hat, scale = fit_generalised_pareto(excess)
        position = (torch.arange(n_tail, dtype=top.dtype, device=top.device) + 0.5) / n_tail
        quantile = scale * torch.expm1(-k_hat * torch.log1p(-position)) / k_hat
        tail = (quantile + cutoff.exp()).log().clamp(max=0.0)
        mean = shifted.logsumexp(-1, keepdim=True) - math.log(n)
        k_hat = torch.where(mean > -_NO_TAIL, -torch.inf, k_hat)
        usable = torch.isfinite(k_hat) & torch.isfinite(tail).all(-1, keepdim=True)
        tail = torch.where(usable, tail, ordered[..., -n_tail:])
        ordered = torch.cat([ordered[..., :-n_tail], tail], -1)
        shifted = torch.empty_like(ordered).scatter(-1, order, ordered)
    log_sum = shifted.logsumexp(-1, keepdim=True)
    normalised = shifted - log_sum
    log_mean = torch.where(alive, log_sum + top - math.log(n), top)
    return SmoothedWeights(
        normalised,
        torch.where(alive, k_hat, torch.inf).squeeze(-1),
        torch.where(alive.squeeze(-1), normalised.exp().square().sum(-1).reciprocal(), 0.0),
        log_mean.squeeze(-1),
    )


def fit_generalised_pareto(
    excess: Float[Tensor, "*batch m"],
) -> tuple[Float[Tensor, "*batch 1"], Float[Tensor, "*batch 1"]]:
    """Shape and scale of a generalised Pareto distribution fitted to ascending positive values.

    The estimate is a posterior mean over a grid; the shape is shrunk towards 1/2 by the equivalent
    of ten observations (Vehtari et al., appendix G). Constant values give shape -inf: no tail.
    """
    m = excess.shape[-1]
    n_grid = 30 + int(math.sqrt(m))
    grid = torch.arange(1, n_grid + 1, dtype=excess.dtype, device=excess.device)
    largest, quartile = excess[..., -1:], excess[..., int(m / 4 + 0.5) - 1, None]
    largest = largest.clamp(min=torch.finfo(excess.dtype).tiny)
    quartile = quartile.clamp(min=1e-10 * largest)
    theta = (1 - (n_grid / (grid - 0.5)).sqrt()) / (3 * quartile) + 1 / largest
    shape = torch.log1p(-theta.unsqueeze(-1) * excess.unsqueeze(-2)).mean(-1)
    profile = m * ((-theta / shape).log() - shape - 1)
    weight = torch.softmax(profile.nan_to_num(nan=-torch.inf), -1)
    theta = (theta * weight).sum(-1, keepdim=True)
    shape = torch.log1p(-theta * excess).mean(-1, keepdim=True)
    scale = -shape / theta
    shape = (m * shape + 5) / (m + 10)
    flat = excess[..., -1:] <= 0
    return torch.where(flat, -torch.inf, shape), torch.where(flat, 0.0, scale)
