r"""Deterministic fits of Gaussian mixtures in unconstrained space to arbitrary priors.

A distribution with a bounded support is transformed by the bijection of its support: gamma, inverse
gamma and log-normal by the logarithm, beta and uniform by the probit. In one dimension the density
of u is evaluated on a grid and fitted by weighted EM, initialised with blocks between quantiles, so
that the result is reproducible; distributions that are normal in u are returned exactly. Draws, and
distributions in several dimensions, are fitted by EM on draws with a fixed seed.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache, reduce
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Distribution,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
)

from amortized.arrays import as_tensor
from amortized.distributions.cholesky import cholesky_factor
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.reduction import merge
from amortized.program.support import bijection_to, log_prob, support_of
from amortized.seeding import seeded
from amortized.validation import whole_number

_N_GRID = 2001
_N_DRAWS = 20_000
_N_STEPS = 200


def fit_mixture(distribution: Distribution, n_components: int = 5) -> GaussianMixture:
    """Fits a mixture over u, the flattened value of one distribution in unconstrained space.

    Args:
        distribution: from torch or Pyro; batch dimensions must be independent elements.
        n_components: components of the fit; a distribution that is normal in u gets one.

    Raises:
        ValueError: if the support has no bijection to the real line.

    Example:
        >>> from torch.distributions import Gamma
        >>> mixture = fit_mixture(Gamma(3.0, 2.0))
        >>> round(mixture.mean.item(), 3)  # digamma(3) - log 2 = 0.2296
        0.23
    """
    if isinstance(distribution, GaussianMixture):
        return distribution
    if isinstance(distribution, Independent):
        elements = distribution.base_dist
        if not elements.event_shape and elements.batch_shape:
            return fit_mixture(elements, n_components)
    if not distribution.event_shape and distribution.batch_shape.numel() > 1:
        n = distribution.batch_shape.numel()
        return product([fit_mixture(_element(distribution, i), n_components) for i in range(n)])
    try:
        bijection = bijection_to(support_of(distribution))
    except NotImplementedError as reason:
        raise ValueError(
            f"Expected a latent prior with a continuous support; got {distribution}."
        ) from reason
    exact = _normal_in_u(distribution)
    if exact is not None:
        return exact
    if not distribution.event_shape:
        return _fit_density(distribution, _parameters(distribution), n_components)
    with seeded(0):
        u = bijection.inv(distribution.sample((_N_DRAWS,)).double())
    return fit_draws(u.reshape(len(u), -1), n_components).to(torch.get_default_dtype())


def product(mixtures: Sequence[GaussianMixture], n_components: int = 64) -> GaussianMixture:
    """The joint mixture of independent blocks, reduced by merging if it would become large."""

    def pair(a: GaussianMixture, b: GaussianMixture) -> GaussianMixture:
        log_weights = (a.log_weights.unsqueeze(-1) + b.log_weights.unsqueeze(-2)).flatten(-2)
        i = torch.arange(a.n_components).repeat_interleave(b.n_components)
        j = torch.arange(b.n_components).repeat(a.n_components)
        means = torch.cat([a.means[..., i, :], b.means[..., j, :]], -1)
        factors = means.new_zeros(*means.shape, a.dim + b.dim)
        factors[..., : a.dim, : a.dim] = a.scale_tril[..., i, :, :]
        factors[..., a.dim :, a.dim :] = b.scale_tril[..., j, :, :]
        return merge(GaussianMixture(log_weights, means, factors, False), n_components)

    if not mixtures:
        raise ValueError("Expected one mixture or more; got none.")
    return reduce(pair, mixtures)


def as_mixture(
    latent_prior: Any, layout: Sequence[str] | None = None, n_components: int = 5
) -> GaussianMixture:
    """Converts a user's ``latent_prior`` to one mixture over u.

    Args:
        latent_prior: a `GaussianMixture`; a distribution; a dictionary of distributions by name;
            or draws of u, ``(n, dim)``.
        layout: names of the latents in the order of u, for a dictionary.
        n_components: number of components of the fit to each latent or to the draws; the product
            over latents has more.

    Raises:
        ValueError: if it is none of these, or names other latents.
    """
    if isinstance(latent_prior, Mapping):
        names = list(latent_prior) if layout is None else list(layout)
        if set(names) != set(latent_prior):
            raise ValueError(
                f"Expected latent_prior to name {sorted(names)}; got {sorted(latent_prior)}."
            )
        return product([fit_mixture(latent_prior[name], n_components) for name in names])
    if isinstance(latent_prior, Distribution):
        return fit_mixture(latent_prior, n_components)
    if isinstance(latent_prior, Tensor) and latent_prior.ndim == 2:
        return fit_draws(latent_prior, n_components)
    raise ValueError(
        "Expected latent_prior to be a GaussianMixture, a distribution, distributions by name, "
        f"or draws of u of shape (n, dim); got {type(latent_prior).__name__}."
    )


def fit_draws(
    draws: Float[Tensor, "n dim"],
    n_components: int = 5,
    weights: Float[Tensor, " n"] | None = None,
    n_steps: int = _N_STEPS,
) -> GaussianMixture:
    """Fits a mixture to draws by EM with a deterministic start: blocks of equal weight.

    Args:
        draws: draws of u.
        n_components: components of the mixture.
        weights: unnormalised weights of the draws.
        n_steps: EM steps; a few are enough for a mixture used as a proposal.

    Raises:
        ValueError: if there are too few draws, or one of them is not finite.
    """
    n_components = whole_number("n_components", n_components, 1)
    u, (n, dim) = as_tensor(draws, "draws"), draws.shape
    if n <= n_components * (dim + 1):
        raise ValueError(
            f"Expected more than {n_components * (dim + 1)} finite draws for {n_components} "
            f"components in {dim} dimensions; got {n}."
        )
    w = torch.ones(n, dtype=u.dtype) if weights is None else weights.double()
    w = w / w.sum()
    centre = w @ u
    spread = (w @ (u - centre).square()).sqrt().clamp_min(1e-12)
    z = (u - centre) / spread
    shares = _blocks(z, w, n_components)
    for _ in range(n_steps):
        mixture = _maximise(z, w, shares)
        log_joint = mixture.log_weights + mixture.component_log_prob(z)
        shares = log_joint.softmax(-1)
    mixture = _maximise(z, w, shares)
    return mixture.unwhiten(centre, torch.diag(spread)).to(draws.dtype)


def _blocks(z: Tensor, w: Tensor, n_components: int) -> Tensor:
    """Responsibilities of blocks of equal weight along the widest direction, ``(n, k)``."""
    along = torch.linalg.eigh((z * w.unsqueeze(-1)).T @ z).eigenvectors[:, -1]
    along = (
        along * along.sum().sign()
    )  # fixes the arbitrary sign, and with it the order of components
    order = (z @ along).argsort()
    level = torch.empty_like(w)
    level[order] = w[order].cumsum(0)
    block = (level * n_components).floor().long().clamp(0, n_components - 1)
    return torch.nn.functional.one_hot(block, n_components).to(z.dtype)


def _maximise(z: Tensor, w: Tensor, shares: Tensor) -> GaussianMixture:
    """The M step: weights, means and covariances of the draws, weighted by responsibilities."""
    joint = shares * w.unsqueeze(-1)  # (n, k)
    weights = joint.sum(0).clamp_min(1e-12)
    means = joint.T @ z / weights.unsqueeze(-1)
    centred = z.unsqueeze(1) - means
    covariances = torch.einsum("nk,nki,nkj->kij", joint, centred, centred)
    # A component with few draws is shrunk towards the total covariance and cannot collapse.
    covariances = covariances / weights[:, None, None] + 1e-6 * torch.eye(z.shape[-1]).to(z)
    return GaussianMixture(weights.log(), means, cholesky_factor(covariances), False)


def _normal_in_u(distribution: Distribution) -> GaussianMixture | None:
    """Mixtures for distributions that are a single normal in unconstrained space."""
    if isinstance(distribution, MultivariateNormal) and not distribution.batch_shape:
        return GaussianMixture.from_moments(distribution.mean, distribution.covariance_matrix)
    if isinstance(distribution, Normal | LogNormal):
        mean = torch.as_tensor(distribution.loc).reshape(1, 1)
        return GaussianMixture(
            mean.new_zeros(1), mean, torch.as_tensor(distribution.scale).reshape(1, 1, 1)
        )
    if isinstance(distribution, Uniform):
        zero = torch.as_tensor(distribution.low).new_zeros(1, 1)
        return GaussianMixture(zero[0], zero, zero.unsqueeze(0) + 1.0)
    return None


def _element(distribution: Distribution, i: int) -> Distribution:
    """The i-th element of a batch of scalar distributions."""
    values = {
        name: value.expand(distribution.batch_shape).flatten()[i]
        for name in distribution.arg_constraints
        if isinstance(value := getattr(distribution, name, None), Tensor)
        and name in distribution.__dict__
    }
    if not values:
        raise ValueError(
            f"Expected the elements of {distribution} separately; give a dictionary of scalar "
            "distributions, or draws."
        )
    family: Any = type(distribution)
    return family(**values)


def _parameters(distribution: Distribution) -> tuple[Any, ...]:
    """The parameters that identify a member of a family, as a cache key."""
    names = sorted(distribution.arg_constraints)
    values = [getattr(distribution, name, None) for name in names]
    if not names or any(isinstance(v, Tensor) and v.numel() > 1 or v is None for v in values):
        return (id(distribution),)
    return (type(distribution).__name__, *(float(v) for v in values if v is not None))


class _Keyed:
    """A distribution that compares equal to another of the same family and parameters."""

    def __init__(self, distribution: Distribution, key: tuple[Any, ...]) -> None:
        self.distribution, self.key = distribution, key

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Keyed) and self.key == other.key


def _fit_density(
    distribution: Distribution, key: tuple[Any, ...], n_components: int
) -> GaussianMixture:
    fitted = _cached_fit(_Keyed(distribution, key), n_components)
    return fitted.to(torch.get_default_dtype())


@lru_cache(maxsize=1024)
def _cached_fit(keyed: _Keyed, n_components: int) -> GaussianMixture:
    """Weighted EM on a grid of u, with the density as weights."""
    distribution = keyed.distribution
    bijection = bijection_to(support_of(distribution))
    with seeded(0):
        u = bijection.inv(distribution.sample((4096,)).double().flatten())
    u = u[u.isfinite()]
    reach = (u.max() - u.min()) / 4
    grid = torch.linspace(u.min() - reach, u.max() + reach, _N_GRID, dtype=torch.float64)
    value = bijection(grid)
    log_density = log_prob(distribution, value) + bijection.log_abs_det_jacobian(grid, value)
    log_density = log_density.nan_to_num(-math.inf, -math.inf, -math.inf)
    weights = (log_density - log_density.max()).exp()
    return fit_draws(grid.unsqueeze(-1), n_components, weights)


def stacked(mixtures: Sequence[GaussianMixture], dim: int = 0) -> GaussianMixture:
    """Stacks mixtures along a new batch dimension; smaller ones are padded with empty components.

    Example:
        >>> import torch
        >>> one = GaussianMixture.from_moments(torch.zeros(2), torch.eye(2))
        >>> stacked([one, one, one]).batch_shape
        torch.Size([3])
    """
    k = max(mixture.n_components for mixture in mixtures)

    def filled(tensor: Tensor, axis: int, value: float | None = None) -> Tensor:
        """Pads components with a constant, or with copies of the first."""
        first = tensor.narrow(axis, 0, 1)
        more = first if value is None else torch.full_like(first, value)
        return torch.cat((tensor, *[more] * (k - tensor.shape[axis])), axis)

    return GaussianMixture(
        torch.stack([filled(m.log_weights, -1, -torch.inf) for m in mixtures], dim),
        torch.stack([filled(m.means, -2) for m in mixtures], dim),
        torch.stack([filled(m.scale_tril, -3) for m in mixtures], dim),
        validate_args=False,
    )
