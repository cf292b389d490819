r"""The linear model with a coefficient prior that does not scale with the noise.

:math:`y = \Phi w + \sigma e`. Unlike in the conjugate `LinearRegressionPrior`, any joint prior over
:math:`(w, \log\sigma)` may replace its own at run time. Without features it describes the mean and
standard deviation of a normal sample.

Given :math:`\log\sigma` everything is normal: exact answers need only one-dimensional quadrature.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.regression.generalised_linear import GeneralisedLinearPrior
from amortized.program.likelihood_summary import (
    Inputs,
    LikelihoodSummary,
    Mask,
    Targets,
    summary_of_quadratic,
)


class LinearModelPrior(GeneralisedLinearPrior):
    """``w_j ~ N(0, 1)``, ``noise ~ LogNormal(0, 1)`` and ``y ~ N(x w, noise^2)``.

    The latents are "coefficients", with the intercept last, and "noise"; u consists of the
    coefficients and the logarithm of the noise.

    Args:
        n_features: number of inputs.
        intercept: whether there is an intercept.
        vary_features: whether each task uses only the first few features, their number uniform,
            with zeros for the others, so that one network also serves fewer features.

    Example:
        >>> prior = LinearModelPrior(2)
        >>> prior.sample(3, 10, 0, seed=0).latents["coefficients"].shape
        torch.Size([3, 3])
    """

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one dataset."""
        design = self.design(x)
        zeros = x.new_zeros(design.shape[-1])
        coefficients = pyro.sample("coefficients", dist.Normal(zeros, 1.0).to_event(1))
        noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 1.0))
        return pyro.sample("y", dist.Normal(design @ coefficients, noise).to_event(1), obs=y)

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        r"""Least squares: :math:`G^{1/2} \hat w / s`, and the log residual standard deviation.

        With :math:`\nu = n - \mathrm{rank}` degrees of freedom, :math:`\log\sigma` is
        :math:`\tfrac12 (\log RSS - \psi(\nu/2) - \log 2)` up to an error of variance
        :math:`\tfrac14 \psi'(\nu/2)`. Without degrees of freedom the standard deviation of y, an
        overestimate, weights the coefficients; s is at least :math:`e^{-\nu/2}` times the
        program's own median noise.
        """
        design = self.design(x).double().where(mask.unsqueeze(-1), 0.0)
        answers = y.double().where(mask, 0.0)
        gram = design.mT @ design
        moment = (design.mT @ answers.unsqueeze(-1)).squeeze(-1)
        least_squares = summary_of_quadratic(torch.zeros_like(moment), moment, gram)
        explained = least_squares.value.square().sum(-1)
        rank = torch.linalg.matrix_rank(gram, hermitian=True, rtol=1e-9)
        total, n = answers.square().sum(-1), mask.sum(-1)
        rss = (total - explained).clamp_min(0.0)
        dof = (n - rank).clamp_min(0).double()
        half = dof.clamp_min(1) / 2
        log_noise = 0.5 * ((rss + 1e-12 * total + 1e-30).log() - half.digamma() - math.log(2))
        weight = torch.where(dof > 0, 2 / torch.polygamma(1, half).sqrt(), 0.0)
        spread = (total / n.clamp_min(1)).sqrt()
        # With few degrees of freedom the residuals may be small by chance, and an estimate that
        # relies on them could be wrong by thousands of standard errors.
        least = (-dof / 2).exp()
        scale = torch.where(dof > 0, log_noise.exp(), spread).hypot(least)
        k = gram.shape[-1]
        matrix = design.new_zeros(len(x), k + 1, k + 1)
        matrix[:, :k, :k] = least_squares.matrix / scale[:, None, None]
        matrix[:, k, k] = weight
        value = torch.cat(
            [least_squares.value / scale[:, None], (weight * log_noise).unsqueeze(-1)], -1
        )
        return LikelihoodSummary(value.to(y.dtype), matrix.to(y.dtype))
