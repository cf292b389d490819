"""A posterior that no search from the prior finds is refused at once, and no other."""

import time

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import infer


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.StudentT(3.0, slope * x[:, 0], 1.0).to_event(1), obs=y)


def data(size):
    generator = torch.Generator().manual_seed(0)
    x = size * torch.randn(10, 1, generator=generator, dtype=torch.float64)
    return x, torch.randn(10, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", ["auto", "laplace"])
def test_inputs_of_enormous_size_are_refused_at_once(method):
    began = time.process_time()
    with pytest.raises(ValueError, match="times as wide as the prior. Rescale the inputs"):
        infer(line, *data(1e16), method=method)
    assert time.process_time() - began < 5


def test_the_dataset_is_named():
    (x, y), (huge, _) = data(1.0), data(1e16)
    with pytest.raises(ValueError, match="the peak of dataset 1 is"):
        infer(line, torch.stack([x, huge]), torch.stack([y, y]), method="smc")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_posterior_within_reach_is_not_refused():
    x, y = data(1e3)
    found = infer(line, x, y, method="smc", n_draws=200)
    # The same data in other units: slope * 1e3 under a wide prior.
    centre = (x[:, 0] * y).sum() / x[:, 0].square().sum()
    assert abs(found.mean["slope"] - centre) < 5 * found.std["slope"]
