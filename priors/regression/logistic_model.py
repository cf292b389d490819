r"""Logistic regression: coefficients as latents, binary targets.

The likelihood summary is the normal approximation at a ridge estimate: with
:math:`p = \mathrm{sigmoid}(\Phi w)` and :math:`W = \mathrm{diag}(p(1-p))`, the Hessian
:math:`\Phi^\top W \Phi` and the score give :math:`z = H w + e`, as in one Newton step.
"""

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

_RIDGE, _N_NEWTON = 0.25, 6  # the precision of N(0, 2^2) keeps separable estimates finite


class LogisticModelPrior(GeneralisedLinearPrior):
    """``w_j ~ N(0, scale)`` and ``y ~ Bernoulli(sigmoid(x w))``; the intercept, if any, is last.

    Args:
        n_features: number of inputs.
        intercept: whether there is an intercept.
        vary_features: whether each task uses only the first few of the features.
        scale: standard deviation of the coefficients.

    Example:
        >>> LogisticModelPrior(2).sample(3, 10, 0, seed=0).latents["coefficients"].shape
        torch.Size([3, 2])
    """

    def __init__(
        self,
        n_features: int,
        *,
        intercept: bool = False,
        vary_features: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__(n_features, intercept=intercept, vary_features=vary_features)
        self.scale = scale

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one dataset."""
        design = self.design(x)
        zeros = x.new_zeros(design.shape[-1])
        coefficients = pyro.sample("coefficients", dist.Normal(zeros, self.scale).to_event(1))
        return pyro.sample("y", dist.Bernoulli(logits=design @ coefficients).to_event(1), obs=y)

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        """The normal approximation of the likelihood at the ridge estimate."""
        design = self.design(x).double().where(mask.unsqueeze(-1), 0.0)
        answers = y.double().where(mask, 0.5)
        eye = torch.eye(design.shape[-1], dtype=design.dtype, device=design.device)
        w = design.new_zeros(len(x), design.shape[-1])
        for _ in range(_N_NEWTON):
            hessian, score = self._curvature(design, answers, w)
            step = torch.linalg.solve(hessian + _RIDGE * eye, score - _RIDGE * w)
            w = w + step.clamp(-2.0, 2.0)
        hessian, score = self._curvature(design, answers, w)
        summary = summary_of_quadratic(w, score, hessian)
        return LikelihoodSummary(*(t.to(y.dtype) for t in summary))

    def _curvature(self, design: Tensor, answers: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Hessian of the negative log-likelihood, and the score."""
        p = (design @ w.unsqueeze(-1)).squeeze(-1).sigmoid()
        hessian = design.mT @ ((p * (1 - p)).unsqueeze(-1) * design)
        return hessian, (design.mT @ (answers - p).unsqueeze(-1)).squeeze(-1)
