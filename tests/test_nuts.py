"""NUTS: calibrated diagnostics, honest about failure. Its accuracy is in test_infer.py."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.program.density import ProgramDensity
from amortized.sampling.nuts import nuts

Y = torch.tensor([1.0, 2.0, 3.0, 2.5], dtype=torch.float64)


def normal(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    return pyro.sample("y", dist.Normal(mean, scale).expand([len(x)]).to_event(1), obs=y)


def branching(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    mean = mean if mean > 0 else 3 * mean
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def two_modes(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 20.0))
    return pyro.sample("y", dist.Normal(mean.abs(), 0.5).expand([len(x)]).to_event(1), obs=y)


def test_jit_changes_nothing_but_time():
    runs = [
        infer(normal, Y, method="nuts", n_draws=20, n_warmup=20, n_chains=2, jit=jit, seed=3)
        for jit in (True, False)
    ]
    assert [run.diagnostics["jit"] for run in runs] == [True, False]
    # Rounding differs, and NUTS is chaotic, so only the first draws are the same.
    first = [run.draws["mean"][:3] for run in runs]
    torch.testing.assert_close(first[0], first[1], rtol=1e-3, atol=1e-3)


def test_a_trace_that_would_be_wrong_is_not_used():
    with pytest.warns(UserWarning, match="one by one"):
        posterior = infer(branching, Y, method="nuts", n_draws=40, n_warmup=40, n_chains=2)
    assert posterior.diagnostics["jit"] is False


def test_chains_in_separate_modes_are_admitted():
    density = ProgramDensity(two_modes, torch.zeros(1, 4, 0), 10 * Y[None])
    means = torch.tensor([[[20.0], [-20.0]]], dtype=torch.float64)
    half = torch.full((1, 2), 0.5, dtype=torch.float64).log()
    apart = GaussianMixture(half, means, torch.full((1, 2, 1, 1), 0.1, dtype=torch.float64))
    draws = nuts(density, 200, n_chains=2, n_warmup=100, start=apart)
    assert draws.diagnostics["r_hat"] > 1.5 and draws.diagnostics["ess"] < 10


def funnel(x, y=None):
    width = pyro.sample("width", dist.Normal(0.0, 3.0))
    inner = pyro.sample("inner", dist.Normal(torch.zeros(9), (width / 2).exp()).to_event(1))
    return pyro.sample("y", dist.Normal(0 * inner.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)


def test_the_funnel_is_admitted_to_be_too_hard():
    with pytest.warns(UserWarning, match="in doubt"):
        posterior = infer(funnel, Y, method="nuts", n_draws=60, n_warmup=50, n_chains=2)
    assert posterior.diagnostics["doubt"]


def test_an_impossible_density_is_refused():
    def nowhere(x, y=None):
        low = pyro.sample("low", dist.Gamma(1.0, 1.0))
        return pyro.sample("y", dist.Uniform(low + 100, low + 101).expand([4]).to_event(1), obs=y)

    with pytest.raises(ValueError, match="data that are impossible"):
        infer(nowhere, Y, method="nuts")
