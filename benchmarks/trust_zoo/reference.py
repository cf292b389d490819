"""What a posterior is compared with: moments, quantiles and evidence, found without the library.

Everything here is numpy and scipy. A posterior of few latents is a sum over the nodes of a grid;
one of many latents is such a sum over some of them, and normal given these. A law of one latent is
therefore a mixture of normals over the nodes, of width zero for the latents that the grid is of.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, optimize, special, stats

Array = NDArray[np.float64]
LEVELS = (0.05, 0.5, 0.95, 0.99)


class Summary(NamedTuple):
    """The law of one scalar latent.

    Attributes:
        mean: its mean.
        sd: its standard deviation.
        kurtosis: 3 for a normal. Above 10 the deviation of 1,000 draws is known to no better than
            5%, and quantiles are compared in place of moments, which may not even exist.
        quantiles: at `LEVELS`.
    """

    mean: float
    sd: float
    kurtosis: float
    quantiles: tuple[float, ...]


class Reference(NamedTuple):
    """The right answer of one program.

    Attributes:
        latents: a summary of each scalar, named as by `amortized.posterior.Posterior.summary`.
        log_evidence: log p(y | x).
        error: what half as fine a grid changes at most: of means in standard deviations, of
            standard deviations as a share, of the log evidence in nats.
        how: where the numbers come from.
    """

    latents: dict[str, Summary]
    log_evidence: float
    error: float
    how: str


class Axis(NamedTuple):
    """Nodes in one latent: their number to their values and the logarithm of their weights."""

    nodes: Callable[[int], tuple[Array, Array]]
    n: int


def line(low: float, high: float, n: int = 801) -> Axis:
    """The trapezoidal rule, which converges faster than any power where both ends are flat."""

    def nodes(n: int) -> tuple[Array, Array]:
        values = np.linspace(low, high, n)
        weights = np.full(n, (high - low) / (n - 1))
        weights[[0, -1]] /= 2
        return values, np.log(weights)

    return Axis(nodes, n)


def positive(low: float, high: float, n: int = 801) -> Axis:
    """The trapezoidal rule in the logarithm."""

    def nodes(n: int) -> tuple[Array, Array]:
        logs, weights = line(np.log(low), np.log(high), n).nodes(n)
        return np.exp(logs), weights + logs

    return Axis(nodes, n)


def stretched(middle: float, width: float, n: int = 301, reach: float = 9.0) -> Axis:
    """The trapezoidal rule in the inverse hyperbolic sine: dense in the middle, with long tails."""

    def nodes(n: int) -> tuple[Array, Array]:
        at, weights = line(-reach, reach, n).nodes(n)
        return middle + width * np.sinh(at), weights + np.log(width * np.cosh(at))

    return Axis(nodes, n)


def unit(n: int = 801, reach: float = 40.0) -> Axis:
    """The trapezoidal rule in the logit of a number between 0 and 1."""

    def nodes(n: int) -> tuple[Array, Array]:
        logits, weights = line(-reach, reach, n).nodes(n)
        jacobian = special.log_expit(logits) + special.log_expit(-logits)
        return special.expit(logits), weights + jacobian

    return Axis(nodes, n)


def pieces(*ends: float, n: int = 100) -> Axis:
    """Gauss and Legendre's rule in each piece of a line, for densities that jump or bend there."""

    def nodes(n: int) -> tuple[Array, Array]:
        at, weights = np.polynomial.legendre.leggauss(n)
        halves = np.diff(ends)[:, None] / 2
        middles = (np.array(ends[1:]) + np.array(ends[:-1]))[:, None] / 2
        return (middles + halves * at).ravel(), np.log(halves * weights).ravel()

    return Axis(nodes, n)


def points(n: int) -> Axis:
    """The integers from 0, of weight 1 each: a discrete latent."""
    return Axis(lambda _: (np.arange(n, dtype=float), np.zeros(n)), n)


Conditional = Mapping[str, tuple[Array, Array]]
Summed = tuple[dict[str, Summary], float]


def by_quadrature(
    log_joint: Callable[..., Array | tuple[Array, Conditional]],
    **axes: Axis,
) -> Reference:
    """Sums over a grid, and again over one half as fine.

    Args:
        log_joint: log of prior times likelihood at all nodes; each axis is an argument.
            Where it has further latents integrated out, also their conditional means and standard
            deviations at the nodes, by name.
        **axes: one for each latent of the grid. A latent ``w_2`` is the scalar ``w[2]``; one whose
            name ends in ``_`` belongs to no latent that the posterior has.
    """
    return finer(_sum_over_grid(log_joint, axes, 1), _sum_over_grid(log_joint, axes, 2))


def finer(fine: Summed, coarse: Summed) -> Reference:
    """What the finer of two grids says, its error what the other makes of it."""
    error = abs(fine[1] - coarse[1])
    for label, summary in fine[0].items():
        other = coarse[0][label]
        if summary.kurtosis > 10:  # moments are not compared
            width = summary.quantiles[2] - summary.quantiles[0]
            moved = np.abs(np.subtract(summary.quantiles, other.quantiles))[:3].max() / width
            error = max(error, float(moved))
        elif summary.sd > 0:
            moved = abs(summary.mean - other.mean) / summary.sd
            error = max(error, moved, abs(other.sd / summary.sd - 1))
    return Reference(fine[0], float(fine[1]), float(error), "quadrature")


def _sum_over_grid(log_joint: Callable[..., Any], axes: Mapping[str, Axis], halve: int) -> Summed:
    nodes = {name: axis.nodes((axis.n + 1) // halve) for name, axis in axes.items()}
    shape = tuple(len(values) for values, _ in nodes.values())
    grid = np.meshgrid(*(values for values, _ in nodes.values()), indexing="ij")
    weights = sum(np.meshgrid(*(weight for _, weight in nodes.values()), indexing="ij"))
    result = log_joint(**{name: each.ravel() for name, each in zip(axes, grid, strict=True)})
    log_density, conditional = result if isinstance(result, tuple) else (result, {})
    log_terms = np.nan_to_num(log_density, nan=-np.inf) + np.asarray(weights).ravel()
    log_evidence = special.logsumexp(log_terms)
    shares = np.exp(log_terms - log_evidence)
    summaries = {}
    for i, name in enumerate(axes):
        if not name.endswith("_"):
            others = tuple(j for j in range(len(shape)) if j != i)
            marginal = shares.reshape(shape).sum(others)
            summaries[_label(name)] = of_nodes(nodes[name][0], marginal)
    kept = shares > 1e-13
    for label, (mean, sd) in conditional.items():
        spread = np.broadcast_to(sd, shares.shape)[kept]
        summaries[label] = of_normals(
            shares[kept], np.broadcast_to(mean, shares.shape)[kept], spread
        )
    return summaries, float(log_evidence)


def _label(name: str) -> str:
    stem, _, index = name.rpartition("_")
    return f"{stem}[{index}]" if stem and index.isdigit() else name


def of_nodes(values: Array, shares: Array) -> Summary:
    """Summary of a law on the nodes of a grid."""
    mean = (shares * values).sum()
    centred = values - mean
    variance = (shares * centred**2).sum()
    kurtosis = (shares * centred**4).sum() / max(variance**2, 1e-300)
    below = shares.cumsum() - shares / 2
    inner = np.flatnonzero((below > 1e-9) & (below < 1 - 1e-9) & (np.diff(below, prepend=0) > 0))
    at = interpolate.PchipInterpolator(below[inner], values[inner])
    quantiles = tuple(float(at(level)) for level in LEVELS)
    return Summary(float(mean), float(np.sqrt(variance)), float(kurtosis), quantiles)


def of_normals(shares: Array, means: Array, sds: Array) -> Summary:
    """Summary of a mixture of normals."""
    mean = (shares * means).sum()
    centred, square = means - mean, sds**2
    variance = (shares * (centred**2 + square)).sum()
    fourth = (shares * (centred**4 + 6 * centred**2 * square + 3 * square**2)).sum()
    low, high = (means - 9 * sds).min() - 1e-12, (means + 9 * sds).max() + 1e-12
    width = np.maximum(sds, 1e-300)

    def quantile(level: float) -> float:
        def excess(at: float) -> float:
            return float((shares * special.ndtr((at - means) / width)).sum() - level)

        return float(optimize.brentq(excess, low, high, xtol=1e-9 * np.sqrt(variance)))

    kurtosis = float(fourth / max(variance**2, 1e-300))
    quantiles = tuple(quantile(level) for level in LEVELS)
    return Summary(float(mean), float(np.sqrt(variance)), kurtosis, quantiles)


def by_laws(laws: Mapping[str, Any], log_evidence: float, how: str = "closed form") -> Reference:
    """From scipy's distributions of the single latents."""
    summaries = {}
    for label, law in laws.items():
        mean, variance, _, excess = (float(value) for value in law.stats("mvsk"))
        kurtosis = excess + 3 if np.isfinite(excess) else np.inf
        if not np.isfinite(variance):
            mean, variance = float(law.median()), np.inf
        quantiles = tuple(float(law.ppf(level)) for level in LEVELS)
        summaries[label] = Summary(mean, float(np.sqrt(variance)), kurtosis, quantiles)
    return Reference(summaries, float(log_evidence), 0.0, how)


def by_normals(
    shares: ArrayLike, parts: Conditional, log_evidence: float, how: str = "closed form"
) -> Reference:
    """From a finite mixture of normals, the conditional means and deviations of each latent."""
    weights = np.asarray(shares, dtype=float)
    summaries = {
        label: of_normals(weights, *map(np.atleast_1d, part)) for label, part in parts.items()
    }
    return Reference(summaries, float(log_evidence), 0.0, how)


def linear_gaussian(
    design: Array, y: Array, prior_mean: Array, prior_cov: Array, noise_cov: Array
) -> tuple[Array, Array, Array]:
    """Evidence, posterior means and deviations of w in y = A w + e, for any batch in front."""
    cross = prior_cov @ design.swapaxes(-1, -2)
    covariance = design @ cross + noise_cov
    residual = y - (design @ prior_mean[..., None])[..., 0]
    gain = np.linalg.solve(covariance, cross.swapaxes(-1, -2)).swapaxes(-1, -2)
    solved = np.linalg.solve(covariance, residual[..., None])[..., 0]
    log_det = np.linalg.slogdet(covariance)[1]
    quadratic = (residual * solved).sum(-1)
    log_evidence = -0.5 * (quadratic + log_det + y.shape[-1] * np.log(2 * np.pi))
    mean = prior_mean + (gain @ residual[..., None])[..., 0]
    diagonal = np.einsum("...ii->...i", prior_cov) - (gain * cross).sum(-1)
    return log_evidence, mean, np.sqrt(diagonal.clip(0))


def named(labels: list[str], mean: Array, sd: Array) -> dict[str, tuple[Array, Array]]:
    """Means and deviations ``(..., k)`` by the names of the k latents."""
    return {label: (mean[..., i], sd[..., i]) for i, label in enumerate(labels)}


def labels_of(name: str, n: int) -> list[str]:
    """``name[0]`` to ``name[n - 1]``."""
    return [f"{name}[{i}]" for i in range(n)]


def by_importance(
    log_joint: Callable[[Array], Array], labels: list[str], n: int = 400_000
) -> Reference:
    """Weighted draws of a Student t of 8 degrees at the only mode, in many dimensions.

    Args:
        log_joint: log of prior times likelihood of ``(draws, dim)``, log-concave.
        labels: the names of the coordinates.
        n: number of draws.
    """
    found = optimize.minimize(
        lambda w: -log_joint(w[None])[0], np.zeros(len(labels)), method="BFGS"
    )
    law = stats.multivariate_t(found.x, 1.1 * found.hess_inv, df=8)
    draws = law.rvs(n, random_state=np.random.default_rng(0))
    log_weights = log_joint(draws) - law.logpdf(draws)
    total = special.logsumexp(log_weights)
    shares = np.exp(log_weights - total)
    summaries = {}
    for i, label in enumerate(labels):
        order = draws[:, i].argsort()
        summaries[label] = of_nodes(draws[order, i], shares[order])
    error = 3 * np.sqrt((shares**2).sum())  # three standard errors of a mean, in deviations
    how = f"importance sampling, {n:,} draws of which {1 / (shares**2).sum():,.0f} are effective"
    return Reference(summaries, float(total - np.log(n)), float(error), how)
