r"""Precision of estimated means and standard deviations, for any kind of draws.

Within a chain the effective sample size follows from the autocorrelation. Particles that share an
ancestor and draws from one island are dependent: with clusters c and weights w,

.. math:: \mathrm{MCSE}(\bar f)^2 = \sum_c \Big( \sum_{i \in c} w_i (f_i - \bar f) \Big)^2, \qquad
    \mathrm{ESS} = \mathrm{Var}(f) / \mathrm{MCSE}(\bar f)^2 .

The relative error of a standard deviation s is the error of the mean of
:math:`(f - \bar f)^2 / 2 s^2`.

References:
    Vehtari et al. (2021), arXiv 1903.08008. Margossian et al., Nested R-hat (2022), arXiv
    2110.13017. Lee and Whiteley, Variance estimation in the particle filter (2018), arXiv
    1509.00394.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.sampling.checks.convergence import (
    clustered_variance,
    ess_bulk,
    ess_mean,
    ess_tail,
    nested_r_hat,
    r_hat,
)

Values = Float[Tensor, "batch n features"]
LogWeights = Float[Tensor, "batch n"] | None
Clusters = Int[Tensor, "batch n"] | None
_LONG = 40  # draws per chain from which on the autocorrelation can be estimated
_GROUPS = 8  # of short chains, whose means are compared


class Precision(NamedTuple):
    """Precision of each scalar, ``(batch, features)``; NaN where a draw is not finite.

    Attributes:
        ess_bulk: effective sample size for the centre.
        ess_tail: the smaller of the effective sample sizes for the 5% and the 95% quantile.
        mcse_mean: standard error of the mean.
        mcse_sd: standard error of the standard deviation.
        r_hat: the larger of ordinary and folded R-hat: split for chains, nested for groups of short
            chains or particles, between the two halves for independent draws; NaN if weighted.
    """

    ess_bulk: Float[Tensor, "batch features"]
    ess_tail: Float[Tensor, "batch features"]
    mcse_mean: Float[Tensor, "batch features"]
    mcse_sd: Float[Tensor, "batch features"]
    r_hat: Float[Tensor, "batch features"]


class Errors(NamedTuple):
    """Standard errors of a mean and of a standard deviation, ``(batch, features)``."""

    mean: Float[Tensor, "batch features"]
    sd: Float[Tensor, "batch features"]


def standard_errors(
    values: Values, log_weights: LogWeights = None, n_chains: int = 1, cluster: Clusters = None
) -> Errors:
    """Computes the standard errors only, with the arguments of `precision`."""
    weights = _weights(values, log_weights)
    spread = _spread_feature(values, weights)
    sd = (weights.unsqueeze(-1) * (values - _mean(values, weights)).square()).sum(1).sqrt()
    if log_weights is None and cluster is None and values.shape[1] // n_chains >= _LONG:
        of_mean, of_spread = (
            (feature.var(1) / ess_mean(_chains(feature, n_chains))).sqrt()
            for feature in (values, spread)
        )
    else:
        labels = _clusters(values, log_weights, n_chains, cluster)
        of_mean, of_spread = (
            clustered_variance(feature, labels, weights).sqrt() for feature in (values, spread)
        )
    return Errors(of_mean, sd * of_spread)


def precision(
    values: Values, log_weights: LogWeights = None, n_chains: int = 1, cluster: Clusters = None
) -> Precision:
    """Estimates the precision of draws.

    Args:
        values: the draws of each dataset, one chain after another.
        log_weights: log weights of the draws; None for equal weights.
        n_chains: number of chains that the draws consist of.
        cluster: draws with the same label are dependent; None for chains.

    Example:
        >>> import torch
        >>> of_draws = precision(torch.randn(1, 4000, 1), n_chains=4)
        >>> bool(of_draws.ess_bulk > 3000), bool(of_draws.mcse_mean < 0.02)
        (True, True)
    """
    lost = ~values.isfinite().all(1)
    values = values.double().nan_to_num(0.0, 0.0, 0.0)
    errors = standard_errors(values, log_weights, n_chains, cluster)
    if log_weights is None and cluster is None and values.shape[1] // n_chains >= _LONG:
        chains = _chains(values, n_chains)
        effective = ess_bulk(chains), ess_tail(chains), r_hat(chains)
    else:
        labels = _clusters(values, log_weights, n_chains, cluster)
        effective = _of_clusters(values, log_weights, labels, errors)
    bulk, tail, agreement = effective
    parts = (bulk, tail, errors.mean, errors.sd, agreement)
    return Precision(*(part.masked_fill(lost, torch.nan) for part in parts))


def _weights(values: Tensor, log_weights: Tensor | None) -> Float[Tensor, "batch n"]:
    if log_weights is not None:
        return log_weights.softmax(-1)
    return values.new_full(values.shape[:2], 1 / values.shape[1])


def _mean(values: Tensor, weights: Tensor) -> Float[Tensor, "batch 1 features"]:
    return (weights.unsqueeze(-1) * values).sum(1, keepdim=True)


def _chains(values: Tensor, n_chains: int) -> Float[Tensor, "chains draws batch features"]:
    return values.unflatten(1, (n_chains, -1)).movedim(0, 2)


def _clusters(
    values: Tensor, log_weights: Tensor | None, n_chains: int, cluster: Tensor | None
) -> Int[Tensor, "batch n"]:
    """The given labels, or by default one per weighted draw and one per short chain."""
    n = values.shape[1]
    if cluster is None:
        length = 1 if log_weights is not None else max(1, n // n_chains)
        cluster = torch.arange(n) // length
    return cluster.expand(len(values), -1)


def _of_clusters(
    values: Tensor, log_weights: Tensor | None, cluster: Tensor, errors: Errors
) -> tuple[Tensor, Tensor, Tensor]:
    """Effective sample sizes for the centre and the tails, and nested R-hat."""
    n, weights = values.shape[1], _weights(values, log_weights)
    variance = (weights.unsqueeze(-1) * (values - _mean(values, weights)).square()).sum(1)
    bulk = (variance / errors.mean.square().clamp(min=1e-300)).clamp(max=n)
    ends = _tail_features(values, weights)
    share = _mean(ends, weights)[:, 0]
    of_ends = clustered_variance(ends, cluster, weights)
    tails = (share * (1 - share) / of_ends.clamp(min=1e-300)).unflatten(-1, (2, -1)).amin(1)
    agreement = _r_hat_of_groups(values, _spread_feature(values, weights), cluster, log_weights)
    return bulk, tails.clamp(max=n), agreement


def _spread_feature(values: Tensor, weights: Tensor) -> Tensor:
    """``(f - mean)^2 / 2 sd^2``; the error of its mean is the relative error of the deviation."""
    squares = (values - _mean(values, weights)).square()
    return 0.5 * squares / _mean(squares, weights).clamp(min=1e-300)


def _tail_features(values: Tensor, weights: Tensor) -> Tensor:
    """Indicators of draws below the 5% and the 95% quantile, ``(batch, n, 2 features)``."""
    ordered, order = values.sort(1)
    level = weights.unsqueeze(-1).expand_as(values).gather(1, order).cumsum(1)
    parts = []
    for quantile in (0.05, 0.95):
        at = (level < quantile).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
        parts.append((values <= ordered.gather(1, at)).to(values.dtype))
    return torch.cat(parts, -1)


def _r_hat_of_groups(
    values: Tensor, spread: Tensor, cluster: Tensor, log_weights: Tensor | None
) -> Tensor:
    """The larger nested R-hat over groups of clusters, for the draws and the folded draws."""
    if log_weights is not None or values.shape[1] < 4 * _GROUPS:
        return values.new_full(values[:, 0].shape, torch.nan)
    n = values.shape[1] // _GROUPS * _GROUPS
    order = cluster.argsort(dim=1, stable=True)[:, :n]  # keeps each cluster contiguous
    size = n // _GROUPS
    found = []
    for feature in (values, spread):
        ordered = feature.gather(1, order.unsqueeze(-1).expand(-1, -1, feature.shape[-1]))
        groups = ordered.unflatten(1, (_GROUPS, size)).movedim(0, 2)
        found.append(nested_r_hat(groups, _GROUPS))
    return torch.maximum(*found).nan_to_num(1.0)
