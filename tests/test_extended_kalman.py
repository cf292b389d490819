"""The extended Kalman filter: exact on linear models, honest on the others."""

from dataclasses import replace

import pytest
import torch
from test_kalman import anything, as_nonlinear, nothing, random_model

from amortized.priors.state_space.sensor_fusion import SensorFusion, true_range_and_bearing, wrap
from amortized.sampling.filters.extended_kalman import (
    NonlinearGaussianModel,
    extended_kalman_filter,
)
from amortized.sampling.filters.kalman import kalman_filter


@pytest.mark.parametrize("missing", [nothing, anything])
def test_equals_kalman_on_a_linear_model(missing):
    model = random_model()
    y = missing(model.simulate(4, 12, seed=0)[1])
    want, got = kalman_filter(model, y), extended_kalman_filter(as_nonlinear(model), y)
    for name in ("mean", "cov", "log_likelihood", "log_evidence", "valid"):
        torch.testing.assert_close(getattr(got, name), getattr(want, name))


def test_parameters_may_differ_from_series_to_series():
    model = random_model(1, 1)
    slope = torch.tensor([0.5, 0.9], dtype=torch.float64)
    y = model.simulate(2, 6, seed=0)[1]
    both = as_nonlinear(model, transition=lambda x, t: slope[:, None] * x)
    got = extended_kalman_filter(both, y).log_evidence
    for i in range(2):
        one = as_nonlinear(model, transition=lambda x, t, i=i: slope[i] * x)
        torch.testing.assert_close(
            got[i], extended_kalman_filter(one, y[i : i + 1]).log_evidence[0]
        )


def test_tracks_a_target_in_polar_coordinates():
    """Standardised errors have variance near 1 where curvature is small."""
    motion = SensorFusion(dtype=torch.float64).motion()
    motion = replace(
        motion, initial_mean=4 * motion.initial_mean, initial_cov=0.25 * motion.initial_cov
    )
    radar = NonlinearGaussianModel(
        transition=lambda x, t: x @ motion.transition.mT,
        transition_cov=motion.transition_cov,
        observation=lambda x, t: true_range_and_bearing(x),
        observation_cov=0.05**2 * torch.eye(2, dtype=torch.float64),
        initial_mean=motion.initial_mean,
        initial_cov=motion.initial_cov,
        residual=lambda y, mean: torch.stack(((y - mean)[..., 0], wrap((y - mean)[..., 1])), -1),
    )
    states = motion.simulate(400, 30, seed=0)[0]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(400, 30, 2, generator=generator, dtype=torch.float64)
    y = true_range_and_bearing(states) + 0.05 * noise
    y[..., 1] = wrap(y[..., 1])
    filtered = extended_kalman_filter(radar, y)
    error = states - filtered.mean
    distance = (error * torch.linalg.solve(filtered.cov, error)).sum(-1).mean()
    assert filtered.valid.all()
    assert 3.7 < distance < 4.5  # a chi-square with 4 degrees of freedom has mean 4


def test_noise_that_is_not_positive_is_flagged():
    model = random_model()
    y = model.simulate(2, 3, seed=0)[1]
    got = extended_kalman_filter(
        as_nonlinear(model, observation_cov=lambda x, t: -10 * model.observation_cov), y
    )
    assert not got.valid.any() and (got.log_evidence == -torch.inf).all()


def test_noise_of_a_function_that_is_no_covariance_is_flagged():
    """Also where what is observed has a density all the same."""
    model = random_model(n_state=2)
    wrong = torch.tensor([[1e8, 0.0], [0.0, -1e-3]], dtype=torch.float64)
    y = model.simulate(2, 3, seed=0)[1]
    for name in ("transition_cov", "observation_cov"):
        got = extended_kalman_filter(as_nonlinear(model, **{name: lambda x, t: wrong}), y)
        assert not got.valid.any() and (got.log_evidence == -torch.inf).all()


def test_what_is_no_covariance_is_refused():
    model = random_model(n_state=2)
    wrong = torch.tensor([[1e8, 5e2], [-5e2, 1.0]], dtype=torch.float64)
    for name in ("transition_cov", "observation_cov", "initial_cov"):
        with pytest.raises(ValueError, match=f"Expected {name} to be finite, symmetric"):
            as_nonlinear(model, **{name: wrong})


def test_nan_from_a_function_is_flagged():
    model = random_model()
    y = model.simulate(2, 3, seed=0)[1]
    got = extended_kalman_filter(as_nonlinear(model, transition=lambda x, t: x / 0), y)
    assert not got.valid.any() and (got.log_evidence == -torch.inf).all()


def test_wrong_shapes():
    model = random_model()
    y = model.simulate(2, 3, seed=0)[1]
    for change, message in (
        (
            {"observation": lambda x, t: x},
            r"Expected observation to map \(3, 2, 3\) to \(3, 2, 2\)",
        ),
        ({"transition": lambda x, t: x[..., 0]}, "Expected transition to map"),
    ):
        with pytest.raises(ValueError, match=message):
            extended_kalman_filter(as_nonlinear(model, **change), y)
    with pytest.raises(ValueError, match="dtype torch.float64; got torch.float32"):
        extended_kalman_filter(as_nonlinear(model), y.float())
