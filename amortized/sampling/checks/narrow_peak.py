r"""Refuses a posterior whose peak is too narrow for a search that starts from the prior.

A likelihood with heavy tails gives no hint of its width: far from its peak it falls as a power of
the distance, whatever the width. Ascents in units of the prior's spread then stop on the slope, and
a sampler from the prior takes minutes to get nearer. The search here is free of scale: around the
best point so far it tries steps of all sizes at once, from the prior's spread down to
:math:`10^{-18}` of it. It has found what the modes missed if the peak, of widths :math:`w_j`
relative to the prior's, has more mass than the normals at the modes, of widths :math:`v_j`:

.. math:: \log p(u^*) + \sum_j \log w_j > \log p(\hat u) + \sum_j \log v_j + c.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.program.density import ProgramDensity

_SIZES = 10.0 ** -torch.arange(0, 18.5, 0.5, dtype=torch.float64)
_N_EACH, _N_ROUNDS = 8, 24
_MORE = 5.0  # c: nats by which the mass of the peak exceeds that at the modes
_NARROW = 1e-9  # a sampler reaches wider peaks in reasonable time
_FALL = 3.0  # nats by which the density falls within the width of a peak


@torch.no_grad()
def refuse_narrow_peak(
    density: ProgramDensity,
    u: Float[Tensor, "batch k dim"],
    score: Float[Tensor, "batch k"],
    curvature: Float[Tensor, "batch k dim"],
    scale: Float[Tensor, "batch 1 dim"],
    unfinished: Bool[Tensor, "batch k"],
) -> None:
    """Raises an error if a peak that the modes of a dataset missed has nearly all the mass.

    Args:
        density: log density of the posterior.
        u: modes found.
        score: their log density.
        curvature: eigenvalues of minus the Hessian there, in units of ``scale``.
        scale: spread of the prior.
        unfinished: where the search stopped on a slope. Datasets that reached their best mode are
            not searched again.

    Raises:
        ValueError: with the width of the peak.
    """
    best = score.argmax(-1, keepdim=True)
    rows = unfinished.gather(1, best)[:, 0].nonzero()[:, 0]
    if not len(rows):
        return
    some, before, spread = density.take(rows), score[rows].amax(-1), scale[rows]
    at = u[rows].gather(1, best[rows].unsqueeze(-1).expand(-1, -1, u.shape[-1]))
    at, height = _climbed(some, at, before, spread)
    widths = _widths(some, at, height, spread)
    narrowest = widths.amin((1, 2))
    here = curvature[rows, best[rows, 0]].log().sum(-1) / -2
    more = height + widths.log().sum((1, 2)) - before - here
    missed = (more > _MORE) & (narrowest < _NARROW)
    if missed.any():
        i = int(missed.nonzero()[0])
        which = "" if density.n_datasets == 1 else f" of dataset {int(rows[i])}"
        raise ValueError(
            f"Expected a posterior that a search from the prior finds; the peak{which} is about "
            f"{narrowest[i].item():.0e} times as wide as the prior. Rescale the inputs, or the "
            "latents, so that both are of ordinary size."
        )


def _climbed(
    density: ProgramDensity, at: Tensor, height: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor]:
    """The highest point found, and its log density."""
    generator, (batch, _, dim) = torch.Generator().manual_seed(0), at.shape
    for _ in range(_N_ROUNDS):
        shape = (batch, len(_SIZES), _N_EACH, dim)
        noise = torch.randn(shape, generator=generator, dtype=at.dtype)
        points = at + scale * (_SIZES[:, None, None] * noise).flatten(1, 2)
        new, index = density.log_density(points).nan_to_num(-torch.inf).max(-1)
        chosen = points[torch.arange(batch), index].unsqueeze(1)
        at = torch.where((new > height)[:, None, None], chosen, at)
        height = torch.maximum(new, height)
    return at, height


def _widths(density: ProgramDensity, at: Tensor, height: Tensor, scale: Tensor) -> Tensor:
    """The largest step in each dimension that stays near the top, in units of the scale."""
    steps = _SIZES[:, None, None] * torch.diag_embed(scale)  # (batch, sizes, dim, dim)
    both = torch.cat([at.unsqueeze(2) + steps, at.unsqueeze(2) - steps], 1)
    heights = density.log_density(both.flatten(1, 2)).nan_to_num(-torch.inf)
    lower = torch.minimum(*heights.unflatten(1, both.shape[1:3]).chunk(2, 1))
    near = lower > height[:, None, None] - _FALL
    return torch.where(near, _SIZES[:, None], _SIZES[-1]).amax(1, keepdim=True)
