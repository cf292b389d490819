"""The network that forecasts: it begins at the exact average, and reads what it says it reads."""

import pytest
import torch
from torch import nn

from amortized.networks import SeriesPFN, SeriesPFNConfig
from amortized.pretrained import load, save
from amortized.priors.series.series_prior import SeriesPrior
from amortized.series.candidates import candidates
from amortized.training import TrainingConfig, train

SMALL = SeriesPFNConfig(d_model=16, n_heads=2, n_layers=1, d_hidden=16, d_head=8)


def random_network():
    network = SeriesPFN(SMALL)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network.eval()


def predictive(network, batch):
    with torch.no_grad():
        return network(batch.x_context, batch.y_context, batch.x_query)


def test_a_new_network_is_the_average_by_evidence():
    batch = SeriesPrior(gaps=0.0).sample(5, 60, 8, seed=3)
    law = predictive(SeriesPFN.new(SeriesPrior(), SMALL), batch)
    steps = batch.x_query[0, :, 0].long() - 59
    periods = tuple(p for p in batch.x_context[0, 0, 1:].tolist() if p > 1) or (1.0,)
    found = candidates(
        batch.y_context, torch.ones(1, 60, dtype=torch.bool), torch.full((5,), 59), periods, 64
    )
    exact = found.average()
    level = torch.tensor([[0.1], [0.5], [0.9]], dtype=torch.float64)[:, None]
    quantiles = exact.icdf(level.expand(3, 5, 64))[..., steps - 1]
    # Wide components hold two in a hundred, and normals stand for Student's t.
    difference = (law.icdf(level.float()) - quantiles).abs() / batch.y_context.std(1)[:, None]
    assert difference[1].max() < 0.1 and difference.median() < 0.1


def test_order_of_rows_and_batches_change_nothing():
    network, batch = random_network(), SeriesPrior(gaps=1.0).sample(3, 40, 6, seed=0)
    law = predictive(network, batch)
    order, asked = torch.randperm(40), torch.randperm(6)
    with torch.no_grad():
        moved = network(
            batch.x_context[:, order], batch.y_context[:, order], batch.x_query[:, asked]
        )
        alone = network(batch.x_context[:1], batch.y_context[:1], batch.x_query[:1])
    torch.testing.assert_close(moved.mean, law.mean[:, asked], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone.mean, law.mean[:1], atol=1e-3, rtol=1e-3)


def test_units_change_nothing():
    network, batch = random_network(), SeriesPrior(gaps=0.0).sample(4, 50, 5, seed=1)
    level = torch.tensor(0.3)
    with torch.no_grad():
        one = network(batch.x_context, batch.y_context, batch.x_query)
        other = network(batch.x_context, 8 * batch.y_context, batch.x_query)
    torch.testing.assert_close(other.icdf(level), 8 * one.icdf(level), atol=1e-2, rtol=1e-2)


def test_every_parameter_learns():
    network, batch = random_network().train(), SeriesPrior().sample(4, 40, 5, seed=2)
    network.loss(batch).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_training_and_storing(tmp_path):
    config = TrainingConfig(n_steps=2, n_tasks=4, n_context=(12, 30), n_query=4)
    network = train(SeriesPrior(), SMALL, config, progress=False)
    again = load(save(network, tmp_path / "network"))
    batch = SeriesPrior(gaps=0.0).sample(2, 30, 4, seed=5)
    one, other = predictive(network, batch), predictive(again, batch)
    torch.testing.assert_close(other.mean, one.mean, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
    ("shift", "message"), [(-3.0, "queries after the last"), (0.3, "times in whole steps")]
)
def test_wrong_times(shift, message):
    batch = SeriesPrior(gaps=0.0).sample(2, 20, 3, seed=0)
    x = batch.x_query.clone()
    x[..., 0] = 19 + shift
    with pytest.raises(ValueError, match=message):
        random_network()(batch.x_context, batch.y_context, x)
    with pytest.raises(ValueError, match="Expected no context_mask"):
        mask = torch.ones_like(batch.y_context, dtype=torch.bool)
        random_network()(batch.x_context, batch.y_context, batch.x_query, mask)
