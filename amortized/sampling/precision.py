r"""How precise are means and standard deviations of draws, of whatever kind the draws are?

Chains depend along themselves, and their effective number comes from autocorrelation. Particles of
one ancestor and draws of one island depend on each other: with clusters c and weights w,

.. math:: \mathrm{MCSE}(\bar f)^2 = \sum_c \Big( \sum_{i \in c} w_i (f_i - \bar f) \Big)^2, \qquad
    \mathrm{ESS} = \mathrm{Var}(f) / \mathrm{MCSE}(\bar f)^2 .

The relative error of a standard deviation s is that of the mean of
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

from amortized.sampling.convergence import (
    clustered_variance,
    ess_bulk,
    ess_mean,
    ess_tail,
    nested_r_hat,
    r_hat,
)

_LONG = 40  # draws of a chain that autocorrelation is estimated from
_GROUPS = 8  # of short chains, whose means are compared


class Precision(NamedTuple):
    """Of each scalar, ``(batch, features)``; NaN where a draw is not finite.

    Attributes:
        ess_bulk: effective number of draws for the centre.
        ess_tail: the same for the 5% and the 95% quantile, the lesser of the two.
        mcse_mean: standard error of the mean.
        mcse_sd: standard error of the standard deviation.
        r_hat: split and folded for chains, nested and folded for groups of short chains and of
            particles, of the two halves for independent draws; NaN for weighted draws.
    """

    ess_bulk: Float[Tensor, "batch features"]
    ess_tail: Float[Tensor, "batch features"]
    mcse_mean: Float[Tensor, "batch features"]
    mcse_sd: Float[Tensor, "batch features"]
    r_hat: Float[Tensor, "batch features"]


def precision(
    values: Float[Tensor, "batch n features"],
    log_weights: Float[Tensor, "batch n"] | None = None,
    n_chains: int = 1,
    cluster: Int[Tensor, "batch n"] | None = None,
) -> Precision:
    """The precision of draws.

    Args:
        values: the draws of each dataset, chain after chain.
        log_weights: of the draws; None for equal weights.
        n_chains: how many chains the draws are made of.
        cluster: draws with equal labels depend on each other; None where they are chains.

    Example:
        >>> import torch
        >>> of_draws = precision(torch.randn(1, 4000, 1), n_chains=4)
        >>> bool(of_draws.ess_bulk > 3000), bool(of_draws.mcse_mean < 0.02)
        (True, True)
    """
    lost = ~values.isfinite().all(1)
    values = values.double().nan_to_num(0.0, 0.0, 0.0)
    n = values.shape[1]
    if log_weights is None and cluster is None and n // n_chains >= _LONG:
        found = _of_chains(values, n_chains)
    else:
        if cluster is None and log_weights is None:  # each short chain is a cluster
            cluster = torch.arange(n) // max(1, n // n_chains)
        elif cluster is None:
            cluster = torch.arange(n)
        found = _of_clusters(values, log_weights, cluster.expand(len(values), -1), n_chains)
    return Precision(*(part.masked_fill(lost, torch.nan) for part in found))


def _of_chains(values: Tensor, n_chains: int) -> Precision:
    chains = values.unflatten(1, (n_chains, -1)).movedim(0, 2)  # (chains, draws, batch, features)
    spread = _spread_feature(values).unflatten(1, (n_chains, -1)).movedim(0, 2)
    sd = values.std(1)
    return Precision(
        ess_bulk(chains),
        ess_tail(chains),
        sd / ess_mean(chains).sqrt(),
        sd * spread.flatten(0, 1).std(0) / ess_mean(spread).sqrt(),
        r_hat(chains),
    )


def _of_clusters(
    values: Tensor, log_weights: Tensor | None, cluster: Tensor, n_chains: int
) -> Precision:
    batch, n, _ = values.shape
    weights = values.new_full((batch, n), 1 / n) if log_weights is None else log_weights.softmax(-1)
    mean = (weights.unsqueeze(-1) * values).sum(1, keepdim=True)
    variance = (weights.unsqueeze(-1) * (values - mean).square()).sum(1)
    spread = _spread_feature(values, weights)
    ends = _tail_features(values, weights)
    of_mean, of_spread, of_ends = (
        clustered_variance(feature, cluster, weights) for feature in (values, spread, ends)
    )
    share = (weights.unsqueeze(-1) * ends).sum(1)
    tails = (share * (1 - share) / of_ends.clamp(min=1e-300)).unflatten(-1, (2, -1)).amin(1)
    return Precision(
        (variance / of_mean.clamp(min=1e-300)).clamp(max=n),
        tails.clamp(max=n),
        of_mean.sqrt(),
        variance.sqrt() * of_spread.sqrt(),
        _r_hat_of_groups(values, spread, cluster, log_weights),
    )


def _spread_feature(values: Tensor, weights: Tensor | None = None) -> Tensor:
    """``(f - mean)^2 / 2 sd^2``, whose mean has the relative standard error of the deviation."""
    share = 1 / values.shape[1] if weights is None else weights.unsqueeze(-1)
    squares = (values - (share * values).sum(1, keepdim=True)).square()
    return 0.5 * squares / (share * squares).sum(1, keepdim=True).clamp(min=1e-300)


def _tail_features(values: Tensor, weights: Tensor) -> Tensor:
    """Whether a draw lies below the 5% and below the 95% quantile, ``(batch, n, 2 features)``."""
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
    """Nested R-hat of groups of clusters, the larger of the draws' and of their spread's."""
    if log_weights is not None or values.shape[1] < 4 * _GROUPS:
        return values.new_full(values[:, 0].shape, torch.nan)
    n = values.shape[1] // _GROUPS * _GROUPS
    order = cluster.argsort(dim=1, stable=True)[:, :n]  # whole clusters side by side
    size = n // _GROUPS
    found = []
    for feature in (values, spread):
        ordered = feature.gather(1, order.unsqueeze(-1).expand(-1, -1, feature.shape[-1]))
        groups = ordered.unflatten(1, (_GROUPS, size)).movedim(0, 2)
        found.append(nested_r_hat(groups, _GROUPS))
    return torch.maximum(*found).nan_to_num(1.0)
