"""Funnels and levels: given its scales each posterior is normal, so the grids are of the scales."""

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
    by_quadrature,
    finer,
    labels_of,
    line,
    linear_gaussian,
    named,
    of_nodes,
    of_normals,
    positive,
)

SEEN = [1.2, -0.6, 0.4]
EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
SPARSE = [5.2, -0.3, 0.6, 0.1, -1.1]
GROUP = np.repeat(np.arange(28), 2)[:, None].astype(float)
LEVELS_OF_GROUPS = 3 + 0.8 * np.random.default_rng(5).normal(size=28)
IN_GROUPS = LEVELS_OF_GROUPS.repeat(2) + np.random.default_rng(6).normal(size=56)
IN_GROUPS = IN_GROUPS.round(2)

Nodes = tuple[Array, dict[str, tuple[Array, Array]]]


def funnel(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Neal's funnel, three of its nine rows seen with noise."""
    v = pyro.sample("v", dist.Normal(0.0, 3.0))
    rows = pyro.sample("rows", dist.Normal(torch.zeros(9), (v / 2).exp()).to_event(1))
    return pyro.sample("y", dist.Normal(rows[:3], 1.0).to_event(1), obs=y)


def _funnel() -> Reference:
    def log_joint(v: Array) -> Nodes:
        variance = np.exp(v)[:, None]
        y, shrunk = np.array(SEEN), variance / (1 + variance)
        likelihood = stats.norm.logpdf(y, 0, np.sqrt(1 + variance)).sum(1)
        mean = np.concatenate([shrunk * y, np.zeros((len(v), 6))], 1)
        sd = np.sqrt(np.concatenate([shrunk + 0 * y, variance + np.zeros(6)], 1))
        return stats.norm.logpdf(v, 0, 3) + likelihood, named(labels_of("rows", 9), mean, sd)

    return by_quadrature(log_joint, v=line(-25, 25, 2001))


def centred_schools(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Eight schools, centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    theta = pyro.sample("theta", dist.Normal(mu.expand(8), tau).to_event(1))
    return pyro.sample("y", dist.Normal(theta, x[:, 0]).to_event(1), obs=y)


def schools(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Eight schools, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    z = pyro.sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(mu + tau * z, x[:, 0]).to_event(1), obs=y)


def _levels(n: int, scale: Array) -> tuple[Array, Array]:
    """Prior mean and covariance of a common mean and of n levels around it, at all nodes."""
    shared = np.full((len(scale), n + 1, n + 1), 25.0)
    own = np.concatenate([np.zeros((len(scale), 1)), np.repeat(scale[:, None] ** 2, n, 1)], 1)
    return np.zeros(n + 1), shared + np.einsum("bi,ij->bij", own, np.eye(n + 1))


def _centred_schools() -> Reference:
    labels = ["mu", *labels_of("theta", 8)]
    design = np.concatenate([np.zeros((8, 1)), np.eye(8)], 1)

    def log_joint(tau: Array) -> Nodes:
        prior = _levels(len(labels) - 1, tau)
        solved = linear_gaussian(design, np.array(EFFECTS), *prior, np.diag(ERRORS**2))
        return stats.halfcauchy.logpdf(tau, 0, 5) + solved[0], named(labels, *solved[1:])

    return by_quadrature(log_joint, tau=positive(1e-5, 1e5, 1201))


def _schools() -> Reference:
    labels = ["mu", *labels_of("z", 8)]
    prior = np.zeros(9), np.diag([25.0] + 8 * [1.0])

    def log_joint(tau: Array) -> Nodes:
        ones = np.ones((len(tau), 8, 1))
        design = np.concatenate([ones, tau[:, None, None] * np.eye(8)], 2)
        solved = linear_gaussian(design, np.array(EFFECTS), *prior, np.diag(ERRORS**2))
        return stats.halfcauchy.logpdf(tau, 0, 5) + solved[0], named(labels, *solved[1:])

    return by_quadrature(log_joint, tau=positive(1e-5, 1e5, 1201))


def groups(x: Tensor, y: Tensor | None = None) -> Tensor:
    """28 groups of two rows each: 30 dimensions."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfNormal(2.0))
    theta = pyro.sample("theta", dist.Normal(mu.expand(28), tau).to_event(1))
    return pyro.sample("y", dist.Normal(theta[x[:, 0].long()], 1.0).to_event(1), obs=y)


def _groups() -> Reference:
    labels = ["mu", *labels_of("theta", 28)]
    design = np.concatenate([np.zeros((56, 1)), np.eye(28).repeat(2, 0)], 1)

    def log_joint(tau: Array) -> Nodes:
        prior = _levels(len(labels) - 1, tau)
        solved = linear_gaussian(design, IN_GROUPS, *prior, np.eye(56))
        return stats.halfnorm.logpdf(tau, 0, 2) + solved[0], named(labels, *solved[1:])

    return by_quadrature(log_joint, tau=positive(1e-5, 30, 801))


def horseshoe(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Five sparse means, each with a half Cauchy scale of its own."""
    tau = pyro.sample("tau", dist.HalfCauchy(0.5))
    local = pyro.sample("local", dist.HalfCauchy(torch.ones(5)).to_event(1))
    theta = pyro.sample("theta", dist.Normal(torch.zeros(5), tau * local).to_event(1))
    return pyro.sample("y", dist.Normal(theta, 1.0).to_event(1), obs=y)


def _horseshoe() -> Reference:
    return finer(_horseshoe_on_grid(601), _horseshoe_on_grid(301))


def _horseshoe_on_grid(n: int) -> Summed:
    """The five are independent given tau: one sum over their scales for each."""
    tau, tau_weights = positive(1e-8, 1e6, n).nodes(n)
    local, local_weights = positive(1e-8, 1e8, n).nodes(n)
    prior = stats.halfcauchy.logpdf(local) + local_weights
    variance = (tau[:, None] * local) ** 2
    terms = [prior + stats.norm.logpdf(y, 0, np.sqrt(1 + variance)) for y in SPARSE]
    log_tau = stats.halfcauchy.logpdf(tau, 0, 0.5) + tau_weights
    log_tau += sum(special.logsumexp(each, 1) for each in terms)
    log_evidence = float(special.logsumexp(log_tau))
    shares = np.exp(log_tau - log_evidence)
    summaries = {"tau": of_nodes(tau, shares)}
    shrunk = variance / (1 + variance)
    for i, (y, each) in enumerate(zip(SPARSE, terms, strict=True)):
        joint = shares[:, None] * special.softmax(each, 1)
        summaries[f"local[{i}]"] = of_nodes(local, joint.sum(0))
        kept = joint > 1e-12
        parts = joint[kept], (shrunk * y)[kept], np.sqrt(shrunk[kept])
        summaries[f"theta[{i}]"] = of_normals(*parts)
    return summaries, log_evidence


SCHOOLS_X = ERRORS[:, None]

ENTRIES = {
    "Neal's funnel": Entry(funnel, SEEN, _funnel),
    "schools, centred": Entry(centred_schools, EFFECTS, _centred_schools, SCHOOLS_X),
    "schools": Entry(schools, EFFECTS, _schools, SCHOOLS_X),
    "28 groups": Entry(groups, IN_GROUPS, _groups, GROUP),
    "horseshoe": Entry(horseshoe, SPARSE, _horseshoe),
}
