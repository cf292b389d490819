r"""A Gaussian process with unknown lengthscale only: the hyperprior experiment.

.. math:: \ell \sim IG(a, b), \quad f \sim GP(0, k_\ell), \quad y_i = f(x_i) + \epsilon_i, \quad
    \epsilon_i \sim N(0, 10^{-3}), \quad x_i \sim U(0, 10)

with an RBF kernel of unit variance. The function is integrated out, so the posterior is that of
:math:`\log \ell`. The joint posterior of it and a target :math:`y^*` is its product with the exact
conditional :math:`p(y^* \mid x^*, \ell, D)`, so the posterior predictive averages over draws.

References:
    | Distribution Transformers: Fast Approximate Bayesian Inference With On-The-Fly Prior
    | Adaptation (Whittle et al., 2025), arXiv:2502.02463: there a and b are U(1, 2)
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from amortized.priors.regression.gaussian_process import (
    GaussianProcessPrior,
    uniform_inputs,
)
from amortized.program.likelihood_summary import (
    Inputs,
    LikelihoodSummary,
    Mask,
    Targets,
    moment_summary,
)
from amortized.validation import number_between

_NOISE_VARIANCE = 1e-3
# Wide normal over log lengthscale of the summary: 0.05 to 50 within two standard deviations.
_CENTRE, _SPREAD = 0.4, 1.75


class LengthscalePrior(GaussianProcessPrior):
    """Gaussian-process regression with the hyperprior ``lengthscale ~ IG(concentration, rate)``.

    Args:
        concentration: a.
        rate: b.

    Example:
        >>> batch = LengthscalePrior().sample(3, 5, 1, seed=0)
        >>> batch.x_context.shape, batch.latents["lengthscale"].shape
        (torch.Size([3, 5, 1]), torch.Size([3, 1]))
    """

    def __init__(self, concentration: float = 1.5, rate: float = 1.5) -> None:
        number_between("concentration", concentration, 0, math.inf)
        number_between("rate", rate, 0, math.inf)
        super().__init__(
            "rbf",
            lengthscale=dist.InverseGamma(concentration, rate),
            outputscale=1.0,
            noise=_NOISE_VARIANCE**0.5,
            inputs=uniform_inputs(0.0, 10.0),
        )

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        """Mean and variance of the likelihood on a grid, with the function integrated out."""
        x, y = x.float(), y.float()
        both = (mask.unsqueeze(-1) & mask.unsqueeze(-2)).unsqueeze(1)
        squared = (x - x.mT).square().unsqueeze(1)
        answers = y.where(mask, 0.0)[:, None, :, None]
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        noise = (_NOISE_VARIANCE * eye).where(both, eye)

        def log_likelihood(u: Tensor) -> Tensor:
            # Unlike `covariance`, this computes the distances only once.
            correlation = (-0.5 * squared * (-2 * u).exp()[..., None, None]).exp().where(both, 0.0)
            scale, _ = torch.linalg.cholesky_ex(correlation + noise)
            each = answers.expand(*u.shape, -1, 1)
            white = torch.linalg.solve_triangular(scale, each, upper=False)
            log_determinant = scale.diagonal(dim1=-1, dim2=-2).log().sum(-1)
            return -log_determinant - 0.5 * white.square().sum((-1, -2))

        return moment_summary(log_likelihood, mask.any(-1), _CENTRE, _SPREAD)
