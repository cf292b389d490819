"""Where a sampler may start: a normalised density over u for each dataset of a batch."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.gaussian_mixture import GaussianMixture


@runtime_checkable
class Start(Protocol):
    """A normalised density over u for each dataset, to start a sampler from."""

    def sample(self, n: int) -> Tensor:
        """Draws ``(batch, n, dim)``."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density ``(batch, n)`` of ``(batch, n, dim)``."""

    def take(self, index: Tensor) -> "Start":
        """Those of the chosen datasets."""


def as_start(start: Start | Distribution) -> Start:
    """A distribution with batch shape ``(batch,)`` and event shape ``(dim,)``, as a start."""
    if isinstance(start, GaussianMixture):
        return FromMixture(start)
    return FromDistribution(start) if isinstance(start, Distribution) else start


@dataclass(frozen=True)
class FromMixture:
    """A Gaussian mixture for each dataset, evaluated at many particles by one matrix product.

    Attributes:
        mixture: of batch shape ``(batch,)``.
    """

    mixture: GaussianMixture

    def sample(self, n: int) -> Float[Tensor, "batch n dim"]:
        """Draws with each component's share as near to its weight as n allows."""
        mixture = self.mixture
        cumulated = mixture.log_weights.exp().cumsum(-1)
        position = (torch.arange(n, dtype=cumulated.dtype) + torch.rand(1).item()) / n
        chosen = torch.searchsorted(cumulated, position.expand(len(cumulated), n).contiguous())
        chosen = chosen.clamp(max=mixture.n_components - 1)
        rows = torch.arange(len(cumulated)).unsqueeze(-1)
        noise = torch.randn(len(cumulated), n, mixture.dim, 1, dtype=mixture.means.dtype)
        return mixture.means[rows, chosen] + (mixture.scale_tril[rows, chosen] @ noise).squeeze(-1)

    def log_prob(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """Log density."""
        inverse, constant = self._evaluation
        centred = u.unsqueeze(1) - self.mixture.means.unsqueeze(2)  # (batch, k, n, dim)
        squared = (centred @ inverse.mT).square().sum(-1)
        return (constant.unsqueeze(-1) - 0.5 * squared).logsumexp(1)

    @cached_property
    def _evaluation(self) -> tuple[Tensor, Tensor]:
        """Inverses of the Cholesky factors, and the log density at each mean."""
        factor = self.mixture.scale_tril
        eye = torch.eye(self.mixture.dim, dtype=factor.dtype)
        inverse = torch.linalg.solve_triangular(factor, eye.expand_as(factor), upper=False)
        log_det = factor.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        constant = self.mixture.log_weights - log_det
        return inverse, constant - 0.5 * self.mixture.dim * math.log(2 * math.pi)

    def take(self, index: Tensor) -> "FromMixture":
        """Those of the chosen datasets."""
        return FromMixture(self.mixture[index])


def normal_of_draws(u: Float[Tensor, "batch n dim"], inflation: float = 1.2) -> GaussianMixture:
    """One normal with the moments of draws, a little wider, to start from an earlier answer."""
    dim = u.shape[-1]
    centred = u - u.mean(1, keepdim=True)
    covariance = centred.mT @ centred / u.shape[1] + 1e-9 * torch.eye(dim, dtype=u.dtype)
    return GaussianMixture.from_moments(u.mean(1), inflation**2 * covariance)


@dataclass(frozen=True)
class FromDistribution:
    """Any torch distribution over u with batch shape ``(batch,)``, as a start.

    Attributes:
        distribution: of event shape ``(dim,)``.
        index: the datasets that are wanted; None means all.
    """

    distribution: Distribution
    index: Tensor | None = None

    def sample(self, n: int) -> Tensor:
        """Draws ``(batch, n, dim)``."""
        draws = self.distribution.sample(torch.Size([n])).transpose(0, 1).to(torch.float64)
        return draws if self.index is None else draws[self.index]

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density ``(batch, n)``."""
        index = self.index if self.index is not None else torch.arange(len(u))
        full = u.new_zeros(self.distribution.batch_shape[0], *u.shape[1:]).index_copy(0, index, u)
        return self.distribution.log_prob(full.transpose(0, 1)).T[index]

    def take(self, index: Tensor) -> "FromDistribution":
        """Those of the chosen datasets."""
        chosen = index if self.index is None else self.index[index]
        return FromDistribution(self.distribution, chosen)
