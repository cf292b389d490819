"""Systematic resampling: replaces weighted particles by equally weighted ones.

References:
    Monte Carlo filter and smoother for non-Gaussian nonlinear state space models (Kitagawa, 1996).
    On resampling algorithms for particle filters (Douc, Cappe and Moulines, 2005).
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["systematic_resample"]


def systematic_resample(
    weights: Float[Tensor, "batch particles"], uniforms: Float[Tensor, "batch 1"]
) -> Int[Tensor, "batch particles"]:
    """Draws ancestors by systematic resampling: N evenly spaced positions with one random shift.

    A particle of normalised weight w gets floor(N w) or ceil(N w) descendants, with mean N w.

    Args:
        weights: non-negative, with any positive sum.
        uniforms: float64 in (0, 1]; at 0 a particle of weight zero could be chosen.

    Example:
        >>> weights = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
        >>> systematic_resample(weights, torch.tensor([[0.5]], dtype=torch.float64))
        tensor([[2, 2, 2, 3]])
    """
    batch, n = weights.shape
    # In float32 the cumulative sum over many weights would lose whole particles.
    cumulated = weights.cumsum(-1, dtype=torch.float64)
    # Counting the positions j + u below N w_1 + ... + N w_i needs no search: because they are
    # evenly spaced it is one rounding operation, much faster than searchsorted.
    below = (cumulated * (n / cumulated[:, -1:]) - uniforms).floor_().add_(1).clamp_(0, n)
    below[:, -1] = n
    descendants = below.diff(dim=-1, prepend=below.new_zeros(batch, 1)).long()
    ancestors = torch.arange(n, device=weights.device).repeat(batch)
    return ancestors.repeat_interleave(descendants.flatten(), output_size=batch * n).view(batch, n)
