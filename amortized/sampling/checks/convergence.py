r"""Convergence of Markov chains: R-hat and effective sample size.

With B the variance of the chains' means and W the mean of their variances,

.. math:: \hat R = \sqrt{(W (n - 1) / n + B) / W}, \qquad
    \mathrm{ESS} = \frac{m n}{-1 + 2 \sum_t P_t},

where :math:`P_t = \rho_{2t} + \rho_{2t+1}` is summed while it is positive, after being made
monotone; of the first negative pair half of :math:`\rho_{2t}` is added. Both use split chains of
rank-normalised draws and so remain valid for heavy tails. All functions take draws
``(chains, draws, ...)`` and keep the trailing dimensions. A quantity with a NaN draw gives NaN and
a warning.

References:
    Vehtari et al., Rank-normalization, folding, and localization: an improved R-hat (2021),
    arXiv 1903.08008. Margossian et al., Nested R-hat (2022), arXiv 2110.13017.
    Geyer, Practical Markov chain Monte Carlo (1992).
"""

import warnings

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

Draws = Num[Tensor, "chains draws *event"]
Runs = Float[Tensor, "runs *event"]
Values = Float[Tensor, "*event"]


def r_hat(draws: Draws) -> Values:
    """The larger of the rank-normalised split R-hat of the draws and of the folded draws.

    Example:
        >>> import torch
        >>> draws = torch.randn(4, 500, 2)
        >>> draws[0, :, 1] += 3.0  # one chain is elsewhere
        >>> (r_hat(draws) > 1.01).tolist()
        [False, True]
    """
    draws = _numbers(draws)
    halves = _split(draws)
    folded = (halves - halves.flatten(0, 1).quantile(0.5, dim=0)).abs()
    found = [_plain_r_hat(_normal_scores(part)) for part in (halves, folded)]
    return _where_known(torch.maximum(*found), draws)


def nested_r_hat(draws: Draws, n_superchains: int) -> Values:
    r"""R-hat for many short chains, grouped into superchains that each started from one point.

    With :math:`\bar B` the variance of superchain means and :math:`\bar W` the mean over
    superchains of (variance of chain means + mean variance within chains), it is
    :math:`\sqrt{1 + \bar B / \bar W}`. Unlike R-hat it does not require each short chain to
    estimate its mean precisely.
    """
    if n_superchains < 2 or draws.shape[0] % n_superchains:
        raise ValueError(
            f"Expected at least 2 superchains that divide {draws.shape[0]} chains; got "
            f"{n_superchains}."
        )
    draws = _numbers(draws)
    groups = draws.unflatten(0, (n_superchains, -1))
    chain_means = groups.mean(2)
    between_chains = chain_means.var(1) if groups.shape[1] > 1 else 0.0
    within = groups.var(2).mean(1) if groups.shape[2] > 1 else torch.zeros_like(chain_means[:, 0])
    between = chain_means.mean(1).var(0)
    return (1 + between / (within + between_chains).mean(0)).sqrt()


def ess_bulk(draws: Draws) -> Values:
    """Effective sample size for the centre of the distribution."""
    draws = _numbers(draws)
    return _where_known(_ess(_normal_scores(_split(draws))), draws)


def ess_tail(draws: Draws) -> Values:
    """The smaller of the effective sample sizes for the 5% and the 95% quantile."""
    draws = _numbers(draws)
    halves = _split(draws)
    ends = halves.flatten(0, 1).quantile(torch.tensor([0.05, 0.95], dtype=draws.dtype), dim=0)
    found = [_ess((halves <= end).to(draws.dtype)) for end in ends]
    return _where_known(torch.minimum(*found), draws)


def ess_mean(draws: Draws) -> Values:
    """Effective sample size for the mean, without rank normalisation."""
    draws = _numbers(draws)
    return _where_known(_ess(_split(draws)), draws)


def replicate_ess(means: Runs, variance: Values) -> Values:
    """Effective sample size from independent runs: posterior variance over variance of the means.

    Unlike an autocorrelation estimate, it is valid for samplers whose particles share ancestors.

    Args:
        means: the posterior mean estimated by each run.
        variance: the posterior variance.
    """
    return variance / means.var(0)


def _numbers(draws: Tensor) -> Tensor:
    """The draws as floating-point numbers; reports how many are NaN, which would rank highest."""
    if not draws.is_floating_point():
        draws = draws.double()
    try:
        n_missing = int(draws.isnan().sum())
    except RuntimeError:  # values cannot be inspected under torch.func.vmap
        return draws
    if n_missing:
        n_quantities = int(draws.isnan().flatten(0, 1).any(0).sum())
        warnings.warn(
            f"Expected draws without NaN; got {n_missing:,} NaN of {draws.numel():,} draws, in "
            f"{n_quantities} of {draws[0, 0].numel()} quantities, whose R-hat and ESS are NaN. "
            "Find out where they come from: such draws are not a posterior sample.",
            stacklevel=3,
        )
    return draws


def _where_known(values: Tensor, draws: Tensor) -> Tensor:
    """The values, set to NaN for quantities with a NaN draw."""
    return values.masked_fill(draws.isnan().flatten(0, 1).any(0), torch.nan)


def clustered_variance(
    values: Float[Tensor, "batch n features"],
    cluster: Int[Tensor, "batch n"],
    weights: Float[Tensor, "batch n"] | None = None,
) -> Float[Tensor, "batch features"]:
    r"""Variance of a weighted mean of draws that are dependent only within clusters.

    .. math:: \sum_c \Big( \sum_{i \in c} w_i (f_i - \bar f) \Big)^2, \qquad \sum_i w_i = 1,

    times :math:`k / (k - 1)`, where k is the effective number of clusters.

    Args:
        values: f.
        cluster: integer labels from 0, such as the first ancestor of a particle; all different for
            independent draws.
        weights: unnormalised weights; None for equal ones.
    """
    batch, n, features = values.shape
    share = values.new_full((batch, n), 1 / n) if weights is None else weights
    share = (share / share.sum(1, keepdim=True)).unsqueeze(-1)
    centred = values - (share * values).sum(1, keepdim=True)
    index, n_labels = cluster.unsqueeze(-1), int(cluster.max()) + 1
    sums = values.new_zeros(batch, n_labels, features)
    sums = sums.scatter_add(1, index.expand(-1, -1, features), share * centred)
    size = share.new_zeros(batch, n_labels, 1).scatter_add(1, index, share)
    k = size.square().sum(1).reciprocal()
    return sums.square().sum(1) * k / (k - 1).clamp(min=1e-3)


def _split(draws: Tensor) -> Tensor:
    half = draws.shape[1] // 2
    if half < 2:
        raise ValueError(f"Expected at least 4 draws per chain; got {draws.shape[1]}.")
    return torch.cat([draws[:, :half], draws[:, -half:]], 0)


def _normal_scores(draws: Tensor) -> Tensor:
    """Normal quantiles of the ranks over all chains; ties share their mean rank."""
    flat = draws.reshape(draws.shape[0] * draws.shape[1], -1).T.contiguous()
    ordered = flat.sort(-1).values
    low = torch.searchsorted(ordered, flat)
    high = torch.searchsorted(ordered, flat, right=True)
    rank = (low + high + 1) / 2
    scores = torch.special.ndtri((rank.to(draws.dtype) - 0.375) / (flat.shape[1] + 0.25))
    return scores.T.reshape(draws.shape)


def _plain_r_hat(draws: Tensor) -> Tensor:
    n = draws.shape[1]
    within = draws.var(1).mean(0)
    between = draws.mean(1).var(0)
    ratio = (within * (n - 1) / n + between) / within
    return torch.where(within == 0, torch.where(between > 0, torch.inf, 1.0), ratio).sqrt()


def _ess(draws: Tensor) -> Tensor:
    m, n = draws.shape[:2]
    centred = draws - draws.mean(1, keepdim=True)
    spectrum = torch.fft.rfft(centred, 2 * n, dim=1)
    covariance = torch.fft.irfft(spectrum.abs().square(), dim=1)[:, :n].mean(0) / n
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (draws.mean(1).var(0) if m > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    last = max(0, (n - 3) // 2)  # the last lags rest on few pairs of draws
    pairs = rho[: 2 * (last + 1)].unflatten(0, (-1, 2))
    sums = pairs.sum(1)
    positive = (sums[:last] > 0).cumprod(0)  # initial positive sequence
    total_rho = (sums[:last] * positive).cummin(0).values.sum(0) if last else 0 * sums[0]
    # Half of the first omitted pair is added; in antithetic chains that pair is the very first.
    end = positive.sum(0, keepdim=True)
    even, whole = pairs[:, 0].gather(0, end)[0], sums.gather(0, end)[0]
    rest = torch.where(whole >= 0, even, even.clamp_min(0))
    tau = (2 * total_rho - 1 + rest).clamp(min=1 / torch.tensor(m * n).log10())
    return torch.where(total == 0, float(m * n), m * n / tau)
