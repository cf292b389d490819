"""A network with a name answers for its own program, whoever wrote it down, and for no other."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import infer
from amortized.priors.normal_mean import NormalMeanPrior
from amortized.priors.normal_variance import NormalVariancePrior


def mean_with(noise, prior=None):
    def program(x, y=None):
        mean = pyro.sample("m", prior or dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(mean, noise).expand([len(x)]).to_event(1), obs=y)

    return program


def log_scale(x, y=None):
    """The network's likelihood, but of a latent in other units."""
    m = pyro.sample("m", dist.LogNormal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(m, 1.0).expand([len(x)]).to_event(1), obs=y)


def two_latents(x, y=None):
    m = pyro.sample("m", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(m.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)


FOREIGN = {
    "noise": (mean_with(100.0), "another likelihood"),
    "slightly other noise": (mean_with(1.05), "another likelihood"),
    "noise of a named program": (NormalMeanPrior(noise=3.0), "another likelihood"),
    "units": (log_scale, "another likelihood"),
    "latents": (two_latents, "other latents"),
    "another named program": (NormalVariancePrior(), "another likelihood"),
}


@pytest.mark.parametrize("program, message", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("method", ["dt", "auto"])
def test_a_foreign_program_is_refused(program, message, method):
    with pytest.raises(ValueError, match=f"the network 'dt-mean' was trained on.*{message}"):
        infer(program, [3.0], method=method, network="dt-mean")


@pytest.mark.parametrize("sd", [0.5, 1.0, 2.0])
def test_the_same_program_in_other_words_is_answered(sd):
    program = mean_with(1.0, dist.Normal(0.0, sd))
    posterior = infer(program, [1.0], method="dt", network="dt-mean", n_draws=4000)
    mean = sd**2 / (1 + sd**2)
    assert abs(posterior.mean["m"].item() - mean) < 0.1
    assert abs(posterior.std["m"].item() - mean**0.5) < 0.1
