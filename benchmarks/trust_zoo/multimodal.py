"""Separate modes: of unequal masses, of unequal widths, of equal labels, and a minor one nearby."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.reference import Array, Reference, by_normals, by_quadrature, line, pieces

SIZES = [4.0, 4.3, 3.8]
CUBIC = [2.52, 2.41, 2.6, 2.47, 2.55]
TIMES = np.array([[0.0], [0.4], [0.9], [1.1], [1.9], [2.4], [2.8]])
WAVE = [0.1, 0.8, 0.3, -0.1, -0.2, 0.9, -0.6]
TWO_GROUPS = [-2.3, -1.6, 2.9, -2.2, 2.1, -1.1, -2.9, 3.3, -1.8, 2.6]
THREE_GROUPS = [-4.1, -3.6, 0.3, 4.4, -0.5, 3.7, 4.1, -4.6, 0.1, 5.0, 3.9, -3.2]
ORIGIN = [0.0, 0.0]
TEN = [0.0] * 10


def sign(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Readings of a size: two far modes of masses .29 and .71."""
    m = pyro.sample("m", dist.Normal(1.0, 3.0))
    return pyro.sample("y", dist.Normal(m.abs(), 0.5).expand([len(x)]).to_event(1), obs=y)


def _sign() -> Reference:
    def log_joint(m: Array) -> Array:
        likelihood = stats.norm.logpdf(np.array(SIZES), np.abs(m)[:, None], 0.5).sum(1)
        return stats.norm.logpdf(m, 1, 3) + likelihood

    return by_quadrature(log_joint, m=pieces(-8, 0, 8, n=200))


def minor_mode(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The middle of the prior is a mode of mass e^-60."""
    a = pyro.sample("a", dist.Normal(-1.0, 1.0))
    return pyro.sample("y", dist.Normal(a**3 - 3 * a, 0.1).expand([len(x)]).to_event(1), obs=y)


def _minor_mode() -> Reference:
    def log_joint(a: Array) -> Array:
        likelihood = stats.norm.logpdf(np.array(CUBIC), (a**3 - 3 * a)[:, None], 0.1).sum(1)
        return stats.norm.logpdf(a, -1, 1) + likelihood

    return by_quadrature(log_joint, a=pieces(-3, 0, 1.8, 2.0, 2.2, 2.4, 4, n=200))


def frequency(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A dozen frequencies explain a short wave."""
    f = pyro.sample("f", dist.Uniform(0.0, 20.0))
    return pyro.sample("y", dist.Normal(torch.sin(f * x[:, 0]), 0.4).to_event(1), obs=y)


def _frequency() -> Reference:
    def log_joint(f: Array) -> Array:
        waves = np.sin(f[:, None] * TIMES[:, 0])
        return -np.log(20) + stats.norm.logpdf(np.array(WAVE), waves, 0.4).sum(1)

    return by_quadrature(log_joint, f=pieces(*np.linspace(0, 20, 21)))


def _alike(x: Tensor, y: Tensor | None, n_groups: int) -> Tensor:
    m = pyro.sample("m", dist.Normal(torch.zeros(n_groups), 4.0).to_event(1))
    groups = dist.Categorical(torch.ones(n_groups) / n_groups)
    law = dist.MixtureSameFamily(groups, dist.Normal(m, 1.0))
    return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)


def two_labels(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two groups without labels."""
    return _alike(x, y, 2)


def three_labels(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Three groups without labels: six modes."""
    return _alike(x, y, 3)


def _labels(data: list[float], n_groups: int, n: int) -> Reference:
    def log_joint(**m: Array) -> Array:
        means = np.stack(list(m.values()), 1)
        total = stats.norm.logpdf(means, 0, 4).sum(1)
        for reading in data:
            total += special.logsumexp(stats.norm.logpdf(reading, means), 1) - np.log(n_groups)
        return total

    return by_quadrature(log_joint, **{f"m_{i}": line(-12, 12, n) for i in range(n_groups)})


def spike_and_slab(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Half of the mass in a spike of a hundredth of the area."""
    at = pyro.sample("at", dist.Uniform(-10 * torch.ones(2), 10.0).to_event(1))
    widths = torch.tensor([[1.0], [0.1]])
    parts = dist.Independent(dist.Normal(at.expand(2, 2), widths), 1)
    law = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), parts)
    return pyro.sample("y", law, obs=y)


def _spike_and_slab() -> Reference:
    part = (np.zeros(2), np.array([1.0, 0.1]))  # the box ends ten deviations away
    return by_normals([0.5, 0.5], {"at[0]": part, "at[1]": part}, -np.log(400))


def ten_dimensions(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two modes of unequal width and mass, 19 apart in ten dimensions."""
    at = pyro.sample("at", dist.Normal(torch.zeros(10), 2.0).to_event(1))
    shifts = torch.tensor([[3.0], [-3.0]])
    parts = dist.Independent(dist.Normal(at + shifts, torch.tensor([[0.7], [0.5]])), 1)
    law = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.7, 0.3])), parts)
    return pyro.sample("y", law, obs=y)


def _ten_dimensions() -> Reference:
    shifts, widths = np.array([3.0, -3.0]), np.array([0.7, 0.5])
    logs = np.log([0.7, 0.3]) + 10 * stats.norm.logpdf(0, shifts, np.hypot(2, widths))
    variances = 1 / (1 / 4 + 1 / widths**2)
    part = (-shifts / widths**2 * variances, np.sqrt(variances))
    parts = {f"at[{i}]": part for i in range(10)}
    return by_normals(special.softmax(logs), parts, float(special.logsumexp(logs)))


ENTRIES = {
    "sign": Entry(sign, SIZES, _sign),
    "minor mode": Entry(minor_mode, CUBIC, _minor_mode),
    "frequency": Entry(frequency, WAVE, _frequency, TIMES),
    "two labels": Entry(two_labels, TWO_GROUPS, lambda: _labels(TWO_GROUPS, 2, 481)),
    "three labels": Entry(three_labels, THREE_GROUPS, lambda: _labels(THREE_GROUPS, 3, 121)),
    "spike and slab": Entry(spike_and_slab, ORIGIN, _spike_and_slab),
    "two modes 10d": Entry(ten_dimensions, TEN, _ten_dimensions),
}
