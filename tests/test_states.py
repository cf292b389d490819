"""`infer` on state-space models: paths, filters and evidence meet the Kalman smoother."""

import pytest
import torch

from amortized.infer import infer
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.priors.state_space.stochastic_volatility import StochasticVolatility
from amortized.sampling.filters.extended_kalman import NonlinearGaussianModel
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.kalman_smoother import kalman_smoother

ONE = torch.ones(1, 1, dtype=torch.float64)
WALK = LinearGaussianModel(
    torch.tensor([[1.0, 0.3], [0.0, 0.9]]).double(),
    0.2 * torch.eye(2).double(),
    torch.tensor([[1.0, 0.0]]).double(),
    0.5 * ONE,
    torch.zeros(2).double(),
    torch.eye(2).double(),
    transition_offset=torch.tensor([0.1, -0.2]).double(),
)
SMOOTH = NonlinearGaussianModel(
    transition=lambda x, t: x @ WALK.transition.mT + WALK.transition_offset,
    transition_cov=WALK.transition_cov,
    observation=lambda x, t: x @ WALK.observation.mT,
    observation_cov=WALK.observation_cov,
    initial_mean=WALK.initial_mean,
    initial_cov=WALK.initial_cov,
)
Y = WALK.simulate(3, 6, seed=0)[1]
Y[1, 2] = torch.nan


def test_paths_are_those_of_the_smoother():
    posterior, oracle = infer(WALK, Y, n_draws=20_000), kalman_smoother(WALK, Y)
    assert posterior.diagnostics["method"] == "exact" and posterior.batch_shape == (3,)
    torch.testing.assert_close(posterior.log_evidence, oracle.log_evidence)
    spread = oracle.cov.diagonal(dim1=-1, dim2=-2).sqrt()
    assert ((posterior.mean["states"] - oracle.mean) / spread).abs().max() < 0.04
    assert (posterior.std["states"] / spread - 1).abs().max() < 0.03
    # A step's noise given the data is no wider than the prior's: paths, not margins, are drawn.
    draws = posterior.draws["states"]
    steps = draws[:, :, 1:] - draws[:, :, :-1] @ WALK.transition.mT
    assert (steps.var(0) < 1.05 * 0.2).all() and (steps.var(0) > 0.02).all()


@pytest.mark.parametrize("method, model", [("particle_filter", WALK), ("extended_kalman", SMOOTH)])
def test_filters_meet_the_kalman_filter(method, model):
    posterior, oracle = infer(model, Y, method=method, n_draws=20_000), kalman_filter(WALK, Y)
    spread = oracle.cov[:, -1].diagonal(dim1=-1, dim2=-2).sqrt()
    assert ((posterior.mean["state"] - oracle.mean[:, -1]) / spread).abs().max() < 0.06
    assert (posterior.std["state"] / spread - 1).abs().max() < 0.06
    assert (posterior.log_evidence - oracle.log_evidence).abs().max() < 0.1


def test_one_series_has_no_batch_and_seeds_repeat():
    for y in (Y[0], Y[0, :, 0]):
        posterior = infer(WALK, y, n_draws=10, seed=3)
        assert posterior.batch_shape == () and posterior.draws["states"].shape == (10, 6, 2)
    again = infer(WALK, Y[0], n_draws=10, seed=3)
    assert torch.equal(posterior.draws["states"], again.draws["states"])


def test_a_batch_of_models_takes_one_series_each():
    scaled = torch.tensor([0.5, 2.0]).double()[:, None, None] * ONE
    models = LinearGaussianModel(ONE, scaled, ONE, ONE, torch.zeros(1).double(), ONE)
    y = Y[:2]
    posterior, oracle = infer(models, y, n_draws=4000), kalman_smoother(models, y)
    spread = oracle.cov.diagonal(dim1=-1, dim2=-2).sqrt()
    assert ((posterior.mean["states"] - oracle.mean) / spread).abs().max() < 0.1
    assert (posterior.std["states"] / spread - 1).abs().max() < 0.06


def test_auto_takes_the_method_that_suits_the_model():
    volatility = StochasticVolatility(*torch.tensor([-1.0, 0.95, 0.2]))
    chosen = {infer(m, Y[:1], n_draws=50).diagnostics["method"] for m in (volatility, SMOOTH)}
    assert chosen == {"particle_filter", "extended_kalman"}


def test_an_impossible_observation_is_admitted():
    class Bounded(StochasticVolatility):
        def log_observation(self, y, state, t):
            inside = super().log_observation(y, state, t)
            return torch.where(y.abs().amax(-1) < 5, inside, -torch.inf)

    model = Bounded(*torch.tensor([-1.0, 0.95, 0.2]))
    with pytest.warns(UserWarning, match="killed all particles"):
        posterior = infer(model, torch.tensor([0.1, 9.0, 0.1]), n_draws=50)
    assert posterior.diagnostics["collapsed_at"] == 1 and posterior.log_evidence == -torch.inf


WRONG = {
    "method": (lambda: infer(WALK, Y, method="smc"), "method for states.*smc_squared"),
    "model": (lambda: infer(SMOOTH, Y, method="particle_filter"), "Expected a StateSpaceModel"),
    "inputs": (lambda: infer(WALK, Y, Y), "only observations"),
    "infinite": (lambda: infer(WALK, Y * torch.inf), "y to be finite"),
    "empty": (lambda: infer(WALK, Y[:, :0]), "at least one step"),
    "observed": (lambda: infer(WALK, Y.expand(-1, -1, 2)), r"\(batch, time, 1\)"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
