r"""Population Monte Carlo: adapts a Gaussian mixture to a density that can be evaluated.

Each step matches every component to the moments of its share of the density p. With the ratio
:math:`r(u) = p(u) / q(u)` and expectations under component :math:`q_k` of the mixture q,

.. math::
    w_k' \propto w_k E_k[r], \qquad \mu_k' = E_k[r u] / E_k[r], \qquad
    S_k' = E_k[r (u - \mu_k') (u - \mu_k')^\top] / E_k[r].

With exact expectations this is an EM step, which never increases KL(p | q). Here the expectations
are averages over one fixed set of quasi-random points per component, standardised to mean zero and
unit covariance, so the result is deterministic and a component that already fits does not move.

References:
    | Adaptive importance sampling in general mixture classes (Cappe, Douc, Guillin, Marin and
    | Robert, 2008), arXiv:0710.4242
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Normal

from amortized.distributions.cholesky import cholesky_factor
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.sampling.start import FromMixture

_PER_LATENT = 64  # points; too few make the steps diverge in six dimensions
_LEAST = 0.2  # relative ESS below which a component's moments are too noisy to be updated


def adapt(
    mixture: GaussianMixture, log_density: Callable[[Tensor], Tensor], n_steps: int = 4
) -> GaussianMixture:
    """Moves the components of a mixture towards a density.

    Args:
        mixture: q, of batch shape ``(batch,)``; modes where q has almost no mass are not found.
        log_density: log p up to a constant for each dataset, ``(batch, n, dim) -> (batch, n)``;
            NaN counts as zero density.
        n_steps: number of steps.

    Returns:
        the adapted mixture, with as many components as ``mixture``.

    Example:
        >>> import torch
        >>> start = GaussianMixture.from_moments(torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> adapted = adapt(start, lambda u: -0.5 * ((u[..., 0] - 0.5) / 0.8).square(), 8)
        >>> adapted.mean.round(decimals=2), adapted.stddev.round(decimals=2)
        (tensor([[0.5000]]), tensor([[0.8000]]))
    """
    with torch.no_grad():
        for _ in range(n_steps):
            mixture = _step(mixture, log_density)
    return mixture


def _step(mixture: GaussianMixture, log_density: Callable[[Tensor], Tensor]) -> GaussianMixture:
    points = _points(mixture.dim).to(mixture.means)
    u = mixture.means.unsqueeze(2) + points @ mixture.scale_tril.mT  # (batch, k, points, dim)
    together = u.flatten(1, 2)
    log_ratio = log_density(together) - FromMixture(mixture).log_prob(together)
    log_ratio = log_ratio.nan_to_num(-torch.inf, -torch.inf, -torch.inf).unflatten(1, u.shape[1:3])
    mass = log_ratio.logsumexp(-1)
    weights = log_ratio.softmax(-1).nan_to_num()
    known = mass.isfinite() & (weights.square().sum(-1) * _LEAST * len(points) < 1)
    # In the component's own coordinates a component that fits has mean zero and unit covariance.
    mean = torch.where(known.unsqueeze(-1), weights @ points, 0.0)
    off = points - mean.unsqueeze(2)
    covariance = (off * weights.unsqueeze(-1)).mT @ off
    eye = torch.eye(mixture.dim).to(points)
    factor = cholesky_factor(torch.where(known[..., None, None], covariance, eye))
    log_weights = mixture.log_weights + mass
    lost = ~log_weights.isfinite().any(-1, keepdim=True)
    return GaussianMixture(
        torch.where(lost, mixture.log_weights, log_weights),
        mixture.means + (mixture.scale_tril @ mean.unsqueeze(-1)).squeeze(-1),
        mixture.scale_tril @ factor,
        validate_args=False,
    )


@lru_cache(maxsize=32)
def _points(dim: int) -> Float[Tensor, "points dim"]:
    """Symmetric points of a standard normal whose covariance is exactly the identity."""
    sobol = torch.quasirandom.SobolEngine(dim, scramble=True, seed=0)
    level = sobol.draw(_PER_LATENT * dim // 2, dtype=torch.float64)
    half = Normal(0.0, 1.0).icdf(level.clamp(1e-9, 1 - 1e-9))
    points = torch.cat((half, -half))
    factor = torch.linalg.cholesky(points.mT @ points / len(points))
    return torch.linalg.solve_triangular(factor, points.mT, upper=False).mT
