r"""Factor stochastic volatility: the returns of many assets share factors of changing variance.

    h_0 at rest,    h_t = alpha + delta h_{t-1} + sigma eta_t,    eta_t ~ N(0, I)
    r_t ~ N(mu, B diag(exp h_t) B' + Omega)

with one log variance per factor; h_0 has the stationary distribution. The cost per particle does
not grow with the number of assets: with :math:`\Omega = L L'`, :math:`A = L^{-1} B` and
:math:`z = L^{-1} (r - \mu)` the density needs :math:`A' z` once per step, and for each particle a
square matrix with as many rows as there are factors,

.. math:: M = I + D A' A D, \quad D = \mathrm{diag}(e^{h / 2}), \quad
    -2 \log p = z'z - |M^{-1/2} D A' z|^2 + \log |M| + \log |\Omega| + n \log 2 \pi.

References:
    Analysis of high dimensional multivariate stochastic volatility models (Chib, Nardari and
    Shephard, 2006).
    Distribution Transformers: fast approximate Bayesian inference with on-the-fly prior
    adaptation (Whittle et al., 2025), which uses this model for filtering.
"""

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.state_space.covariances import is_covariance
from amortized.priors.state_space.state_space_model import StateSpaceModel


@dataclass(frozen=True, eq=False)
class FactorVolatility(StateSpaceModel):
    """Factor stochastic volatility, one model for all series, in the dtype of the parameters.

    Attributes:
        alpha: intercept of the log variances, ``(factors,)``.
        delta: autocorrelations in (-1, 1), ``(factors,)``.
        sigma: positive standard deviations of the innovations, ``(factors,)``.
        loadings: ``B``, ``(assets, factors)``.
        noise_cov: ``Omega``, idiosyncratic covariance, ``(assets, assets)``.
        mu: mean returns, ``(assets,)``.

    Raises:
        ValueError: if the shapes are inconsistent or a parameter is out of range.

    Example:
        >>> model = FactorVolatility(
        ...     alpha=torch.tensor([0.0, -0.1]), delta=torch.tensor([0.95, 0.9]),
        ...     sigma=torch.tensor([0.2, 0.3]), loadings=torch.ones(5, 2).tril(),
        ...     noise_cov=0.1 * torch.eye(5), mu=torch.zeros(5))
        >>> log_variances, returns = model.simulate(n_series=3, n_steps=100, seed=0)
        >>> tuple(log_variances.shape), tuple(returns.shape)
        ((3, 100, 2), (3, 100, 5))
    """

    alpha: Float[Tensor, " factors"]
    delta: Float[Tensor, " factors"]
    sigma: Float[Tensor, " factors"]
    loadings: Float[Tensor, "assets factors"]
    noise_cov: Float[Tensor, "assets assets"]
    mu: Float[Tensor, " assets"]

    def __post_init__(self) -> None:
        if self.loadings.ndim != 2:
            raise ValueError(
                f"Expected loadings (assets, factors); got {tuple(self.loadings.shape)}."
            )
        assets, factors = self.loadings.shape
        shapes = {"loadings": (assets, factors), "noise_cov": (assets, assets), "mu": (assets,)}
        for field in fields(self):
            shape = shapes.get(field.name, (factors,))
            if getattr(self, field.name).shape != shape:
                raise ValueError(
                    f"Expected {field.name} of shape {shape}, as loadings are "
                    f"{(assets, factors)}; got {tuple(getattr(self, field.name).shape)}."
                )
        if not bool((self.delta.abs() < 1).all()):
            raise ValueError(f"Expected delta between -1 and 1; got {self.delta}.")
        if not bool((self.sigma > 0).all()):
            raise ValueError(f"Expected sigma above 0; got {self.sigma}.")
        definite = torch.linalg.cholesky_ex(self.noise_cov).info == 0
        if not bool(definite & is_covariance(self.noise_cov)):
            raise ValueError("Expected noise_cov to be symmetric and positive definite.")

    def sample_initial(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        scale = self.sigma / (1 - self.delta**2).sqrt()
        return self.alpha / (1 - self.delta) + scale * self._white(self.alpha, shape, generator)

    def sample_transition(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        white = self._white(self.alpha, state.shape[:2], generator)
        return torch.addcmul(self.alpha, self.delta, state).addcmul_(self.sigma, white)

    def sample_observation(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        factors = (0.5 * state).exp() * self._white(self.alpha, state.shape[:2], generator)
        own = self._white(self.mu, state.shape[:2], generator)
        root = torch.linalg.cholesky(self.noise_cov)
        return self.mu + factors @ self.loadings.mT + own @ root.mT

    def log_observation(self, y: Tensor, state: Tensor, t: int) -> Tensor:
        white, loadings, log_det, n_seen = self._whitened(y)
        root = (0.5 * state).exp()
        gram = loadings.mT @ loadings  # (batch, 1, factors, factors)
        matrix = root.unsqueeze(-1) * gram * root.unsqueeze(-2)
        matrix = matrix + torch.eye(state.shape[-1], dtype=root.dtype, device=root.device)
        factor, info = torch.linalg.cholesky_ex(matrix)
        pull = root * (loadings.mT @ white.unsqueeze(-1)).squeeze(-1)
        explained = torch.linalg.solve_triangular(factor, pull.unsqueeze(-1), upper=False)
        quadratic = white.square().sum(-1) - explained.square().sum((-1, -2))
        log_det = log_det + 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_prob = -0.5 * (quadratic + log_det + n_seen * math.log(2 * math.pi))
        return torch.where(info == 0, log_prob, -torch.inf)  # the variance overflowed

    def _whitened(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The quantities in the density of an observation that do not depend on the state.

        Returns:
            z, ``(batch, _, assets)``; A, ``(batch, _, assets, factors)``; log |Omega|; and the
            number of observed assets, both ``(batch, _)``.
        """
        # A missing return has residual 0, no loadings and an independent unit variance.
        seen = ~y.isnan()
        residual = torch.where(seen, y - self.mu, 0.0)
        both = seen.unsqueeze(-1) & seen.unsqueeze(-2)
        unit = torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)
        factor = torch.linalg.cholesky(torch.where(both, self.noise_cov, unit))
        columns = torch.where(seen.unsqueeze(-1), self.loadings, 0.0)
        columns = torch.cat((residual.unsqueeze(-1), columns), -1)
        white = torch.linalg.solve_triangular(factor, columns, upper=False)
        log_det = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return white[..., 0], white[..., 1:], log_det, seen.to(y.dtype).sum(-1)

    def _white(self, like: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Standard normal draws, one for each element of a parameter."""
        dtype, device = like.dtype, like.device
        return torch.randn(*shape, len(like), generator=generator, dtype=dtype, device=device)
