"""Whether a posterior under an improper prior is itself proper.

A density that is proper falls faster than :math:`1 / t` on its way out, along almost every ray
:math:`c + t d`. So its logarithm is compared at the farthest draws and at two points beyond each.
A posterior whose width grows with its scale may fall along each ray and be improper: no warning is
no proof.
"""

import warnings
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.program.density import ProgramDensity

_FAR = 0.1  # share of the draws that are called far
_STEPS = 1.0, 2.0, 4.0  # t; at a fall of 1 / t the logs differ by 0.69
_LEAST_FALL = 0.3
_DEPTH = 10.0  # nats below the highest density of a draw


def warn_of_unbounded(density: ProgramDensity, u: Float[Tensor, "batch n dim"]) -> None:
    """Warns if the density does not fall beyond the draws.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(p, 1.0).expand([len(x)]).to_event(1), obs=y)
        >>> density = ProgramDensity(coin, torch.zeros(1, 1, 0), torch.ones(1, 1))
        >>> warn_of_unbounded(density, torch.randn(1, 50, 1))
    """
    centre = u.median(1, keepdim=True).values
    away = u - centre
    size = (away / away.std(1, keepdim=True).clamp(min=1e-300)).norm(dim=-1)
    far = size.topk(max(1, round(_FAR * u.shape[1])), 1).indices
    away = away.gather(1, far.unsqueeze(-1).expand(-1, -1, u.shape[-1]))
    with torch.no_grad():
        highest = density.log_density(u).nan_to_num(-torch.inf).amax(-1, keepdim=True)
        heights = [density.log_density(centre + t * away) for t in _STEPS]
    # Far below the peak a density may rise, as that of a mean does with its standard deviation.
    flat = heights[0] > highest - _DEPTH
    for nearer, farther in pairwise(heights):
        flat &= nearer - farther < _LEAST_FALL
    flat = flat.any(-1)
    if flat.any():
        one = "" if density.n_datasets == 1 else f" of dataset {int(flat.nonzero()[0])}"
        warnings.warn(
            f"The posterior{one} seems to be improper: its density does not fall beyond the "
            "farthest draws, which then only show how far the sampler went. Give proper priors to "
            "the latents that the data do not determine.",
            UserWarning,
            stacklevel=3,
        )
