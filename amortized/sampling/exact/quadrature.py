r"""Posteriors of one or two latents by quadrature on an adaptive grid.

The density is summed on a grid around an initial guess; the grid is then recentred and rescaled to
eight posterior standard deviations on each side of the posterior mean, and summed again. For smooth
densities the error of the trapezoidal rule on such a grid is below rounding error.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

_N_REFINEMENTS = 3  # how often the grid is recentred and rescaled
LogDensity = Callable[[Tensor], Tensor]


class GridPosterior(NamedTuple):
    """Evidence and moments of each dataset.

    Attributes:
        log_evidence: log of the integral of the density, ``(batch,)``.
        mean: mean of the latents, ``(batch, dim)``.
        covariance: covariance of the latents, ``(batch, dim, dim)``.
    """

    log_evidence: Float[Tensor, " batch"]
    mean: Float[Tensor, "batch dim"]
    covariance: Float[Tensor, "batch dim dim"]


def grid_posterior(
    log_density: LogDensity,
    centre: Float[Tensor, "batch dim"],
    spread: Float[Tensor, "batch dim"],
    *,
    n_points: int = 200,
) -> GridPosterior:
    """Integrates the unnormalised density of each dataset over one or two latents.

    Args:
        log_density: function of points ``(batch, points, dim)``, returning ``(batch, points)``.
        centre: initial guess of the posterior means, such as the prior mean.
        spread: initial guess of the posterior standard deviations, such as those of the prior.
        n_points: grid points along each latent.

    Raises:
        ValueError: if there are more than two latents.

    Example:
        >>> import torch
        >>> normal = lambda u: -0.5 * u.square().sum(-1)
        >>> answer = grid_posterior(normal, torch.full((1, 1), 3.0), torch.full((1, 1), 5.0))
        >>> round(answer.log_evidence.item(), 6)  # log(2 pi) / 2
        0.918939
    """
    dim = centre.shape[-1]
    if dim > 2:
        raise ValueError(f"Expected one or two latents; got {dim}. Use method='smc' or 'nuts'.")
    centre, spread = centre.double(), spread.double()
    line = torch.linspace(-8.0, 8.0, n_points, dtype=torch.float64, device=centre.device)
    unit = torch.cartesian_prod(*[line] * dim).reshape(-1, dim)
    step = line[1] - line[0]
    for _ in range(_N_REFINEMENTS + 1):
        u = centre.unsqueeze(1) + spread.unsqueeze(1) * unit
        log_values = log_density(u).double().nan_to_num(-torch.inf, -torch.inf, -torch.inf)
        log_cell = spread.log().sum(-1) + dim * step.log()
        total = log_values.logsumexp(-1)
        weights = (log_values - total.unsqueeze(-1)).exp()
        mean = (weights.unsqueeze(-1) * u).sum(1)
        centred = u - mean.unsqueeze(1)
        covariance = torch.einsum("bp,bpi,bpj->bij", weights, centred, centred)
        answer = GridPosterior(total + log_cell, mean, covariance)
        # A posterior between two points has no spread on the grid: the neighbouring points must
        # remain inside the narrowed grid.
        centre = mean
        spread = torch.maximum(covariance.diagonal(dim1=-1, dim2=-2).sqrt(), spread * step / 2)
    return answer
