"""Mixtures of normals, one for each dataset of a batch: where samplers may start."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution


@runtime_checkable
class Start(Protocol):
    """A normalised density over u for each dataset, to start a sampler from."""

    def sample(self, n: int) -> Tensor:
        """Draws ``(batch, n, dim)``."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density ``(batch, n)`` of ``(batch, n, dim)``."""

    def take(self, index: Tensor) -> "Start":
        """Those of the chosen datasets."""


@dataclass(frozen=True)
class NormalMixture:
    """A mixture of k normals for each dataset.

    Attributes:
        log_weights: normalised, ``(batch, k)``.
        means: ``(batch, k, dim)``.
        factors: Cholesky factors of the covariances, ``(batch, k, dim, dim)``.
    """

    log_weights: Float[Tensor, "batch k"]
    means: Float[Tensor, "batch k dim"]
    factors: Float[Tensor, "batch k dim dim"]

    def sample(self, n: int) -> Float[Tensor, "batch n dim"]:
        """Draws with each component's share as near to its weight as n allows."""
        cumulated = self.log_weights.exp().cumsum(-1)
        position = (torch.arange(n, dtype=cumulated.dtype) + torch.rand(1).item()) / n
        chosen = torch.searchsorted(cumulated, position.expand(len(cumulated), n).contiguous())
        chosen = chosen.clamp(max=cumulated.shape[-1] - 1)
        rows = torch.arange(len(cumulated)).unsqueeze(-1)
        noise = torch.randn(len(cumulated), n, self.means.shape[-1], 1, dtype=self.means.dtype)
        return self.means[rows, chosen] + (self.factors[rows, chosen] @ noise).squeeze(-1)

    def log_prob(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """Log density."""
        inverse = torch.linalg.solve_triangular(
            self.factors, torch.eye(u.shape[-1], dtype=u.dtype).expand_as(self.factors), upper=False
        )
        centred = u.unsqueeze(1) - self.means.unsqueeze(2)  # (batch, k, n, dim)
        squared = (centred @ inverse.mT).square().sum(-1)
        log_det = self.factors.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        constant = (
            self.log_weights - log_det - 0.5 * u.shape[-1] * torch.log(u.new_tensor(2 * torch.pi))
        )
        return (constant.unsqueeze(-1) - 0.5 * squared).logsumexp(1)

    def take(self, index: Tensor) -> "NormalMixture":
        """Those of the chosen datasets."""
        return NormalMixture(self.log_weights[index], self.means[index], self.factors[index])


def normal_of_draws(u: Float[Tensor, "batch n dim"], inflation: float = 1.2) -> NormalMixture:
    """One normal with the moments of draws, a little wider, to start from an earlier answer."""
    batch, n, dim = u.shape
    centred = u - u.mean(1, keepdim=True)
    covariance = centred.mT @ centred / n + 1e-9 * torch.eye(dim, dtype=u.dtype)
    factor = inflation * torch.linalg.cholesky(covariance).unsqueeze(1)
    return NormalMixture(u.new_zeros(batch, 1), u.mean(1, keepdim=True), factor)


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
