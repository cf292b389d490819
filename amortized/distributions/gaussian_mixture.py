r"""Gaussian mixtures: priors of latents given at run time, and one-pass posteriors.

.. math:: p(u) = \sum_k w_k N(u; \mu_k, L_k L_k^\top)

This module contains all linear-Gaussian algebra on mixtures, for a batch at once. Operations on
covariances run in float64 and return the mixture's own dtype, so that float32 mixtures can be a
thousand times narrower in one direction than in another.

Merging and splitting components is in `amortized.latent_priors.reduction`, fitting mixtures to
other distributions and to draws in `amortized.latent_priors.fitting`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints

from amortized.distributions.cholesky import cholesky_factor, solve_lower, squared_length
from amortized.seeding import seeded
from amortized.validation import whole_number


class GaussianMixture(Distribution):
    """A mixture of normals with full covariances, one mixture for each member of a batch.

    Args:
        log_weights: unnormalised log weights, ``(*batch, k)``; -inf for an absent component.
        means: ``(*batch, k, dim)``.
        scale_tril: Cholesky factors of the covariances, ``(*batch, k, dim, dim)``.
        validate_args: whether values are checked; shapes always are.

    Raises:
        ValueError: if the shapes do not fit, or a value is not finite or a diagonal not positive.

    Example:
        >>> import torch
        >>> mixture = GaussianMixture(torch.zeros(2), torch.tensor([[-1.0], [1.0]]),
        ...                           torch.ones(2, 1, 1))
        >>> mixture.mean, mixture.variance
        (tensor([0.]), tensor([2.]))
    """

    arg_constraints = {
        "log_weights": constraints.independent(constraints.real, 1),
        "means": constraints.independent(constraints.real, 2),
        "scale_tril": constraints.independent(constraints.lower_cholesky, 1),
    }
    support = constraints.real_vector

    def __init__(
        self,
        log_weights: Float[Tensor, "*batch k"],
        means: Float[Tensor, "*batch k dim"],
        scale_tril: Float[Tensor, "*batch k dim dim"],
        validate_args: bool | None = None,
    ) -> None:
        if means.ndim < 2 or scale_tril.shape != (*means.shape, means.shape[-1]):
            raise ValueError(
                "Expected means (*batch, k, dim) and scale_tril (*batch, k, dim, dim); got "
                f"{tuple(means.shape)} and {tuple(scale_tril.shape)}."
            )
        if log_weights.shape != means.shape[:-1] or 0 in means.shape[-2:]:
            raise ValueError(
                f"Expected log_weights of shape {tuple(means.shape[:-1])}, one for each of one or "
                f"more components; got {tuple(log_weights.shape)}."
            )
        self.log_weights = log_weights.log_softmax(-1)
        self.means, self.scale_tril = means, scale_tril
        if validate_args is not False:
            self._check_values()
        super().__init__(means.shape[:-2], means.shape[-1:], validate_args=False)

    def _check_values(self) -> None:
        diagonal = self.scale_tril.diagonal(dim1=-1, dim2=-2)
        if not all(bool(t.isfinite().all()) for t in (self.means, self.scale_tril)):
            raise ValueError("Expected finite means and scale_tril; some are NaN or infinite.")
        if not bool((diagonal > 0).all()) or bool(self.scale_tril.triu(1).any()):
            raise ValueError(
                "Expected scale_tril lower triangular with a positive diagonal; it is not. Take "
                "torch.linalg.cholesky of a positive definite covariance."
            )
        if bool(self.log_weights.isnan().any()):
            raise ValueError("Expected log_weights with one finite number or more; got none.")

    @classmethod
    def from_moments(
        cls, mean: Float[Tensor, "*batch dim"], covariance: Float[Tensor, "*batch dim dim"]
    ) -> "GaussianMixture":
        """One normal, as a mixture of one component."""
        factor = cholesky_factor(covariance).unsqueeze(-3)
        return cls(mean.new_zeros(*mean.shape[:-1], 1), mean.unsqueeze(-2), factor)

    @property
    def n_components(self) -> int:
        """Number of components."""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.means.shape[-1]

    def map_tensors(self, function: Callable[[Tensor], Tensor]) -> "GaussianMixture":
        """Applies a function, such as a cast or an index, to the three tensors of the mixture."""
        log_weights, means, tril = map(function, (self.log_weights, self.means, self.scale_tril))
        return GaussianMixture(log_weights, means, tril, validate_args=False)

    def to(self, target: torch.device | torch.dtype | str) -> "GaussianMixture":
        """The same mixture on another device or in another dtype."""
        return self.map_tensors(lambda tensor: tensor.to(target))

    def __getitem__(self, index: Any) -> "GaussianMixture":
        """Members of the batch: ``mixture[2]``, ``mixture[:, 0]``, ``mixture[mask]``."""
        if not self.batch_shape:
            raise ValueError("Expected a batch of mixtures to choose from; got a single one.")
        return self.map_tensors(lambda tensor: tensor[index])

    def expand(
        self, batch_shape: Sequence[int], _instance: "GaussianMixture | None" = None
    ) -> "GaussianMixture":
        n = len(self.batch_shape)
        return self.map_tensors(lambda tensor: tensor.expand(*batch_shape, *tensor.shape[n:]))

    def component_log_prob(self, value: Float[Tensor, "*values dim"]) -> Float[Tensor, "*shape k"]:
        """Log density of each component, without its weight."""
        log_det = self.scale_tril.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        n_outer = value.ndim - 1 - len(self.batch_shape)
        n_values = value.shape[:n_outer].numel() if n_outer > 0 else 1
        if self.dim > 1 and n_values >= self.dim:
            # For many values of one mixture a matrix product is faster than many small solves.
            eye = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device)
            inverse = torch.linalg.solve_triangular(self.scale_tril, eye, upper=False)
            values = value.flatten(0, n_outer - 1).movedim(0, -2).unsqueeze(-3)
            z = (values - self.means.unsqueeze(-2)) @ inverse.mT  # (*batch, k, values, dim)
            squares = squared_length(z).movedim(-1, 0).unflatten(0, value.shape[:n_outer])
        else:
            centred = value.unsqueeze(-2) - self.means
            squares = squared_length(solve_lower(self.scale_tril, centred))
        return -0.5 * (squares + self.dim * math.log(2 * math.pi)) - log_det

    def log_prob(self, value: Float[Tensor, "*values dim"]) -> Float[Tensor, "*shape"]:
        return (self.log_weights + self.component_log_prob(value)).logsumexp(-1)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        n = torch.Size(sample_shape).numel()
        with torch.no_grad():
            means = self.means.reshape(-1, self.n_components, self.dim)
            factors = self.scale_tril.reshape(-1, self.n_components, self.dim, self.dim)
            weights = self.log_weights.reshape(-1, self.n_components).exp()
            chosen = torch.multinomial(weights, n, replacement=True).T  # (n, batch)
            rows = torch.arange(len(means), device=means.device)
            noise = torch.randn(n, len(means), self.dim, 1, dtype=means.dtype, device=means.device)
            return (means[rows, chosen] + (factors[rows, chosen] @ noise).squeeze(-1)).reshape(
                shape
            )

    @property
    def mean(self) -> Float[Tensor, "*batch dim"]:
        return (self.log_weights.exp().unsqueeze(-1) * self.means).sum(-2)

    @property
    def covariance_matrix(self) -> Float[Tensor, "*batch dim dim"]:
        """Covariance of the mixture: within components plus between their means."""
        centred = (self.means - self.mean.unsqueeze(-2)).unsqueeze(-1)
        within = self.scale_tril @ self.scale_tril.mT
        return (self.log_weights.exp()[..., None, None] * (within + centred @ centred.mT)).sum(-3)

    @property
    def variance(self) -> Float[Tensor, "*batch dim"]:
        return self.covariance_matrix.diagonal(dim1=-1, dim2=-2)

    def marginal(self, dims: Sequence[int]) -> "GaussianMixture":
        """The marginal of some dimensions, in the given order."""
        return self._like(self.log_weights, *self._ordered(self._dims(dims)))

    def condition(
        self, dims: Sequence[int], values: Float[Tensor, "*values known"]
    ) -> "GaussianMixture":
        """The conditional of the other dimensions, in their order, given the values of ``dims``."""
        known = self._dims(dims)
        others = [i for i in range(self.dim) if i not in known]
        if not others:
            raise ValueError(f"Expected fewer than all {self.dim} dims to condition on.")
        means, factor = self._ordered(known + others)
        n, values = len(known), values.double()
        given = GaussianMixture(
            self.log_weights.double(), means[..., :n], factor[..., :n, :n], False
        )
        z = solve_lower(given.scale_tril, values.unsqueeze(-2) - given.means)
        shifted = means[..., n:] + (factor[..., n:, :n] @ z.unsqueeze(-1)).squeeze(-1)
        factor = factor[..., n:, n:].expand(*shifted.shape, len(others))
        return self._like(self.log_weights + given.component_log_prob(values), shifted, factor)

    def _ordered(self, dims: list[int]) -> tuple[Tensor, Tensor]:
        """Means and Cholesky factors of the chosen dimensions in the given order, in float64."""
        root = self.scale_tril[..., dims, :].double()
        return self.means[..., dims].double(), cholesky_factor(root @ root.mT)

    def _like(self, log_weights: Tensor, means: Tensor, scale_tril: Tensor) -> "GaussianMixture":
        """A mixture in the dtype of this one."""
        dtype = self.means.dtype
        return GaussianMixture(log_weights.to(dtype), means.to(dtype), scale_tril.to(dtype), False)

    def _dims(self, dims: Sequence[int]) -> list[int]:
        chosen = [whole_number("dims", i, 0) for i in dims]
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(self.dim)):
            raise ValueError(f"Expected distinct dims between 0 and {self.dim - 1}; got {dims}.")
        return chosen

    def whitening(self) -> tuple[Float[Tensor, "*batch dim"], Float[Tensor, "*batch dim dim"]]:
        """Mean m and Cholesky factor C of the whole mixture: C^-1 (u - m) is white."""
        exact = self.to(torch.float64)
        factor = cholesky_factor(exact.covariance_matrix)
        return exact.mean.to(self.means.dtype), factor.to(self.means.dtype)

    def whiten(
        self, mean: Float[Tensor, "*batch dim"], factor: Float[Tensor, "*batch dim dim"]
    ) -> "GaussianMixture":
        """The mixture of C^-1 (u - m), for lower triangular C."""
        factor = factor.unsqueeze(-3)
        means = solve_lower(factor, self.means - mean.unsqueeze(-2))
        roots = torch.linalg.solve_triangular(factor, self.scale_tril, upper=False)
        return self._like(self.log_weights, means, roots)

    def unwhiten(
        self, mean: Float[Tensor, "*batch dim"], factor: Float[Tensor, "*batch dim dim"]
    ) -> "GaussianMixture":
        """The inverse of `whiten`: the mixture of m + C u, for lower triangular C."""
        means = mean.unsqueeze(-2) + self.means @ factor.mT
        return self._like(self.log_weights, means, factor.unsqueeze(-3) @ self.scale_tril)

    def propagate(
        self,
        matrix: Float[Tensor, "*batch out dim"],
        offset: Float[Tensor, "*batch out"] | None = None,
        covariance: Float[Tensor, "*batch out out"] | None = None,
    ) -> "GaussianMixture":
        r"""The mixture of :math:`A u + c + N(0, Q)`: a Kalman prediction of every component.

        Raises:
            ValueError: if the result has no density (A singular and no Q).
        """
        matrix = matrix.double()
        means = self.means.double() @ matrix.mT
        root = matrix.unsqueeze(-3) @ self.scale_tril.double()
        spread = root @ root.mT
        if offset is not None:
            means = means + offset.double().unsqueeze(-2)
        if covariance is not None:
            spread = spread + covariance.double().unsqueeze(-3)
        log_weights = self.log_weights.expand(means.shape[:-1])
        return self._like(log_weights, means, cholesky_factor(spread))

    def update(
        self,
        value: Float[Tensor, "*#batch seen"],
        matrix: Float[Tensor, "*#batch seen dim"],
        noise_tril: Float[Tensor, "*#batch seen seen"] | None = None,
    ) -> tuple["GaussianMixture", Float[Tensor, "*shape"]]:
        r"""The posterior given :math:`z = H u + N(0, R)`, and :math:`\log p(z)`, both exact.

        With :math:`R = I` after whitening and :math:`I + L^\top H^\top H L = U U^\top`, U upper
        triangular, the posterior's factor is :math:`L U^{-\top}`, which avoids subtracting
        covariances.

        Args:
            value: z.
            matrix: H; rows of zeros carry no information.
            noise_tril: Cholesky factor of R; None for the identity.
        """
        z, rows = value.double(), matrix.double()
        log_det = z.new_zeros(())
        if noise_tril is not None:
            noise = noise_tril.double()
            z = solve_lower(noise, z)
            rows = torch.linalg.solve_triangular(noise, rows, upper=False)
            log_det = noise.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        factor, means = self.scale_tril.double(), self.means.double()
        seen = rows.unsqueeze(-3) @ factor  # H L
        off = z.unsqueeze(-2) - means @ rows.mT  # (*batch, k, seen)
        upper = cholesky_factor(_with_unit(seen.mT @ seen).flip(-1, -2)).flip(-1, -2)
        factor = torch.linalg.solve_triangular(upper, factor.mT, upper=True).mT
        gain = factor @ (factor.mT @ (off @ rows).unsqueeze(-1))
        innovation = cholesky_factor(_with_unit(seen @ seen.mT))
        quadratic = squared_length(solve_lower(innovation, off))
        fit = -0.5 * quadratic - innovation.diagonal(dim1=-1, dim2=-2).log().sum(-1)
        log_weights = self.log_weights.double() + fit
        constant = 0.5 * z.shape[-1] * math.log(2 * math.pi)
        log_evidence = log_weights.logsumexp(-1) - constant - log_det
        posterior = self._like(log_weights, means + gain.squeeze(-1), factor)
        return posterior, log_evidence.to(self.means.dtype)

    def kl(
        self, other: Distribution, n_draws: int = 1000, seed: int = 0
    ) -> Float[Tensor, "*batch"]:
        r"""Estimate of :math:`KL(p \| q) = E_p \log p - \log q` from draws of this mixture."""
        with seeded(seed):
            draws = self.sample((whole_number("n_draws", n_draws),))
        return (self.log_prob(draws) - other.log_prob(draws)).mean(0)

    def cdf(self, value: Float[Tensor, "*values 1"]) -> Float[Tensor, "*shape"]:
        """Distribution function of a mixture in one dimension."""
        if self.dim != 1:
            raise ValueError(
                f"Expected a mixture in one dimension; got {self.dim}. Take marginal([i]) first."
            )
        z = (value - self.means[..., 0]) / self.scale_tril[..., 0, 0]
        return (self.log_weights.exp() * torch.special.ndtr(z)).sum(-1).clamp(0.0, 1.0)

    def icdf(self, value: Float[Tensor, "*levels"]) -> Float[Tensor, "*shape 1"]:
        """Quantiles of a mixture in one dimension, by bisection between those of the components."""
        exact, level = self.to(torch.float64), value.double()
        ends = exact.means[..., 0] + exact.scale_tril[..., 0, 0] * torch.special.ndtri(
            level.unsqueeze(-1)
        )
        there = exact.log_weights > -math.inf
        low = ends.where(there, math.inf).amin(-1)
        high = ends.where(there, -math.inf).amax(-1)
        for _ in range(80):
            middle = torch.where(low == high, low, (low + high) / 2)
            below = exact.cdf(middle.unsqueeze(-1)) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return high.unsqueeze(-1).to(self.means.dtype)


def _with_unit(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
