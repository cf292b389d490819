r"""Conjugate Bayesian linear regression, for which every answer is known in closed form.

With the design :math:`\Phi = [X, 1]`, weights :math:`w` (the intercept last) and noise variance v,

.. math:: w \mid v \sim N(0, s^2 c\, I), \qquad y \mid w, v \sim N(\Phi w, v I),

where either v is known and c = 1, or :math:`v \sim \mathrm{InvGamma}(a, b)` and c = v. Then with
:math:`\Lambda = \Phi^T \Phi / \rho + I / s^2`, :math:`\mu = \Lambda^{-1} \Phi^T y / \rho` and
:math:`q = y^T y / \rho - \mu^T \Lambda \mu`, where :math:`\rho` is v or 1,

* known: :math:`w \mid y \sim N(\mu, \Lambda^{-1})`;
* unknown: :math:`v \mid y \sim \mathrm{InvGamma}(a + n/2, b + q/2)`,
  :math:`w \mid v, y \sim N(\mu, v \Lambda^{-1})`, and the predictive is Student's t.

References:
    Gelman et al., Bayesian Data Analysis, 3rd edition (2013), chapter 14.
    Murphy, Machine Learning: A Probabilistic Perspective (2012), section 7.6.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from amortized.priors.program_prior import Inputs, ProgramPrior
from amortized.priors.task import TaskBatch
from amortized.program.observations.student_t import StudentT
from amortized.program.support import log_prob
from amortized.validation import number_between, whole_number


@dataclass(frozen=True)
class LinearRegressionPosterior:
    """The exact posterior of one or several linear regressions.

    Attributes:
        mean: mean of the weights, ``(*batch, k)``, with the intercept last if there is one.
        precision_tril: Cholesky factor of the weights' precision, ``(*batch, k, k)``, in units of
            the inverse noise variance if that is unknown.
        log_evidence: ``log p(y | x)``, ``(*batch,)``.
        variance: the known noise variance, or its posterior, an inverse gamma.
        intercept: whether the last weight is the intercept.
    """

    mean: Float[Tensor, "*batch k"]
    precision_tril: Float[Tensor, "*batch k k"]
    log_evidence: Float[Tensor, "*batch"]
    variance: float | dist.InverseGamma
    intercept: bool

    def sample(self, n: int) -> dict[str, Tensor]:
        """Independent draws of the latents, each ``(n, *batch, ...)``."""
        noise = torch.randn(n, *self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        # (L L^T)^-1 = L^-T L^-1, so L^-T times standard noise has the required covariance.
        step = torch.linalg.solve_triangular(
            self.precision_tril.mT, noise.unsqueeze(-1), upper=True
        ).squeeze(-1)
        if isinstance(self.variance, float):
            return self._named(self.mean + step)
        variance = self.variance.sample((n,))
        return self._named(self.mean + variance.sqrt().unsqueeze(-1) * step) | {
            "variance": variance
        }

    def log_prob(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Log density of latents of shape ``(..., *batch, *event)``."""
        weights = latents["weights"]
        if self.intercept:
            weights = torch.cat([weights, latents["intercept"].unsqueeze(-1)], -1)
        if isinstance(self.variance, float):
            factor, prior = self.precision_tril, self.mean.new_zeros(())
        else:
            variance = latents["variance"]
            factor = self.precision_tril / variance.sqrt()[..., None, None]
            prior = log_prob(self.variance, variance)  # -inf at 0, which rounding can produce
        # Uses the factor itself, because its square loses half of the digits.
        standard = (factor.mT @ (weights - self.mean).unsqueeze(-1)).squeeze(-1)
        log_det = factor.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        constant = 0.5 * standard.shape[-1] * math.log(2 * math.pi)
        return prior + log_det - constant - 0.5 * standard.square().sum(-1)

    def predictive(self, x: Float[Tensor, "*batch m features"]) -> torch.distributions.Distribution:
        """Posterior predictive of each row of ``x`` separately: Normal, or Student's t."""
        design = _design(x, self.intercept)
        mean = (design @ self.mean.unsqueeze(-1)).squeeze(-1)
        half = torch.linalg.solve_triangular(self.precision_tril, design.mT, upper=False)
        spread = half.square().sum(-2)  # phi^T Lambda^-1 phi
        if isinstance(self.variance, float):
            return dist.Normal(mean, (spread + self.variance).sqrt())
        alpha = self.variance.concentration.unsqueeze(-1)
        scale = (self.variance.rate.unsqueeze(-1) / alpha * (1 + spread)).sqrt()
        return StudentT(2 * alpha, mean, scale)

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        if not self.intercept:
            return {"weights": weights}
        return {"weights": weights[..., :-1], "intercept": weights[..., -1]}


class LinearRegressionPrior(ProgramPrior):
    """Linear regression with normal weights and a known or unknown noise variance.

    Args:
        n_features: number of inputs.
        weight_scale: s, prior standard deviation of each weight and of the intercept; in units of
            the noise standard deviation if that is unknown.
        variance: known noise variance; None makes it a latent with an inverse gamma prior.
        concentration: a of the inverse gamma.
        rate: b of the inverse gamma.
        intercept: whether there is an intercept.
        inputs: how inputs are drawn, if not standard normal (see `ProgramPrior`).

    Example:
        >>> prior = LinearRegressionPrior(2, variance=0.25)
        >>> batch = prior.sample(3, 20, 5, seed=0)
        >>> prior.posterior_predictive(batch).log_prob(batch.y_query).shape
        torch.Size([3, 5])
    """

    def __init__(
        self,
        n_features: int,
        *,
        weight_scale: float = 1.0,
        variance: float | None = None,
        concentration: float = 3.0,
        rate: float = 2.0,
        intercept: bool = True,
        inputs: Inputs | None = None,
    ) -> None:
        positive = {"weight_scale": weight_scale, "concentration": concentration, "rate": rate}
        if variance is not None:
            positive["variance"] = variance
        for name, value in positive.items():
            number_between(name, value, 0, math.inf)
        n_features = whole_number("n_features", n_features, 0)
        if n_features + intercept < 1:
            raise ValueError("Expected a feature or an intercept; got neither.")
        super().__init__(inputs=n_features if inputs is None else inputs)
        self.n_features = n_features
        self.weight_scale, self.variance = weight_scale, variance
        self.concentration, self.rate, self.intercept = concentration, rate, intercept

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one dataset."""
        one = x.new_ones(())
        if self.variance is None:
            variance = pyro.sample(
                "variance", dist.InverseGamma(self.concentration * one, self.rate * one)
            )
            scale = self.weight_scale * variance.sqrt()
        else:
            variance, scale = self.variance * one, self.weight_scale * one
        weights = pyro.sample(
            "weights", dist.Normal(x.new_zeros(self.n_features), scale).to_event(1)
        )
        mean = x @ weights
        if self.intercept:
            mean = mean + pyro.sample("intercept", dist.Normal(0.0 * one, scale))
        return pyro.sample("y", dist.Normal(mean, variance.sqrt()).to_event(1), obs=y)

    def posterior(
        self,
        x: Float[Tensor, "*batch n features"],
        y: Float[Tensor, "*batch n"],
        mask: Bool[Tensor, "*batch n"] | None = None,
    ) -> LinearRegressionPosterior:
        """Computes the exact posterior given one dataset or a batch of them.

        Args:
            x: inputs.
            y: targets.
            mask: False marks padding rows.
        """
        if x.shape[-1] != self.n_features or x.shape[:-1] != y.shape:
            raise ValueError(
                f"Expected x (..., n, {self.n_features}) and y (..., n); got {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        mask = torch.ones_like(y, dtype=torch.bool) if mask is None else mask
        # A row of zeros in both design and target carries no information.
        design = _design(x, self.intercept).where(mask.unsqueeze(-1), 0.0)
        y, n, k = y.where(mask, 0.0), mask.sum(-1).to(y.dtype), design.shape[-1]
        unit = 1.0 if self.variance is None else self.variance
        # Least squares with the prior as k additional rows, by QR. Normal equations would lose half
        # of the digits, which matters for inputs on very different scales, such as times in
        # seconds.
        eye = torch.eye(k, dtype=x.dtype, device=x.device).expand(*design.shape[:-2], k, k)
        rows = torch.cat([design / math.sqrt(unit), eye / self.weight_scale], -2)
        answers = torch.cat([y / math.sqrt(unit), y.new_zeros(*y.shape[:-1], k)], -1).unsqueeze(-1)
        q, r = torch.linalg.qr(rows)
        mean = torch.linalg.solve_triangular(r, q.mT @ answers, upper=True)
        quadratic = (answers - rows @ mean).square().sum((-1, -2))
        factor = (r * r.diagonal(dim1=-1, dim2=-2).sign().unsqueeze(-1)).mT
        # Half the log ratio of the determinants of the prior and posterior precisions.
        log_ratio = -k * math.log(self.weight_scale) - _half_log_det(factor)
        mean = mean.squeeze(-1)
        if self.variance is not None:
            evidence = log_ratio - 0.5 * (n * math.log(2 * math.pi * unit) + quadratic)
            return LinearRegressionPosterior(mean, factor, evidence, self.variance, self.intercept)
        posterior = dist.InverseGamma(
            self.concentration + n / 2, self.rate + quadratic.clamp(min=0.0) / 2
        )
        evidence = log_ratio - 0.5 * n * math.log(2 * math.pi)
        evidence = evidence + self.concentration * math.log(self.rate)
        evidence = evidence - posterior.concentration * posterior.rate.log()
        evidence = (
            evidence + torch.lgamma(posterior.concentration) - math.lgamma(self.concentration)
        )
        return LinearRegressionPosterior(mean, factor, evidence, posterior, self.intercept)

    def posterior_predictive(self, batch: TaskBatch) -> torch.distributions.Distribution:
        """The exact predictive of each query row given its context, ``(batch, query)``."""
        posterior = self.posterior(batch.x_context, batch.y_context, batch.context_mask)
        return posterior.predictive(batch.x_query)


def _design(x: Tensor, intercept: bool) -> Tensor:
    return torch.cat([x, x.new_ones(*x.shape[:-1], 1)], -1) if intercept else x


def _half_log_det(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-1, dim2=-2).log().sum(-1)
