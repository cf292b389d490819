"""Programs whose observation only draws: a network learns them, and nothing weighs its answer."""

from typing import ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer
from amortized.networks import DistributionTransformerConfig
from amortized.priors import ProgramPrior
from amortized.training import TrainingConfig, train


class Noisy(dist.TorchDistribution):
    """Draws a normal sample and does not know its density."""

    arg_constraints: ClassVar = {}

    def __init__(self, mean, n):
        self.mean_of_all = mean
        super().__init__(mean.shape, torch.Size([n]), validate_args=False)

    def sample(self, sample_shape=()):
        noise = torch.randn(self._extended_shape(torch.Size(sample_shape)))
        return self.mean_of_all.unsqueeze(-1) + noise


def simulator(x, y=None):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
    return pyro.sample("y", Noisy(mean, len(x)), obs=y)


def test_a_simulator_is_answered_by_a_network_trained_on_it():
    torch.manual_seed(1)
    y = 1.5 + torch.randn(5, 4, dtype=torch.float64)
    steps = TrainingConfig(n_steps=200, n_tasks=128, n_context=(4, 4), lr=5e-3, ema_decay=0.9)
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=32)
    network = train(ProgramPrior(simulator), size, steps, progress=False)
    exact = y.sum(1) / (y.shape[1] + 1 / 4)
    for method in ("dt", "auto"):
        posterior = infer(simulator, y, method=method, network=network)
        assert (posterior.mean["mean"] - exact).abs().max() < 0.25
        assert posterior.log_evidence is None
    assert posterior.diagnostics["stage"] == ["dt"] * len(y)
    with pytest.raises(ValueError, match="Noisy, has no log_prob. Use a network trained on"):
        infer(simulator, y, method="smc")
