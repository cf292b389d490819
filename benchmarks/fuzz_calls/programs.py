"""Programs that take inputs of any width, from the trust zoo and, without a closed form, here."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from trust_zoo.conjugate import gamma_no_counts as counts
from trust_zoo.conjugate import prior_conflict as normal
from trust_zoo.discrete import outliers as kinds


def scaled(x: Any, y: Any = None) -> Any:
    """Mean and noise."""
    mean = pyro.sample("m", dist.Normal(0.0, 3.0))
    noise = pyro.sample("s", dist.LogNormal(0.0, 0.5))
    return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)


def shares(x: Any, y: Any = None) -> Any:
    """Numbers between 0 and 1."""
    a = pyro.sample("m", dist.Uniform(0.5, 4.0))
    return pyro.sample("y", dist.Beta(a, 2.0).expand([len(x)]).to_event(1), obs=y)


def line(x: Any, y: Any = None) -> Any:
    """A regression with heavy tails."""
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    mean = slope * x.sum(-1)
    return pyro.sample("y", dist.StudentT(3.0, mean, 1.0).to_event(1), obs=y)


def with_parameter(x: Any, y: Any = None) -> Any:
    """A parameter to fit."""
    mean = pyro.param("mean", torch.tensor(0.1))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(mean, 1.0))
        return pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def switched(x: Any, y: Any = None) -> Any:
    """A parameter under discrete latents."""
    share = pyro.param("share", torch.tensor(0.5), constraint=dist.constraints.unit_interval)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share))
        return pyro.sample("y", dist.Normal(4.0 * z, 1.0), obs=y)


PROGRAMS = [normal, scaled, counts, shares, line, kinds]
