r"""The tempered path from a start to the posterior, and its gradient, within bounded memory.

.. math:: \log \pi_\beta(u) = \log q(u) + \beta \, [\log p(u) + \log p(y \mid u) - \log q(u)]

with :math:`\beta` from 0 to 1. The start q is the prior, or a given density mixed with a share of
prior draws. That share keeps the weights bounded: a start that misses a mode or is too narrow costs
time but does not bias the result.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from amortized.program.density import ProgramDensity
from amortized.sampling.start import Start, as_start

_Values = tuple[Tensor, ...]

CHUNK_BYTES = 16 * 2**20  # autograd memory for one chunk of particles; more would leave the cache


class Point(NamedTuple):
    """Particles with their densities and gradients.

    Attributes:
        u: ``(batch, n, dim)``.
        reference: ``log q(u)``; -inf where any quantity is not finite.
        gain: ``log p(u) + log p(y | u) - log q(u)``; if every beta is 1, ``log p(u, y)`` itself,
            with a reference of 0.
        gradient: gradient of ``log pi_beta(u)``, for the beta at which the point was evaluated.
    """

    u: Float[Tensor, "batch n dim"]
    reference: Float[Tensor, "batch n"]
    gain: Float[Tensor, "batch n"]
    gradient: Float[Tensor, "batch n dim"]

    def log_density(self, beta: Float[Tensor, " batch"]) -> Float[Tensor, "batch n"]:
        """``log pi_beta(u)``."""
        return self.reference + beta.unsqueeze(-1) * self.gain


@runtime_checkable
class Evaluates(Protocol):
    """What a move needs of a path."""

    def at(self, u: Tensor, beta: Tensor) -> Point:
        """The particles ``u``, ``(batch, n, dim)``, evaluated at ``beta``, ``(batch,)``."""


class Path:
    """The tempered densities of a batch of datasets.

    Args:
        density: log density of the posterior.
        start: the density q; None for the prior.
        prior_share: share of prior draws in the start of each dataset, ``(batch,)``.
    """

    def __init__(
        self,
        density: ProgramDensity,
        start: Start | Distribution | None = None,
        prior_share: Float[Tensor, " batch"] | None = None,
    ) -> None:
        self.density = density
        self.start = None if start is None else as_start(start)
        self.prior_share = torch.ones(density.n_datasets) if prior_share is None else prior_share

    def take(self, index: Tensor) -> "Path":
        """The path of the chosen datasets."""
        chosen = object.__new__(Path)
        chosen.__dict__.update(self.__dict__)
        chosen.density = self.density.take(index)
        chosen.start = None if self.start is None else self.start.take(index)
        chosen.prior_share = self.prior_share[index]
        return chosen

    def sample_start(self, n: int, n_islands: int = 1) -> Float[Tensor, "batch n dim"]:
        """Draws from q, with the prior's share in each island as exact as possible."""
        if self.start is None:
            return tame(self.density.sample_prior(n))
        draws, prior_draws = self.start.sample(n), tame(self.density.sample_prior(n))
        rank = torch.rand(n_islands, n // n_islands).argsort(-1).flatten()
        level = (rank + 0.5) / (n // n_islands)
        from_prior = level < self.prior_share.unsqueeze(-1)
        return torch.where(from_prior.unsqueeze(-1), prior_draws, draws)

    def at(self, u: Float[Tensor, "batch n dim"], beta: Float[Tensor, " batch"]) -> Point:
        """Evaluates particles and the gradient of their tempered density."""
        return Point(*self._in_chunks(Path._with_gradient, u, beta))

    def log_weights(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """``log p(u, y) - log q(u)``, without gradients; -inf where it is not finite."""
        zero = torch.zeros(len(u), dtype=u.dtype)
        return self._in_chunks(Path._without_gradient, u, zero)[2]

    def log_density(self, u: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n"]:
        """``log p(u, y)``, without gradients; -inf where it is not finite."""
        one = torch.ones(len(u), dtype=u.dtype)
        return self._in_chunks(Path._without_gradient, u, one)[2]

    def _in_chunks(
        self, evaluate: Callable[["Path", Tensor, Tensor], _Values], u: Tensor, beta: Tensor
    ) -> _Values:
        """Values of a few datasets and particles at a time."""
        batch, n = u.shape[:2]
        n_particles = max(1, CHUNK_BYTES // self.density.bytes_per_particle())
        n_datasets = max(1, n_particles // n)
        pieces = []
        for first in range(0, batch, n_datasets):
            rows = slice(first, first + n_datasets)
            path = self if n_datasets >= batch else self.take(torch.arange(batch)[rows])
            columns = u[rows].split(n if n_datasets > 1 else n_particles, 1)
            pieces.append(_joined([evaluate(path, piece, beta[rows]) for piece in columns], 1))
        return _joined(pieces, 0)

    def _with_gradient(self, u: Tensor, beta: Tensor) -> _Values:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            reference, gain = self._reference_and_gain(u, beta)
            total = (reference + beta.unsqueeze(-1) * gain).sum()
            (gradient,) = torch.autograd.grad(total, u)
        return *_finite(u, reference, gain), gradient.nan_to_num(0.0, 0.0, 0.0)

    def _without_gradient(self, u: Tensor, beta: Tensor) -> _Values:
        with torch.no_grad():
            return _finite(u, *self._reference_and_gain(u, beta))

    def _reference_and_gain(self, u: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        log_prior, log_likelihood = self.density.log_prior_and_likelihood(u)
        if bool((beta == 1).all()):  # at the posterior the start no longer matters
            gain = log_prior + log_likelihood
            return torch.zeros_like(gain), gain
        if self.start is None:
            return log_prior, log_likelihood
        reference = self._log_start(u, log_prior)
        return reference, log_prior + log_likelihood - reference

    def _log_start(self, u: Tensor, log_prior: Tensor) -> Tensor:
        assert self.start is not None
        share = self.prior_share.to(u.dtype).unsqueeze(-1)
        log_start = self.start.log_prob(u) + torch.log1p(-share)
        # A share of 0 gives a term of -inf, for which the gradient of logaddexp is undefined.
        log_prior = log_prior + share.log()
        return torch.logaddexp(log_start.clamp(min=-1e30), log_prior.clamp(min=-1e30))


def _finite(u: Tensor, reference: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    lost = ~(torch.isfinite(reference) & (gain < torch.inf))  # also NaN
    reference, gain = (v.detach().masked_fill(lost, -torch.inf) for v in (reference, gain))
    return u.detach(), reference, gain


def _joined(pieces: list[_Values], dim: int) -> _Values:
    if len(pieces) == 1:
        return pieces[0]
    return tuple(torch.cat(values, dim) for values in zip(*pieces, strict=True))


def tame(u: Float[Tensor, "*batch n dim"]) -> Float[Tensor, "*batch n dim"]:
    """Clamps draws on the boundary of their support, which are infinite, and those far from all.

    Far is beside the median distance from the median, whatever the unit of a latent is.
    """
    finite = u.nan_to_num(0.0, 300.0, -300.0)
    middle = finite.median(-2, keepdim=True).values
    reach = 1e6 * (1 + (finite - middle).abs().median(-2, keepdim=True).values)
    return finite.clamp(middle - reach, middle + reach)
