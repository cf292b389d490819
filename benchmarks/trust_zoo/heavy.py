"""Heavy tails, and ridges that run far out."""

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
    by_laws,
    by_quadrature,
    line,
    linear_gaussian,
    positive,
    stretched,
)

APART = [-6.0, -5.5, 4.0, 5.0, 5.4]
WITH_OUTLIER_X = np.array([[-1.0], [-0.6], [-0.2], [0.1], [0.5], [0.8], [1.2]])
WITH_OUTLIER = [-0.8, 0.1, 0.5, 1.4, 9.0, 2.4, 3.2]
HOURS = np.array([[0.5], [1.0], [2.0], [3.0], [4.0], [6.0]])
CONCENTRATIONS = [4.6, 4.3, 3.4, 2.9, 2.3, 1.7]
ONE = [3.0]
TWO = [0.8, -1.9]
PRODUCT = [2.2, 1.9]


def cauchy(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two clusters of Cauchy readings: two modes and the tails between and beyond."""
    m = pyro.sample("m", dist.Cauchy(0.0, 5.0))
    return pyro.sample("y", dist.Cauchy(m, 1.0).expand([len(x)]).to_event(1), obs=y)


def _cauchy() -> Reference:
    def log_joint(m: Array) -> Array:
        return stats.cauchy.logpdf(m, 0, 5) + stats.cauchy.logpdf(APART, m[:, None]).sum(1)

    return by_quadrature(log_joint, m=line(-300, 300, 60001))


def student_regression(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A line through an outlier, with Student noise of two degrees."""
    a = pyro.sample("a", dist.Normal(0.0, 5.0))
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    return pyro.sample("y", dist.StudentT(2.0, a + b * x[:, 0], scale).to_event(1), obs=y)


def _student_regression() -> Reference:
    def log_joint(a: Array, b: Array, scale: Array) -> Array:
        total = stats.norm.logpdf(a, 0, 5) + stats.norm.logpdf(b, 0, 5)
        total += stats.halfcauchy.logpdf(scale)
        for at, reading in zip(WITH_OUTLIER_X[:, 0], WITH_OUTLIER, strict=True):
            total += stats.t.logpdf(reading, 2, a + b * at, scale)
        return total

    near = {"a": stretched(1.05, 0.2, 121, 5.0), "b": stretched(1.8, 0.3, 121, 5.0)}
    return by_quadrature(log_joint, **near, scale=positive(1e-3, 1e4, 141))


def elimination(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Michaelis and Menten's elimination, nearly of first order: the ridge runs to infinity.

    The concentration c solves k log c + c = k log c0 + c0 - v t, here by Newton's steps in log c.
    """
    v = pyro.sample("v", dist.LogNormal(0.0, 1.5))
    k = pyro.sample("k", dist.LogNormal(0.0, 1.5))
    target = k * np.log(5.0) + 5.0 - v * x[:, 0]
    log_c = torch.full_like(target, np.log(5.0))
    for _ in range(15):
        log_c = log_c - (k * log_c + log_c.exp() - target) / (k + log_c.exp())
    return pyro.sample("y", dist.Normal(log_c.exp(), 0.2).to_event(1), obs=y)


def _elimination() -> Reference:
    def log_joint(v: Array, k: Array) -> Array:
        total = stats.lognorm.logpdf(v, 1.5) + stats.lognorm.logpdf(k, 1.5)
        for t, reading in zip(HOURS[:, 0], CONCENTRATIONS, strict=True):
            c = k * special.wrightomega(np.log(5 / k) + (5 - v * t) / k)
            total += stats.norm.logpdf(reading, c, 0.2)
        return total

    # The ratio v / (k + 3) is known well, k is not: the grid follows the ridge.
    def on_ridge(rate_: Array, k: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        v = rate_ * (k + 3)
        return log_joint(v, k) + np.log(k + 3), {"v": (v, np.zeros(()))}

    return by_quadrature(on_ridge, rate_=line(0.08, 0.4, 1201), k=positive(1e-4, 1e5, 801))


def one_reading(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean and precision from one reading: a t posterior of three degrees."""
    precision = pyro.sample("precision", dist.Gamma(1.0, 1.0))
    m = pyro.sample("m", dist.Normal(0.0, 2.0 * precision.rsqrt()))
    noise = precision.rsqrt()
    return pyro.sample("y", dist.Normal(m, noise).expand([len(x)]).to_event(1), obs=y)


def _one_reading() -> Reference:
    (y,), shrunk = ONE, 1 / 1.25
    b = 1 + 0.5 * y**2 * 0.25 * shrunk
    log_evidence = stats.t.logpdf(y, 2, 0, np.sqrt(5))
    laws = {
        "precision": stats.gamma(1.5, scale=1 / b),
        "m": stats.t(3, y * shrunk, np.sqrt(b / 1.5 * shrunk)),
    }
    return by_laws(laws, float(log_evidence))


def scale_of_two(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A scale from two readings under a half Cauchy: a tail like s^-4."""
    s = pyro.sample("s", dist.HalfCauchy(5.0))
    return pyro.sample("y", dist.Normal(0.0, s).expand([len(x)]).to_event(1), obs=y)


def _scale_of_two() -> Reference:
    def log_joint(s: Array) -> Array:
        likelihood = stats.norm.logpdf(TWO, 0, s[:, None]).sum(1)
        return stats.halfcauchy.logpdf(s, 0, 5) + likelihood

    return by_quadrature(log_joint, s=positive(1e-2, 1e6, 4001))


def product(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Only a product is known: two thin hyperbolas."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    return pyro.sample("y", dist.Normal(a * b, 0.2).expand([len(x)]).to_event(1), obs=y)


def _product() -> Reference:
    def log_joint(a: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        design = np.repeat(a[:, None, None], 2, axis=1)
        known = np.array(PRODUCT), np.zeros(1), 9 * np.eye(1), 0.04 * np.eye(2)
        log_evidence, mean, sd = linear_gaussian(design, *known)
        return stats.norm.logpdf(a, 0, 3) + log_evidence, {"b": (mean[:, 0], sd[:, 0])}

    return by_quadrature(log_joint, a=line(-20, 20, 4001))


ENTRIES = {
    "Cauchy": Entry(cauchy, APART, _cauchy),
    "Student regression": Entry(
        student_regression, WITH_OUTLIER, _student_regression, WITH_OUTLIER_X
    ),
    "elimination": Entry(elimination, CONCENTRATIONS, _elimination, HOURS),
    "one reading": Entry(one_reading, ONE, _one_reading),
    "scale of two": Entry(scale_of_two, TWO, _scale_of_two),
    "product": Entry(product, PRODUCT, _product),
}
