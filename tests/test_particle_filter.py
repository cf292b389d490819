"""Particle filters against the exact Kalman filter, and against the laws of their programs."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from test_kalman import anything, nothing, random_model

from amortized.priors.state_space.sensor_fusion import SensorFusion
from amortized.priors.state_space.stochastic_volatility import (
    StochasticVolatility,
    StochasticVolatilityGuide,
)
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.particle_filter import particle_filter
from amortized.sampling.steps.resampling import systematic_resample

N_REPLICATES = 200


class OptimalProposal:
    """``p(x_t | x_{t-1}, y_t)`` of a linear-Gaussian model, in closed form."""

    def __init__(self, model):
        self.model = model
        cov = model.transition_cov
        self.law = replace(model, initial_cov=cov)

    def _propose(self, mean, cov, y, generator):
        model, h = self.model, self.model.observation
        predicted = torch.distributions.MultivariateNormal(
            mean @ h.T + model.observation_offset, h @ cov @ h.T + model.observation_cov
        )
        gain = torch.linalg.solve(predicted.covariance_matrix[0, 0], h @ cov).T
        centre = mean + (y - predicted.mean) @ gain.T
        factor = torch.linalg.cholesky(cov - gain @ h @ cov)
        white = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        state = centre + white @ factor.T
        # p(x) / q(x) = p(y) / p(y | x)
        return state, predicted.log_prob(y) - model.log_observation(y, state, 0)

    def initial(self, y, shape, generator):
        mean = self.model.initial_mean.expand(*shape, -1)
        return self._propose(mean, self.model.initial_cov, y, generator)

    def step(self, y, state, t, generator):
        mean = state @ self.model.transition.T + self.model.transition_offset
        return self._propose(mean, self.model.transition_cov, y, generator)


def replicates(program, y, n_particles, **options):
    """Evidence estimates of one series, each from its own particles."""
    return particle_filter(program, y.expand(N_REPLICATES, -1, -1), n_particles, **options)


def z_of_evidence(log_evidence, exact):
    """Standard errors between the mean of the unbiased estimates and the evidence."""
    ratio = (log_evidence - exact).exp()
    return ((ratio.mean() - 1) / (ratio.std() / math.sqrt(len(ratio)))).item()


GUIDES = {"bootstrap": lambda model: None, "guided": OptimalProposal}


@pytest.mark.parametrize(
    "guide, missing",
    [
        (GUIDES["bootstrap"], nothing),
        (GUIDES["bootstrap"], anything),
        (GUIDES["guided"], nothing),  # its closed form has no missing entries
    ],
    ids=["bootstrap", "bootstrap, missing", "guided"],
)
@pytest.mark.parametrize("ess_threshold", [0.5, 1.0])
def test_evidence_and_moments_equal_kalman(guide, missing, ess_threshold):
    """The bound of 4 standard errors fails once in 16,000 right filters."""
    model = random_model(2, 1)
    y = missing(model.simulate(1, 15, seed=0)[1])
    exact = kalman_filter(model, y)
    got = replicates(model, y, 300, proposal=guide(model), ess_threshold=ess_threshold)
    assert abs(z_of_evidence(got.log_evidence, exact.log_evidence)) < 4
    assert (got.collapsed_at == -1).all()
    sd = exact.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    error = (got.mean.mean(0) - exact.mean[0]) / sd[0]
    assert error.abs().max() < 0.05
    got_sd = got.cov.mean(0).diagonal(dim1=-2, dim2=-1).sqrt()
    torch.testing.assert_close(got_sd, sd[0], rtol=0.05, atol=0)


def test_a_guide_lowers_the_noise_of_the_evidence():
    model = replace(random_model(2, 1), observation_cov=0.01 * torch.eye(1).double())
    y = model.simulate(1, 15, seed=0)[1]
    bootstrap = replicates(model, y, 100).log_evidence.std()
    guided = replicates(model, y, 100, proposal=OptimalProposal(model)).log_evidence.std()
    assert guided < 0.5 * bootstrap


def test_guide_of_stochastic_volatility_gives_the_same_evidence():
    model = StochasticVolatility(*torch.tensor([-1.0, 0.9, 1.0]))
    y = model.simulate(1, 40, seed=1)[1]
    y[0, 7] = torch.nan
    plain = replicates(model, y, 500).log_evidence
    guided = replicates(model, y, 500, proposal=StochasticVolatilityGuide(model)).log_evidence
    centre = plain.mean()
    difference = (plain - centre).exp().mean() - (guided - centre).exp().mean()
    error = ((plain - centre).exp().var() + (guided - centre).exp().var()).div(N_REPLICATES).sqrt()
    assert abs(difference / error) < 4
    assert guided.std() < plain.std()


PROGRAMS = {
    "linear": lambda: random_model(2, 1, dtype=torch.float32),
    "volatility": lambda: StochasticVolatility(*torch.tensor([-1.0, 0.9, 0.5])),
    "sensors": SensorFusion,
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_true_states_are_calibrated(name):
    """Simulation-based calibration: the simulator and the density are of one law.

    Each true state's place among the weighted particles is uniform. Of all the tests here, a
    right filter fails one in 2,000 runs.
    """
    program = PROGRAMS[name]()
    states, y = program.simulate(400, 12, seed=5)
    particles = particle_filter(program, y, 400, seed=1).particles
    share = particles.weights / particles.total[:, None]
    below = (particles.state < states[:, -1:]).float()
    for place in (share[..., None] * below).sum(1).T:
        assert stats.kstest(place.numpy(), "uniform").pvalue > 5e-5


def test_clipped_ranges_need_their_atoms():
    """The planted fault: without the atoms the density is not the simulator's."""
    program = SensorFusion(dtype=torch.float64)
    grid = torch.linspace(0, 10, 200_001, dtype=torch.float64)[1:-1]
    for distance in (0.2, 5.0, 9.5):
        state = torch.tensor([[[distance, 0, 0, 0]]], dtype=torch.float64)
        y = torch.stack((grid, torch.full_like(grid, torch.nan)), -1)[:, None]
        inside = program.log_observation(y, state.expand(len(y), 1, 4), 0).exp().mean() * 10
        ends = torch.tensor([[[0.0, torch.nan]], [[10.0, torch.nan]]], dtype=torch.float64)
        atoms = program.log_observation(ends, state.expand(2, 1, 4), 0).exp().sum()
        assert abs(inside + atoms - 1) < 1e-4
        assert atoms > (1e-3 if distance != 5.0 else 1e-6)
        generator = torch.Generator().manual_seed(0)
        drawn = program.sample_observation(state.expand(1, 100_000, 4), 0, generator)[..., 0]
        at_ends = ((drawn == 0) | (drawn == 10)).double().mean()
        assert abs(at_ends - atoms) < 4 * (atoms / 100_000).sqrt() + 1e-9


def test_bearings_integrate_to_one():
    program = SensorFusion(dtype=torch.float64)
    angles = torch.linspace(-math.pi, math.pi, 20_001, dtype=torch.float64)[:-1]
    y = torch.stack((torch.full_like(angles, torch.nan), angles), -1)[:, None]
    state = torch.tensor([[[0.1, 0.0, -2.0, 0.0]]], dtype=torch.float64).expand(len(y), 1, 4)
    total = program.log_observation(y, state, 0).exp().mean() * 2 * math.pi
    assert abs(total - 1) < 1e-9


def bounded(model=None):
    """An observation says that the state is within 1 of it, and nothing else."""
    model = model or random_model(1, 1)

    def log_observation(y, state, t):
        return torch.where((y - state).abs()[..., 0] < 1, -math.log(2.0), -torch.inf)

    return SimpleNamespace(
        sample_initial=model.sample_initial,
        sample_transition=model.sample_transition,
        log_observation=log_observation,
    )


@pytest.mark.parametrize("ess_threshold", [0.0, 0.5, 1.0])
def test_impossible_observations_are_flagged(ess_threshold):
    program = bounded()
    y = random_model(1, 1).initial_mean.expand(3, 6, 1).clone()
    y[1, 2] = 1e6
    y[2, 0] = 1e6
    y[:, 4] = torch.nan
    got = particle_filter(program, y, 200, ess_threshold=ess_threshold)
    assert got.collapsed_at[1:].tolist() == [2, 0]
    assert (got.log_evidence[1:] == -torch.inf).all()
    assert got.ess[1, 2] == 0 and got.ess[2, 0] == 0
    assert not got.log_likelihood.isnan().any()
    alone = particle_filter(program, y[:1], 200, ess_threshold=ess_threshold)
    assert alone.collapsed_at[0] == got.collapsed_at[0]


def test_missing_steps_add_nothing():
    model = random_model(2, 1)
    y = model.simulate(3, 10, seed=0)[1]
    y[1, 4:] = torch.nan
    got = particle_filter(model, y, 100)
    assert (got.log_likelihood[1, 4:].abs() < 1e-12).all()
    assert (got.log_likelihood[0] != 0).all()


def test_result_depends_on_the_seed_alone():
    model = random_model(2, 1)
    y = model.simulate(3, 10, seed=0)[1]
    first, again = (particle_filter(model, y, 100, seed=3) for _ in range(2))
    assert first.log_evidence.equal(again.log_evidence)
    assert not first.log_evidence.equal(particle_filter(model, y, 100, seed=4).log_evidence)
    quick = particle_filter(model, y, 100, seed=3, moments=False)
    assert quick.mean is None and quick.log_evidence.equal(first.log_evidence)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_systematic_resampling_equals_its_definition(dtype):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(50, 333, generator=generator, dtype=dtype) ** 8
    weights[:, ::5] = 0
    weights[0], weights[0, 100] = 0, 1
    uniforms = 1 - torch.rand(50, 1, generator=generator, dtype=torch.float64)
    uniforms[1] = 1.0
    got = systematic_resample(weights, uniforms)
    cumulated = weights.double().cumsum(-1)
    positions = (torch.arange(333) + uniforms) / 333 * cumulated[:, -1:]
    want = torch.searchsorted(cumulated, positions.minimum(cumulated[:, -1:]))
    assert (got != want).float().mean() < 1e-3  # ties may round either way
    assert (got - want).abs().max() <= 5
    assert (weights.gather(1, got) > 0).all()
    expected = 333 * weights.double() / weights.double().sum(-1, keepdim=True)
    counts = torch.nn.functional.one_hot(got, 333).sum(1)
    assert ((counts - expected).abs() < 1 + 1e-5).all()


def test_resampling_is_unbiased():
    weights = torch.rand(7, generator=torch.Generator().manual_seed(0)).expand(100_000, 7)
    uniforms = 1 - torch.rand(100_000, 1, dtype=torch.float64)
    counts = torch.nn.functional.one_hot(systematic_resample(weights, uniforms), 7).sum(1)
    expected = 7 * weights[0] / weights[0].sum()
    torch.testing.assert_close(counts.float().mean(0), expected, atol=0.01, rtol=0)


def changed(**methods):
    model = random_model(2, 1)
    names = ("sample_initial", "sample_transition", "log_observation")
    return SimpleNamespace(**({name: getattr(model, name) for name in names} | methods))


WRONG = {
    "two dimensions": ({"y": torch.zeros(3, 4).double()}, r"Expected y of shape \(batch, time"),
    "no particles": ({"n_particles": 0}, "Expected n_particles to be an integer >= 1; got 0"),
    "threshold": ({"ess_threshold": 1.5}, r"ess_threshold in \[0, 1\]; got 1.5"),
    "states": (
        {"program": changed(sample_initial=lambda shape, g: torch.zeros(3, 2).double())},
        r"Expected initial states of shape \(3, 50, 'state'\); got \(3, 2\)",
    ),
    "density": (
        {"program": changed(log_observation=lambda y, x, t: x)},
        r"Expected log_observation of shape \(3, 50\), one number per particle; got \(3, 50, 2\)",
    ),
    "nan": (
        {"program": changed(log_observation=lambda y, x, t: x[..., 0] / (0 if t == 2 else 1) * 0)},
        r"to be finite or -inf; got NaN or \+inf at step 2. Give impossible states -inf",
    ),
    "inf": (
        {"program": changed(log_observation=lambda y, x, t: x[..., 0].abs() + torch.inf)},
        r"got NaN or \+inf at step 0",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=list(WRONG))
def test_wrong_arguments(no_shape_checks, change, message):
    arguments = {"program": changed(), "y": torch.zeros(3, 4, 1).double(), "n_particles": 50}
    with pytest.raises(ValueError, match=message):
        particle_filter(**(arguments | change))
