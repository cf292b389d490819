"""Constraints, supports that move with a latent, caps, cuts and branches."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.reference import Array, Reference, by_quadrature, line, pieces, positive

GROUPS = np.array([[0.0], [1.0]] * 4)
ORDERED = [1.0, 0.8, 1.2, 1.1, 0.7, 0.9, 1.3, 1.0]
BRANCH = [5.5, 5.9, 4.8, 5.2]
PARETO = [2.5, 3.0, 4.0, 2.2]
DELAYS = [3.4, 2.9, 4.1, 3.0]


def _normal(y: object, loc: Array | float, scale: Array | float) -> Array:
    """Log likelihood of independent normals at nodes ``(nodes,)``."""
    at = np.atleast_1d(loc)[:, None] + 0.0 * np.atleast_1d(scale)[:, None]
    return stats.norm(at, np.atleast_1d(scale)[:, None]).logpdf(np.asarray(y)).sum(1)


def order(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A constraint by minus infinity."""
    m1 = pyro.sample("m1", dist.Normal(0.0, 5.0))
    m2 = pyro.sample("m2", dist.Normal(0.0, 5.0))
    pyro.factor("order", torch.where(m1 < m2, 0.0, -math.inf))
    g = x[:, 0]
    return pyro.sample("y", dist.Normal(m1 * (1 - g) + m2 * g, 2.0).to_event(1), obs=y)


def _order() -> Reference:
    def log_joint(m1: Array, gap_: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        m2 = m1 + gap_
        prior = stats.norm.logpdf(m1, 0, 5) + stats.norm.logpdf(m2, 0, 5)
        likelihood = _normal(ORDERED[::2], m1, 2.0) + _normal(ORDERED[1::2], m2, 2.0)
        return prior + likelihood, {"m2": (m2, np.zeros(()))}

    return by_quadrature(log_joint, m1=line(-9, 9), gap_=pieces(0, 2, 5, 14, n=60))


def box(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A likelihood whose support moves."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Uniform(m - 1, m + 1).expand([len(x)]).to_event(1), obs=y)


def _box() -> Reference:
    return by_quadrature(lambda m: stats.norm.logpdf(m) - 2 * np.log(2), m=pieces(-0.5, 1.0))


def pareto_minimum(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The least value of a Pareto."""
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    return pyro.sample("y", dist.Pareto(s, 3.0).expand([len(x)]).to_event(1), obs=y)


def _pareto_minimum() -> Reference:
    def log_joint(s: Array) -> Array:
        logs = np.log(PARETO).sum()
        return stats.lognorm(1.0).logpdf(s) + 4 * np.log(3) + 12 * np.log(s) - 4 * logs

    return by_quadrature(log_joint, s=pieces(1e-9, 0.5, 1.0, 2.2))


def shifted_waits(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Exponential waits from an unknown begin, by an affine map."""
    begin = pyro.sample("begin", dist.Normal(0.0, 5.0))
    waits = dist.TransformedDistribution(
        dist.Exponential(torch.ones(len(x))),
        [torch.distributions.transforms.AffineTransform(begin, 1.0)],
    )
    return pyro.sample("y", waits.to_event(1), obs=y)


def _shifted_waits() -> Reference:
    total = sum(DELAYS)
    return by_quadrature(
        lambda begin: stats.norm.logpdf(begin, 0, 5) - total + 4 * begin,
        begin=pieces(-8, -2, 1, 2.9),
    )


def capped_rate(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A rate that is capped just above the data: beyond the cap the prior is the posterior."""
    rate = pyro.sample("rate", dist.LogNormal(1.0, 1.0))
    counts = dist.Poisson(rate.clamp(max=5.0)).expand([len(x)])
    return pyro.sample("y", counts.to_event(1), obs=y)


COUNTS = [4.0, 6.0, 5.0]


def _capped_rate() -> Reference:
    def log_joint(rate: Array) -> Array:
        likelihood = stats.poisson(np.minimum(rate, 5)[:, None]).logpmf(COUNTS).sum(1)
        return stats.lognorm(1.0, scale=np.e).logpdf(rate) + likelihood

    return by_quadrature(log_joint, rate=pieces(1e-9, 2, 5, 10, 20, 60, 200, 1500, n=200))


def clipped_probability(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A linear probability, cut at .02 and .98."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    chance = (0.5 + slope * x[:, 0]).clamp(0.02, 0.98)
    return pyro.sample("y", dist.Bernoulli(chance).to_event(1), obs=y)


CLIPPED_X = np.array([[-1.0], [-0.5], [0.3], [0.6], [1.0], [1.5]])
CLIPPED_Y = [0.0, 0.0, 1.0, 1.0, 1.0, 1.0]


def _clipped_probability() -> Reference:
    def log_joint(slope: Array) -> Array:
        chance = np.clip(0.5 + slope[:, None] * CLIPPED_X[:, 0], 0.02, 0.98)
        return stats.norm.logpdf(slope) + stats.bernoulli(chance).logpmf(CLIPPED_Y).sum(1)

    bends = sorted({s * 0.48 / abs(each) for each in CLIPPED_X[:, 0] for s in (-1, 1)})
    return by_quadrature(log_joint, slope=pieces(-10, *bends, 10))


def branch(x: Tensor, y: Tensor | None = None) -> Tensor:
    """An if on a latent's value."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    loc = a if a < 1.5 else 1.5 + 4 * (a - 1.5)
    return pyro.sample("y", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=y)


def bent_line(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The same by torch.where."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    loc = torch.where(a < 1.5, a, 1.5 + 4 * (a - 1.5))
    return pyro.sample("y", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=y)


def _branch() -> Reference:
    def log_joint(a: Array) -> Array:
        loc = np.where(a < 1.5, a, 1.5 + 4 * (a - 1.5))
        return stats.norm.logpdf(a, 0, 3) + _normal(BRANCH, loc, 1.0)

    return by_quadrature(log_joint, a=pieces(-10, 0, 1.5, 4, 8, n=200))


def positive_mean(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A mean that must be positive, and data that are not: all mass is at the end."""
    m = pyro.sample("m", dist.HalfNormal(2.0))
    return pyro.sample("y", dist.Normal(m, 1.0).expand([len(x)]).to_event(1), obs=y)


NEGATIVE = [-1.2, -0.8, -2.0, -0.4]


def _positive_mean() -> Reference:
    return by_quadrature(
        lambda m: stats.halfnorm.logpdf(m, 0, 2) + _normal(NEGATIVE, m, 1.0), m=pieces(0, 1, 6)
    )


def nested_intervals(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The support of one latent begins at another."""
    a = pyro.sample("a", dist.Uniform(0.0, 1.0))
    b = pyro.sample("b", dist.Uniform(a, 1.0))
    return pyro.sample("y", dist.Normal(b - a, 0.2).expand([len(x)]).to_event(1), obs=y)


LENGTHS = [0.1, 0.25, 0.05]


def _nested_intervals() -> Reference:
    def log_joint(a: Array, share_: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        b = a + share_ * (1 - a)
        return _normal(LENGTHS, b - a, 0.2), {"b": (b, np.zeros(()))}

    return by_quadrature(log_joint, a=pieces(0, 0.9, 1, n=80), share_=pieces(0, 0.3, 1, n=80))


def disc(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A disc cut out of a square."""
    a = pyro.sample("a", dist.Uniform(-1.0, 1.0))
    b = pyro.sample("b", dist.Uniform(-1.0, 1.0))
    pyro.factor("inside", torch.where(a**2 + b**2 < 1, 0.0, -math.inf))
    return pyro.sample("y", dist.Normal(a + b, 0.5).expand([len(x)]).to_event(1), obs=y)


def _disc() -> Reference:
    def log_joint(radius_: Array, angle_: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        a, b = radius_ * np.cos(angle_), radius_ * np.sin(angle_)
        zero = np.zeros(())
        density = np.log(radius_ / 4) + _normal([1.5, 1.1], a + b, 0.5)
        return density, {"a": (a, zero), "b": (b, zero)}

    return by_quadrature(log_joint, radius_=pieces(0, 1, n=60), angle_=line(-np.pi, np.pi, 401))


def far_penalty(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A term that is nothing where the prior has its mass, and steep where the data are."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", -20 * (m - 3.5).clamp(min=0.0) ** 2)
    return pyro.sample("y", dist.Normal(m, 1.0).expand([len(x)]).to_event(1), obs=y)


HIGH = [6.1, 5.7, 6.4, 5.9, 6.2]


def _far_penalty() -> Reference:
    def log_joint(m: Array) -> Array:
        return stats.norm.logpdf(m) - 20 * np.maximum(m - 3.5, 0) ** 2 + _normal(HIGH, m, 1.0)

    return by_quadrature(log_joint, m=pieces(-2, 2, 3.5, 5, 9))


def binned(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Normal readings of which only the bin is known."""
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    below = dist.Normal(m, s).cdf(torch.tensor([0.0, 2.0, 4.0]))
    ends = torch.cat([torch.zeros(1), below, torch.ones(1)])
    bins = dist.Categorical(ends.diff().clamp(min=1e-300)).expand([len(x)])
    return pyro.sample("y", bins.to_event(1), obs=y)


BINS = [1.0, 1.0, 2.0, 1.0, 0.0, 1.0, 2.0]


def _binned() -> Reference:
    def log_joint(m: Array, s: Array) -> Array:
        below = stats.norm(m[:, None], s[:, None]).cdf(np.array([-np.inf, 0.0, 2.0, 4.0, np.inf]))
        shares = np.diff(below).clip(1e-300)
        likelihood = np.log(shares)[:, np.array(BINS, dtype=int)].sum(1)
        return stats.norm.logpdf(m, 0, 5) + stats.lognorm(1.0).logpdf(s) + likelihood

    return by_quadrature(log_joint, m=line(-30, 30, 601), s=positive(1e-3, 100, 401))


ENTRIES = {
    "order": Entry(order, ORDERED, _order, GROUPS),
    "box": Entry(box, [0.0, 0.5], _box),
    "Pareto minimum": Entry(pareto_minimum, PARETO, _pareto_minimum),
    "shifted waits": Entry(shifted_waits, DELAYS, _shifted_waits),
    "capped rate": Entry(capped_rate, COUNTS, _capped_rate),
    "clipped probability": Entry(clipped_probability, CLIPPED_Y, _clipped_probability, CLIPPED_X),
    "branch": Entry(branch, BRANCH, _branch),
    "bent line": Entry(bent_line, BRANCH, _branch),
    "positive mean": Entry(positive_mean, NEGATIVE, _positive_mean),
    "nested intervals": Entry(nested_intervals, LENGTHS, _nested_intervals),
    "disc": Entry(disc, [1.5, 1.1], _disc),
    "far penalty": Entry(far_penalty, HIGH, _far_penalty),
    "binned": Entry(binned, BINS, _binned),
}
