"""Starting distributions of samplers: a normalised density over u for each dataset of a batch."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture


@runtime_checkable
class Start(Protocol):
    """A normalised density over u for each dataset, from which a sampler starts."""

    def sample(self, n: int) -> Tensor:
        """Draws ``(batch, n, dim)``."""

    def log_prob(self, u: Tensor) -> Tensor:
        """Log density ``(batch, n)`` of ``(batch, n, dim)``."""

    def take(self, index: Tensor) -> "Start":
        """The start restricted to the chosen datasets."""


def as_start(start: Start | Distribution) -> Start:
    """Wraps a distribution of batch shape ``(batch,)`` and event shape ``(dim,)`` as a start."""
    if isinstance(start, GaussianMixture):
        return FromMixture(start)
    return FromDistribution(start) if isinstance(start, Distribution) else start


@dataclass(frozen=True)
class FromMixture:
    """A Gaussian mixture for each dataset.

    Attributes:
        mixture: mixture of batch shape ``(batch,)``.
    """

    mixture: GaussianMixture

    def sample(self, n: int) -> Float[Tensor, "batch n dim"]:
        """Draws in random order, stratified over components as closely as n allows."""
        mixture, dim = self.mixture, self.mixture.dim
        ends = mixture.log_weights[:, :-1].exp().cumsum(-1) * n
        # In order, draw i is at i + offset: one component begins where the previous one ends.
        first = (ends - torch.rand(1).item()).floor().long().add_(1).clamp_(0, n)
        begins = first.new_zeros(len(first), n + 1).scatter_add_(1, first, torch.ones_like(first))
        chosen = begins.cumsum(-1).index_select(1, torch.randperm(n))
        # Single precision is faster and reaches 5.7 standard deviations, which is enough.
        noise = torch.randn(dim, *chosen.shape).to(ends)
        u = noise.new_empty(noise.shape)
        # Entry by entry, because gathering one factor per draw would read far more memory.
        for i in range(dim):
            torch.gather(mixture.means[..., i], 1, chosen, out=u[i])
            for j in range(i + 1):
                u[i].addcmul_(mixture.scale_tril[..., i, j].gather(1, chosen), noise[j])
        return u.movedim(0, -1)

    def log_prob(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """Log density."""
        return self.mixture.log_prob(u.transpose(0, 1)).T

    def take(self, index: Tensor) -> "FromMixture":
        """The start restricted to the chosen datasets."""
        return FromMixture(self.mixture[index])


def normal_of_draws(u: Float[Tensor, "batch n dim"]) -> GaussianMixture:
    """One normal with the moments of the draws, slightly wider, to start from an earlier answer."""
    dim = u.shape[-1]
    centred = u - u.mean(1, keepdim=True)
    covariance = centred.mT @ centred / u.shape[1] + 1e-9 * torch.eye(dim, dtype=u.dtype)
    return GaussianMixture.from_moments(u.mean(1), 1.2**2 * covariance)


@dataclass(frozen=True)
class FromDraws:
    """Draws of an earlier answer as starting points for optimisation; they have no density.

    Attributes:
        u: ``(batch, n, dim)``.
        log_weights: ``(batch, n)``; None for equal weights.
    """

    u: Tensor
    log_weights: Tensor | None = None

    def sample(self, n: int) -> Float[Tensor, "batch n dim"]:
        """Draws with replacement."""
        weights = torch.ones_like(self.u[..., 0])
        weights = weights if self.log_weights is None else self.log_weights.softmax(-1)
        chosen = torch.multinomial(weights, n, replacement=True)
        return self.u.gather(1, chosen.unsqueeze(-1).expand(-1, -1, self.u.shape[-1]))

    def log_prob(self, u: Tensor) -> Tensor:
        """Raises NotImplementedError, because draws have no density."""
        raise NotImplementedError("Expected a start with a density; draws have none.")

    def take(self, index: Tensor) -> "FromDraws":
        """The start restricted to the chosen datasets."""
        weights = None if self.log_weights is None else self.log_weights[index]
        return FromDraws(self.u[index], weights)


@dataclass(frozen=True)
class FromDistribution:
    """Any torch distribution over u with batch shape ``(batch,)``, as a start.

    Attributes:
        distribution: distribution of event shape ``(dim,)``.
        index: indices of the chosen datasets; None means all.
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
        """The start restricted to the chosen datasets."""
        chosen = index if self.index is None else self.index[index]
        return FromDistribution(self.distribution, chosen)
