"""Discrete latents, which `infer` sums out: the references enumerate them or run the chain."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.reference import Array, Reference, by_normals, by_quadrature, line, unit

FLAGS = [1.0, 1.0, 0.0]
SHIFTED = [2.1, 1.5, 2.4]
WITH_OUTLIERS = [0.4, 1.3, 0.9, 14.0, 0.6, 1.1, -9.0, 0.8]
CHAIN = [0.3, -0.5, 0.8, 2.4, 1.7, 2.2, 1.2, 0.1]


def two(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two discrete latents that broadcast against the rows, and nothing else."""
    a = pyro.sample("a", dist.Bernoulli(0.3))
    b = pyro.sample("b", dist.Bernoulli(0.2 + 0.6 * a))
    chance = 0.1 + 0.8 * b * torch.ones(len(x))
    return pyro.sample("y", dist.Bernoulli(chance).to_event(1), obs=y)


def _two() -> Reference:
    b = 0.7 * 0.2 + 0.3 * 0.8
    return by_normals([1.0], {}, np.log(b * 0.9**2 * 0.1 + (1 - b) * 0.1**2 * 0.9), "enumeration")


def switch(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A discrete shift of a mean: the mean is a mixture of two normals."""
    m = pyro.sample("m", dist.Normal(0.0, 2.0))
    on = pyro.sample("on", dist.Bernoulli(0.3))
    loc = m + 4 * on * torch.ones(len(x))
    return pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)


def _switch() -> Reference:
    y = np.array(SHIFTED)
    cov = np.eye(3) + 4 * np.ones((3, 3))
    logs = [
        np.log(p) + stats.multivariate_normal(np.full(3, s), cov).logpdf(y)
        for p, s in ((0.7, 0.0), (0.3, 4.0))
    ]
    precision = 3 + 0.25
    means = (y.sum() - 3 * np.array([0.0, 4.0])) / precision
    shares = special.softmax(logs)
    parts = {"m": (means, np.full(2, precision**-0.5))}
    return by_normals(shares, parts, float(special.logsumexp(logs)), "enumeration")


def outliers(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A flag for each row says whether it is an outlier."""
    m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(x)):
        wild = pyro.sample("wild", dist.Bernoulli(0.2))
        return pyro.sample("y", dist.Normal(m, 1.0 + 9.0 * wild), obs=y)


def _outliers() -> Reference:
    def log_joint(m: Array) -> Array:
        off = np.array(WITH_OUTLIERS) - m[:, None]
        parts = np.log(0.8) + stats.norm.logpdf(off), np.log(0.2) + stats.norm.logpdf(off, 0, 10)
        return stats.norm.logpdf(m, 0, 5) + np.logaddexp(*parts).sum(1)

    return by_quadrature(log_joint, m=line(-20, 20, 2001))


def hidden_chain(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A hidden Markov chain of two states with an unknown chance to stay."""
    stay = pyro.sample("stay", dist.Beta(4.0, 1.0))
    state, means = pyro.sample("s0", dist.Bernoulli(0.5)), []
    for t in range(8):
        if t:
            chance = stay * state + (1 - stay) * (1 - state)
            state = pyro.sample(f"s{t}", dist.Bernoulli(chance))
        means.append(2 * state)
    loc = torch.stack(torch.broadcast_tensors(*means), -1)
    return pyro.sample("y", dist.Normal(loc, 1.0).to_event(1), obs=y)


def _hidden_chain() -> Reference:
    def log_joint(stay: Array) -> Array:
        forward = np.full((len(stay), 2), 0.5)
        for t, reading in enumerate(CHAIN):
            if t:
                low, high = forward.T
                forward = np.stack(
                    [stay * low + (1 - stay) * high, (1 - stay) * low + stay * high], 1
                )
            forward = forward * stats.norm.pdf(reading, [0.0, 2.0])
        return stats.beta.logpdf(stay, 4, 1) + np.log(forward.sum(1))

    return by_quadrature(log_joint, stay=unit())


ENTRIES = {
    "two": Entry(two, FLAGS, _two),
    "switch": Entry(switch, SHIFTED, _switch),
    "outliers": Entry(outliers, WITH_OUTLIERS, _outliers),
    "hidden chain": Entry(hidden_chain, CHAIN, _hidden_chain),
}
