r"""Merging and splitting of mixture components with the mean and covariance preserved exactly.

*Merge* repeatedly replaces the pair of components with the smallest Runnalls bound on the
Kullback-Leibler divergence by one component with the pair's moments,

.. math:: B_{ij} = \tfrac12 [(w_i + w_j) \log|S_{ij}| - w_i \log|S_i| - w_j \log|S_j|].

*Split* replaces the heaviest component N(mu, S) by two halves

.. math:: N(\mu \pm a v, S - a^2 v v^\top), \quad v = S e_j / \sqrt{S_{jj}}, \quad a^2 = 1 - r^2,

along the coordinate j with the largest spread; :math:`v v^\top \le S`, so the remaining matrix is a
covariance for every a < 1. Identical tokens stay identical through every layer of a transformer, so
without this split a normal prior could not lead to a posterior with several modes.

References:
    | Kullback-Leibler Approach to Gaussian Mixture Reduction (Runnalls, 2007)
"""

import math

import torch
from torch import Tensor

from amortized.distributions.cholesky import cholesky_factor
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.validation import number_between, whole_number

_LIGHT = 1e-12  # components below this weight are treated as absent


def merge(mixture: GaussianMixture, n_components: int) -> GaussianMixture:
    """Reduces a mixture to ``n_components``; unchanged if it has no more than that.

    Example:
        >>> import torch
        >>> three = GaussianMixture(torch.zeros(3), torch.tensor([[0.0], [0.1], [5.0]]),
        ...                         torch.ones(3, 1, 1))
        >>> merge(three, 2).means.squeeze(-1).sort().values
        tensor([0.0500, 5.0000])
    """
    n_components = whole_number("n_components", n_components)
    if mixture.n_components <= n_components:
        return mixture
    log_w, means, covariances = _flat(mixture)
    weights = log_w.exp()
    while weights.shape[-1] > n_components:
        weights, means, covariances = _merge_two(weights, means, covariances)
    return _mixture_like(mixture, weights.log(), means, cholesky_factor(covariances))


def _merge_two(weights: Tensor, means: Tensor, covariances: Tensor) -> tuple[Tensor, ...]:
    """Merges one pair in every member of the batch."""
    k = weights.shape[-1]
    first, second = torch.triu_indices(k, k, 1, device=weights.device)
    pair_w, pair_mean, pair_cov = _union(
        *(t[:, first] for t in (weights, means, covariances)),
        *(t[:, second] for t in (weights, means, covariances)),
    )
    log_det = torch.linalg.slogdet(covariances)[1]
    cost = pair_w * torch.linalg.slogdet(pair_cov)[1]
    cost = cost - weights[:, first] * log_det[:, first] - weights[:, second] * log_det[:, second]
    best = cost.argmin(-1)
    rows = torch.arange(len(weights), device=weights.device)
    keep = torch.ones_like(weights, dtype=torch.bool)
    keep[rows, second[best]] = False
    result = []
    for old, new in zip((weights, means, covariances), (pair_w, pair_mean, pair_cov), strict=True):
        old = old.clone()
        old[rows, first[best]] = new[rows, best]
        result.append(old[keep].unflatten(0, (len(weights), k - 1)))
    return tuple(result)


def _union(
    w_a: Tensor, mean_a: Tensor, cov_a: Tensor, w_b: Tensor, mean_b: Tensor, cov_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, mean and covariance of the union of two components."""
    weight = w_a + w_b
    share = (w_a / weight.clamp_min(1e-300)).unsqueeze(-1)
    mean = share * mean_a + (1 - share) * mean_b
    gap = (mean_a - mean_b).unsqueeze(-1)
    share = share.unsqueeze(-1)
    return weight, mean, share * cov_a + (1 - share) * cov_b + share * (1 - share) * gap @ gap.mT


def split_components(
    mixture: GaussianMixture, n_components: int, remaining: float = 0.9
) -> GaussianMixture:
    """Expands a mixture to ``n_components`` distinct components with equal mean and covariance.

    Components of weight zero are replaced as well, and identical components are joined first.

    Args:
        mixture: with at most ``n_components`` components.
        n_components: number of components required.
        remaining: r, the ratio of the halves' standard deviation to the original along the split.

    Example:
        >>> import torch
        >>> one = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> two = split_components(one, 2)
        >>> two.means.squeeze(-1), two.variance
        (tensor([ 0.4359, -0.4359]), tensor([1.]))
    """
    n_components = whole_number("n_components", n_components)
    remaining = number_between("remaining", remaining, 0, 1)
    if mixture.n_components > n_components:
        raise ValueError(
            f"Expected at most {n_components} components; got {mixture.n_components}. Use merge."
        )
    log_w, means, _ = _flat(mixture)
    factors = mixture.scale_tril.double().reshape(*means.shape, -1)
    missing = n_components - log_w.shape[-1]
    log_w = torch.nn.functional.pad(log_w, (0, missing), value=-math.inf)
    means = torch.cat([means, means[:, :1].expand(-1, missing, -1)], 1)
    factors = torch.cat([factors, factors[:, :1].expand(-1, missing, -1, -1)], 1)
    log_w = _without_copies(log_w, means, factors)
    for _ in range(n_components - 1):
        empty = log_w < math.log(_LIGHT)
        if not bool(empty.any()):
            break
        log_w, means, factors = _split_one(log_w, means, factors, empty, remaining)
    return _mixture_like(mixture, log_w, means, factors)


def _without_copies(log_w: Tensor, means: Tensor, factors: Tensor) -> Tensor:
    """Log weights with the total weight of identical components on the first of them."""
    flat = torch.cat([means, factors.flatten(-2)], -1)
    # In nearly all cases nothing is equal, which comparing first coordinates detects cheaply.
    order = flat[..., 0].sort(-1).values
    if not bool((order.diff(dim=-1) == 0).any()):
        return log_w
    equal = (flat.unsqueeze(-2) == flat.unsqueeze(-3)).all(-1)  # (batch, k, k)
    first = equal.int().argmax(-1)
    joined = torch.zeros_like(log_w).scatter_add(-1, first, log_w.exp())
    return joined.log()


def _split_one(
    log_w: Tensor, means: Tensor, factors: Tensor, empty: Tensor, remaining: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Splits the heaviest component into the first empty slot, in members that have one."""
    rows = empty.any(-1).nonzero().squeeze(-1)
    # Ties are broken by the location of the mean, not by the order of the components.
    rank = means[rows, :, 0].argsort(-1).argsort(-1)
    heavy = (log_w[rows] + 1e-9 * rank).argmax(-1)
    place = empty[rows].int().argmax(-1)
    mean, factor = means[rows, heavy], factors[rows, heavy]
    covariance = factor @ factor.mT
    spread, widest = covariance.diagonal(dim1=-1, dim2=-2).max(-1)
    along = covariance[torch.arange(len(rows), device=rows.device), widest]
    shift = math.sqrt(1 - remaining**2) * along / spread.sqrt().unsqueeze(-1)
    factor = cholesky_factor(covariance - shift.unsqueeze(-1) * shift.unsqueeze(-2))
    half = log_w[rows, heavy] - math.log(2)
    log_w, means, factors = log_w.clone(), means.clone(), factors.clone()
    for at, sign in ((heavy, 1), (place, -1)):
        log_w[rows, at] = half
        means[rows, at] = mean + sign * shift
        factors[rows, at] = factor
    return log_w, means, factors


def _flat(mixture: GaussianMixture) -> tuple[Tensor, Tensor, Tensor]:
    """Log weights, means and covariances in float64, with one batch dimension."""
    k, dim = mixture.n_components, mixture.dim
    factors = mixture.scale_tril.double().reshape(-1, k, dim, dim)
    log_weights = mixture.log_weights.double().reshape(-1, k)
    return log_weights, mixture.means.double().reshape(-1, k, dim), factors @ factors.mT


def _mixture_like(
    mixture: GaussianMixture, log_w: Tensor, means: Tensor, factors: Tensor
) -> GaussianMixture:
    """A mixture with the batch shape and dtype of another."""
    shape, dtype = mixture.batch_shape, mixture.means.dtype
    log_w, means, factors = (
        t.reshape(*shape, *t.shape[1:]).to(dtype) for t in (log_w, means, factors)
    )
    return GaussianMixture(log_w, means, factors, validate_args=False)
