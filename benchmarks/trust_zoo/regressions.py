"""Regressions with links, Gaussian processes, mixtures of normals, and rows that are vectors."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.reference import (
    Array,
    Reference,
    by_importance,
    by_normals,
    by_quadrature,
    labels_of,
    line,
    linear_gaussian,
    named,
    positive,
    unit,
)

_DRAW = np.random.default_rng(10)
SEPARABLE_X = _DRAW.normal(size=(12, 3)).round(2)
SEPARABLE = (SEPARABLE_X @ [1.0, -1.0, 0.5] > 0).astype(float)
COUNTS_X = _DRAW.normal(size=(20, 5)).round(2)
COUNTS = _DRAW.poisson(np.exp(COUNTS_X @ [0.6, -0.4, 0.3, 0.0, 0.2] + 0.5)).astype(float)
LOGIT_X = _DRAW.normal(size=(40, 12)).round(2)
LOGIT = (_DRAW.random(40) < special.expit(LOGIT_X @ _DRAW.normal(size=12))).astype(float)
RIDGE_X = _DRAW.normal(size=(20, 15)).round(2)
RIDGE = (RIDGE_X[:, :4].sum(1) + 0.7 * _DRAW.normal(size=20)).round(2)
CURVE_X = np.linspace(-2, 2, 12)[:, None].round(3)
CURVE = (np.sin(1.5 * CURVE_X[:, 0]) + 0.3 * _DRAW.normal(size=12)).round(2)
FIELD_X = np.linspace(0, 3, 20)[:, None].round(3)
FIELD = (_DRAW.random(20) < special.expit(3 * np.sin(2 * FIELD_X[:, 0]))).astype(float)
GROUPS = [-1.2, 0.3, 2.9, 3.8, -0.4, 3.1, 0.8, 2.2, -0.1, 0.5, 3.5, 0.2]
PAIRS = (_DRAW.normal(size=(30, 2)) @ [[1.0, 0.5], [0.0, 0.8]] + [1.0, -2.0]).round(2)
NOISE = np.array([[1.0, 0.5], [0.5, 0.9]])
JOINT = [2.1, 4.0, 2.6, 3.3, -1.0]


def separable(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A logistic regression of classes that a plane separates."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 2.0).to_event(1))
    return pyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)


def _separable() -> Reference:
    signed = (2 * SEPARABLE - 1)[:, None] * SEPARABLE_X

    def log_joint(**w: Array) -> Array:
        weights = np.stack(list(w.values()), 1)
        total = stats.norm.logpdf(weights, 0, 2).sum(1)
        for row in signed:
            total += special.log_expit(weights @ row)
        return total

    return by_quadrature(log_joint, **{f"w_{i}": line(-13, 13, 105) for i in range(3)})


def counts(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A Poisson regression."""
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(5), 1.0).to_event(1))
    return pyro.sample("y", dist.Poisson((b + x @ w).exp()).to_event(1), obs=y)


def _counts() -> Reference:
    def log_joint(w: Array) -> Array:
        rate = np.exp(w[:, :1] + w[:, 1:] @ COUNTS_X.T)
        return stats.norm.logpdf(w).sum(1) + stats.poisson.logpmf(COUNTS, rate).sum(1)

    return by_importance(log_joint, ["b", *labels_of("w", 5)])


def logistic(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A logistic regression in twelve dimensions."""
    w = pyro.sample("w", dist.Normal(torch.zeros(12), 1.0).to_event(1))
    return pyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)


def _logistic() -> Reference:
    signed = (2 * LOGIT - 1)[:, None] * LOGIT_X

    def log_joint(w: Array) -> Array:
        return stats.norm.logpdf(w).sum(1) + special.log_expit(w @ signed.T).sum(1)

    return by_importance(log_joint, labels_of("w", 12))


def ridge(x: Tensor, y: Tensor | None = None) -> Tensor:
    """15 weights of unknown scale and unknown noise: 17 dimensions."""
    tau = pyro.sample("tau", dist.HalfNormal(1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(15), tau).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, noise).to_event(1), obs=y)


def _ridge() -> Reference:
    def log_joint(tau: Array, noise: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        prior = tau[:, None, None] ** 2 * np.eye(15)
        errors = noise[:, None, None] ** 2 * np.eye(20)
        solved = linear_gaussian(RIDGE_X, RIDGE, np.zeros(15), prior, errors)
        scales = stats.halfnorm.logpdf(tau) + stats.halfnorm.logpdf(noise)
        return scales + solved[0], named(labels_of("w", 15), *solved[1:])

    return by_quadrature(log_joint, tau=positive(0.02, 6, 121), noise=positive(0.01, 6, 121))


def process(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A Gaussian process with three unknown scales, its function integrated out."""
    length = pyro.sample("length", dist.LogNormal(0.0, 0.7))
    height = pyro.sample("height", dist.LogNormal(0.0, 0.7))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.7))
    apart = (x[:, :1] - x[:, :1].T) ** 2
    cov = height**2 * torch.exp(-apart / (2 * length**2)) + noise**2 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), cov), obs=y)


def _process() -> Reference:
    apart = (CURVE_X - CURVE_X.T) ** 2

    def log_joint(length: Array, height: Array, noise: Array) -> Array:
        cov = np.exp(-apart / (2 * length[:, None, None] ** 2)) * height[:, None, None] ** 2
        cov += noise[:, None, None] ** 2 * np.eye(len(CURVE))
        root = np.linalg.cholesky(cov)
        solved = np.linalg.solve(cov, np.broadcast_to(CURVE[:, None], (len(cov), 12, 1)))[..., 0]
        log_det = 2 * np.log(np.einsum("bii->bi", root)).sum(1)
        total = -0.5 * (solved @ CURVE + log_det + 12 * np.log(2 * np.pi))
        total += stats.lognorm.logpdf(length, 0.7) + stats.lognorm.logpdf(height, 0.7)
        return total + stats.lognorm.logpdf(noise, 0.7, scale=np.exp(-1))

    axes = {"length": positive(0.02, 30, 61), "height": positive(0.02, 30, 61)}
    return by_quadrature(log_joint, **axes, noise=positive(0.015, 8, 61))


def field(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A Gaussian process seen by classes: 20 correlated dimensions."""
    apart = (x[:, :1] - x[:, :1].T).abs()
    cov = 4 * torch.exp(-2 * apart)
    f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(20), cov))
    return pyro.sample("y", dist.Bernoulli(logits=f).to_event(1), obs=y)


def _field() -> Reference:
    prior = stats.multivariate_normal(np.zeros(20), 4 * np.exp(-2 * np.abs(FIELD_X - FIELD_X.T)))
    signs = 2 * FIELD - 1

    def log_joint(f: Array) -> Array:
        return prior.logpdf(f) + special.log_expit(signs * f).sum(1)

    return by_importance(log_joint, labels_of("f", 20), n=2_000_000)


def two_groups(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A mixture of two normals, distinguished by their order."""
    share = pyro.sample("share", dist.Beta(2.0, 2.0))
    low = pyro.sample("low", dist.Normal(0.0, 3.0))
    gap = pyro.sample("gap", dist.Gamma(2.0, 0.5))
    groups = dist.Categorical(torch.stack([share, 1 - share]))
    law = dist.MixtureSameFamily(groups, dist.Normal(torch.stack([low, low + gap]), 0.8))
    return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)


def _two_groups() -> Reference:
    def log_joint(share: Array, low: Array, gap: Array) -> Array:
        total = stats.beta.logpdf(share, 2, 2) + stats.norm.logpdf(low, 0, 3)
        total += stats.gamma.logpdf(gap, 2, scale=2)
        for reading in GROUPS:
            first = np.log(share) + stats.norm.logpdf(reading, low, 0.8)
            total += np.logaddexp(
                first, np.log1p(-share) + stats.norm.logpdf(reading, low + gap, 0.8)
            )
        return total

    axes = {"share": unit(81, 14.0), "low": line(-11, 11, 177), "gap": positive(0.002, 60, 121)}
    return by_quadrature(log_joint, **axes)


def pairs(x: Tensor, y: Tensor | None = None) -> Tensor:
    """30 rows that are vectors of two."""
    m = pyro.sample("m", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    law = dist.MultivariateNormal(m, torch.tensor(NOISE, dtype=x.dtype))
    return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)


def _pairs() -> Reference:
    design, errors = np.tile(np.eye(2), (30, 1)), np.kron(np.eye(30), NOISE)
    solved = linear_gaussian(design, PAIRS.ravel(), np.zeros(2), 9 * np.eye(2), errors)
    return by_normals([1.0], named(labels_of("m", 2), *solved[1:]), solved[0].item())


def joint_student(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Rows under one Student law, which are dependent though not correlated."""
    m = pyro.sample("m", dist.Normal(0.0, 3.0))
    root = torch.eye(len(x), dtype=x.dtype)
    law = dist.MultivariateStudentT(torch.tensor(3.0, dtype=x.dtype), m.expand(len(x)), root)
    return pyro.sample("y", law, obs=y)


def _joint_student() -> Reference:
    def log_joint(m: Array) -> Array:
        law = stats.multivariate_t(np.zeros(5), np.eye(5), df=3)
        return stats.norm.logpdf(m, 0, 3) + law.logpdf(np.array(JOINT) - m[:, None])

    return by_quadrature(log_joint, m=line(-30, 30, 4001))


ENTRIES = {
    "logistic, separable": Entry(separable, SEPARABLE, _separable, SEPARABLE_X),
    "Poisson regression": Entry(counts, COUNTS, _counts, COUNTS_X),
    "logistic 12d": Entry(logistic, LOGIT, _logistic, LOGIT_X),
    "ridge 17d": Entry(ridge, RIDGE, _ridge, RIDGE_X),
    "Gaussian process": Entry(process, CURVE, _process, CURVE_X),
    "field of classes": Entry(field, FIELD, _field, FIELD_X),
    "two groups": Entry(two_groups, GROUPS, _two_groups),
    "pairs": Entry(pairs, PAIRS, _pairs),
    "joint Student": Entry(joint_student, JOINT, _joint_student),
}
