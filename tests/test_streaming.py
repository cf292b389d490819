"""Streams: posterior becomes prior, filters meet Kalman's, and the sensors' program is theirs."""

import dataclasses
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.estimators import BayesianRegressor
from amortized.infer import infer
from amortized.infer.streaming import filter_states
from amortized.latent_priors import LatentTasks
from amortized.latent_priors.problems import PROBLEMS
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.simulators.sensor_reading import SensorReading, SensorReadingPrior
from amortized.priors.state_space.sensor_fusion import SensorFusion
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.program.likelihood_summary import LikelihoodSummary
from amortized.sampling.filters.kalman import kalman_filter

# One component and heads of zero: the sketch alone, which is exact where it is the likelihood.
PLAIN = DistributionTransformerConfig(
    d_model=16, n_heads=2, n_layers=1, d_hidden=16, n_components=1, reads_rows=False
)


class FirstOfTwo(ProgramPrior):
    """Sees the first coordinate of a state with noise 1; the likelihood is its own sketch."""

    ordered = 1

    def __init__(self):
        super().__init__(inputs=0)

    def model(self, x, y=None):
        state = pyro.sample("state", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
        return pyro.sample("y", dist.Normal(state[:1], 1.0).to_event(1), obs=y)

    def likelihood_summary(self, x, y, mask):
        return LikelihoodSummary(y, y.new_tensor([[[1.0, 0.0]]]).expand(len(y), 1, 2))


def test_filter_of_a_linear_model_is_kalmans():
    eye = torch.eye(2, dtype=torch.float64)
    motion = LinearGaussianModel(
        transition=torch.tensor([[1.0, 0.5], [-0.2, 0.9]], dtype=torch.float64),
        transition_cov=0.1 * eye,
        observation=eye[:1],
        observation_cov=eye[:1, :1],
        initial_mean=torch.tensor([1.0, 0.0], dtype=torch.float64),
        initial_cov=eye,
        transition_offset=torch.tensor([0.1, 0.0], dtype=torch.float64),
    )
    _, y = motion.simulate(n_series=3, n_steps=20, seed=0)
    prior = FirstOfTwo()
    network = DistributionTransformer.new(LatentTasks(prior), PLAIN).eval()
    answer = filter_states(prior, y, motion, network=network)
    exact = kalman_filter(motion, y)
    assert answer.filtered.batch_shape == (3, 20)
    assert torch.allclose(answer.filtered.mean, exact.mean, atol=0.02)
    assert torch.allclose(answer.filtered.covariance_matrix, exact.cov, atol=0.01)
    moved = answer.filtered.mean[:, :-1] @ motion.transition.mT + motion.transition_offset
    assert torch.allclose(answer.predicted.mean[:, 1:], moved, atol=1e-5)
    assert answer.inside_training_range.shape == (3, 20)


def line(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    return X, X @ [1.0, -2.0] + 0.5 + 0.3 * rng.normal(size=n)


@pytest.fixture(scope="module")
def linear_network():
    size = dataclasses.replace(PLAIN, prior="dt-linear")
    return DistributionTransformer.new(LatentTasks(PROBLEMS["dt-linear"].program()), size).eval()


def test_partial_fit_reads_further_rows_only_and_says_how_far_it_drifted(linear_network):
    X, y = line(120, 0)
    stream = BayesianRegressor(
        LinearModelPrior(2), method="dt", options={"network": linear_network}, random_state=0
    )
    for first in range(0, 120, 30):
        stream.partial_fit(X[first : first + 30], y[first : first + 30])
    diagnostics = stream.posterior_.diagnostics
    assert diagnostics["method"] == "dt"
    assert 0 <= diagnostics["drift"] < 0.5
    whole = infer(
        LinearModelPrior(2), X, y, method="dt", network=linear_network
    )  # of all rows at once
    coefficients = stream.posterior_.mean["coefficients"]
    assert torch.allclose(coefficients, whole.mean["coefficients"], atol=0.05)
    assert len(stream.X_train_) == 120
    np.testing.assert_allclose(stream.predict(X), X @ [1.0, -2.0] + 0.5, atol=0.25)
    # Only the new rows were read: their posterior under the last one is much wider without it.
    alone = infer(LinearModelPrior(2), X[90:], y[90:], method="dt", network=linear_network)
    assert (stream.posterior_.std["noise"] < 0.75 * alone.std["noise"]).all()


def test_default_model_of_dt_standardises(linear_network):
    X, y = line(60, 1)
    estimator = BayesianRegressor(method="dt", options={"network": linear_network})
    estimator.fit(10 * X + 3, 100 * y).partial_fit(10 * X[:20] + 3, 100 * y[:20])
    predicted = estimator.predict(10 * X + 3)
    assert np.sqrt(np.mean((predicted - 100 * y) ** 2)) < 45
    assert "drift" in estimator.posterior_.diagnostics


def test_readings_are_those_of_the_filter():
    """Same density as the state-space model, and the sketch's point is the one seen."""
    states, y = SensorFusion(torch.float64).simulate(n_series=50, n_steps=1, seed=0)
    theirs = SensorFusion(torch.float64).log_observation(y[:, 0], states[:, 0], 0)
    assert torch.allclose(SensorReading(states[:, 0]).log_prob(y[:, 0]), theirs)
    there = torch.tensor([[3.0, 0.2, -2.0, 0.1]])
    seen = torch.tensor([[math.hypot(3, 2), math.atan2(3, -2)]])
    sketch = SensorReadingPrior().likelihood_summary(
        torch.zeros(1, 2, 0), seen, torch.ones(1, 2) > 0
    )
    assert torch.allclose(sketch.value, (sketch.matrix @ there[0]), atol=1e-4)
    drawn = SensorReading(there.expand(20_000, 4)).sample()
    assert drawn[:, 0].median().item() == pytest.approx(seen[0, 0].item(), abs=0.5)
    off = (drawn[:, 1] - seen[0, 1] + math.pi) % (2 * math.pi) - math.pi
    assert off.std().item() == pytest.approx(0.1, rel=0.05)


PRIOR = FirstOfTwo()
WRONG = {
    "shape": (lambda: filter_states(PRIOR, torch.zeros(3, 2), None), "n_series, n_steps"),
    "NaN": (lambda: filter_states(PRIOR, torch.full((1, 2, 1), math.nan), None), "finite y"),
    "none": (lambda: filter_states(PRIOR, torch.zeros(1, 2, 1), None), "pretrained network"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
