"""Walks and chains: their scales on a grid, their states in closed form or on a line of nodes."""

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
    Summed,
    by_normals,
    by_quadrature,
    finer,
    linear_gaussian,
    named,
    of_nodes,
    positive,
)

KNOWN = np.random.default_rng(4).normal(size=30).cumsum().round(2) * 0.5
_STEPS, _NOISE = np.random.default_rng(8).normal(size=(2, 25))
READINGS = ((0.4 * _STEPS).cumsum() + 0.2 * _NOISE).round(2)
EVENTS = [2.0, 1.0, 3.0, 4.0, 7.0, 5.0, 9.0, 6.0, 4.0, 2.0, 0.0, 1.0]
RETURNS = (0.8 * np.random.default_rng(9).standard_t(4, size=20)).round(2)


def known_scales(x: Tensor, y: Tensor | None = None) -> Tensor:
    """30 states of a walk."""
    state, states = torch.zeros(()), []
    for t in range(30):
        state = pyro.sample(f"s{t}", dist.Normal(state, 0.5))
        states.append(state)
    return pyro.sample("y", dist.Normal(torch.stack(states), 0.3).to_event(1), obs=y)


def _known_scales() -> Reference:
    steps = np.minimum.outer(np.arange(1, 31), np.arange(1, 31))
    parts = linear_gaussian(np.eye(30), KNOWN, np.zeros(30), 0.25 * steps, 0.09 * np.eye(30))
    return by_normals([1.0], named([f"s{t}" for t in range(30)], *parts[1:]), parts[0].item())


def unknown_scales(x: Tensor, y: Tensor | None = None) -> Tensor:
    """25 states of a centred walk, both scales unknown: without noise the states are the data."""
    q = pyro.sample("q", dist.HalfNormal(1.0))
    r = pyro.sample("r", dist.HalfNormal(1.0))
    state, states = torch.zeros(()), []
    for t in range(25):
        state = pyro.sample(f"s{t}", dist.Normal(state, q))
        states.append(state)
    return pyro.sample("y", dist.Normal(torch.stack(states), r).to_event(1), obs=y)


def from_the_data(x: Tensor, y: Tensor) -> None:
    """The same, its latents the noise in units of its scale: these forget how small that is."""
    q = pyro.sample("q", dist.HalfNormal(1.0))
    r = pyro.sample("r", dist.HalfNormal(1.0))
    noise = pyro.sample("noise", dist.Normal(torch.zeros(25), 1.0).to_event(1))
    states = y - r * noise
    before = torch.cat([torch.zeros(1), states[:-1]])
    pyro.factor("steps", dist.Normal(before, q).log_prob(states).sum())
    for t in range(25):
        pyro.deterministic(f"s{t}", states[t])


def _unknown_scales() -> Reference:
    steps = np.minimum.outer(np.arange(1.0, 26), np.arange(1, 26))
    labels = [f"s{t}" for t in range(25)]

    def log_joint(q: Array, r: Array) -> tuple[Array, dict[str, tuple[Array, Array]]]:
        prior = q[:, None, None] ** 2 * steps
        noise = r[:, None, None] ** 2 * np.eye(25)
        solved = linear_gaussian(np.eye(25), READINGS, np.zeros(25), prior, noise)
        scales = stats.halfnorm.logpdf(q) + stats.halfnorm.logpdf(r)
        return scales + solved[0], named(labels, *solved[1:])

    return by_quadrature(log_joint, q=positive(0.05, 5, 121), r=positive(1e-5, 5, 161))


def counted_walk(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A log rate that walks, seen by counts; the length of its steps is unknown."""
    q = pyro.sample("q", dist.LogNormal(-1.0, 0.5))
    state, states = torch.zeros(()), []
    for t in range(12):
        state = pyro.sample(f"s{t}", dist.Normal(state, q if t else 1.0))
        states.append(state)
    return pyro.sample("y", dist.Poisson(torch.stack(states).exp()).to_event(1), obs=y)


def volatility(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Stochastic volatility over 20 days, its persistence known."""
    state, states = torch.zeros(()), []
    for t in range(20):
        state = pyro.sample(f"s{t}", dist.Normal(0.95 * state, 0.3 if t else 1.0))
        states.append(state)
    return pyro.sample("y", dist.Normal(0.0, (torch.stack(states) / 2).exp()).to_event(1), obs=y)


def _on_nodes(nodes: Array, first: Array, kernel: Array, likelihood: Array) -> tuple[float, Array]:
    """Log evidence and marginals of a chain on equally spaced nodes, forwards and backwards.

    Args:
        nodes: ``(n,)``.
        first: density of the first state, ``(n,)``.
        kernel: density of a state (columns) given the one before (rows).
        likelihood: of each reading at the nodes, ``(T, n)``.
    """
    step = nodes[1] - nodes[0]
    forward: list[Array] = []
    log_evidence = 0.0
    for t, each in enumerate(likelihood):
        ahead = first if t == 0 else (forward[-1] @ kernel) * step
        scale = (ahead * each).sum() * step
        forward.append(ahead * each / scale)
        log_evidence += np.log(scale)
    back, marginals = np.ones(len(nodes)), []
    for t in range(len(likelihood) - 1, -1, -1):
        both = forward[t] * back
        marginals.append(both / both.sum())
        back = kernel @ (likelihood[t] * back) * step
        back /= back.max()
    return float(log_evidence), np.array(marginals[::-1])


def _volatility(n: int) -> Summed:
    nodes = np.linspace(-8, 8, n)
    kernel = stats.norm.pdf(nodes, 0.95 * nodes[:, None], 0.3)
    likelihood = stats.norm.pdf(RETURNS[:, None], 0, np.exp(nodes / 2))
    log_evidence, marginals = _on_nodes(nodes, stats.norm.pdf(nodes), kernel, likelihood)
    return {f"s{t}": of_nodes(nodes, each) for t, each in enumerate(marginals)}, log_evidence


def _counted_walk(n: int, n_scales: int) -> Summed:
    nodes = np.linspace(-6, 6, n)
    q, weights = positive(0.03, 4.0).nodes(n_scales)
    likelihood = stats.poisson.pmf(np.array(EVENTS)[:, None], np.exp(nodes))
    chains = []
    for each in q:
        kernel = stats.norm.pdf(nodes, nodes[:, None], each)
        chains.append(_on_nodes(nodes, stats.norm.pdf(nodes), kernel, likelihood))
    logs = np.array([chain[0] for chain in chains]) + weights
    logs += stats.lognorm.logpdf(q, 0.5, scale=np.exp(-1))
    shares = special.softmax(logs)
    marginals = np.einsum("q,qtn->tn", shares, np.array([chain[1] for chain in chains]))
    found = {f"s{t}": of_nodes(nodes, each) for t, each in enumerate(marginals)}
    return found | {"q": of_nodes(q, shares)}, float(special.logsumexp(logs))


ENTRIES = {
    "walk, known scales": Entry(known_scales, KNOWN, _known_scales),
    "walk, unknown scales": Entry(unknown_scales, READINGS, _unknown_scales, easier=from_the_data),
    "counted walk": Entry(
        counted_walk, EVENTS, lambda: finer(_counted_walk(1001, 61), _counted_walk(701, 31))
    ),
    "volatility": Entry(volatility, RETURNS, lambda: finer(_volatility(801), _volatility(401))),
}
