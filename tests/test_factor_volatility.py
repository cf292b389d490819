"""Factor stochastic volatility against dense normals, its univariate kin and an exact filter."""

import math

import pytest
import torch
from scipy import stats
from test_particle_filter import replicates, z_of_evidence

from amortized.infer import infer
from amortized.priors.state_space.factor_volatility import FactorVolatility
from amortized.priors.state_space.stochastic_volatility import StochasticVolatility
from amortized.sampling.filters.particle_filter import particle_filter

PARAMETERS = {
    "alpha": torch.tensor([-0.05, 0.1]),
    "delta": torch.tensor([0.9, 0.7]),
    "sigma": torch.tensor([0.4, 0.8]),
    "loadings": torch.tensor([[1.0, 0.0], [0.5, 1.0], [-0.8, 0.4], [0.3, 2.0]]),
    "noise_cov": 0.3 * torch.eye(4) + 0.1,
    "mu": torch.tensor([0.1, 0.0, -0.3, 1.0]),
}


def model_of(dtype=torch.float64, **changes):
    return FactorVolatility(**{k: v.to(dtype) for k, v in (PARAMETERS | changes).items()})


def one_factor():
    first = {name: PARAMETERS[name][:1] for name in ("alpha", "delta", "sigma")}
    return model_of(loadings=PARAMETERS["loadings"][:, :1], **first)


@pytest.mark.parametrize("seen", [[0, 1, 2, 3], [1, 3], [2]])
def test_density_is_the_dense_normals(seen):
    model = model_of()
    state = torch.randn(3, 7, 2, dtype=torch.float64)
    y = model.sample_observation(state[:, :1], 0, torch.Generator().manual_seed(0))
    loadings, variance = model.loadings[seen], state.exp()
    cov = (loadings * variance.unsqueeze(-2)) @ loadings.mT + model.noise_cov[seen][:, seen]
    dense = torch.distributions.MultivariateNormal(model.mu[seen], cov)
    gone = [i for i in range(4) if i not in seen]
    expected = dense.log_prob(y[..., seen])
    torch.testing.assert_close(
        model.log_observation(y.index_fill(-1, _index(gone), torch.nan), state, 0), expected
    )


def _index(values):
    return torch.tensor(values, dtype=torch.long)


def test_one_asset_without_noise_is_univariate():
    """The same chance gives the same states, and a vanishing Omega the same density."""
    one = torch.ones(1)
    model = model_of(
        alpha=-0.1 * one,
        delta=0.9 * one,
        sigma=0.3 * one,
        mu=0 * one,
        loadings=torch.ones(1, 1),
        noise_cov=1e-8 * torch.ones(1, 1),
    )
    peer = StochasticVolatility(*torch.tensor([-1.0, 0.9, 0.3], dtype=torch.float64))
    states = []
    for program in (model, peer):
        generator = torch.Generator().manual_seed(1)
        first = program.sample_initial((2, 50), generator)
        states.append(program.sample_transition(first, 1, generator))
    torch.testing.assert_close(*states, rtol=1e-5, atol=1e-6)
    y = torch.tensor([[[0.3]], [[-1.2]]], dtype=torch.float64)
    ours, theirs = (program.log_observation(y, states[1], 1) for program in (model, peer))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def forward_on_grid(model, y, n=600):
    """Evidence, and mean of the last state, by summing one factor's transitions on a grid."""
    centre, scale = model.alpha / (1 - model.delta), model.sigma / (1 - model.delta**2).sqrt()
    h = centre + scale * torch.linspace(-8, 8, n, dtype=torch.float64)
    width = h[1] - h[0]
    step = torch.distributions.Normal(model.alpha + model.delta * h, model.sigma)
    log_step = step.log_prob(h.unsqueeze(-1)) + width.log()
    log_weights = torch.distributions.Normal(centre, scale).log_prob(h) + width.log()
    for t in range(y.shape[1]):
        if t:
            log_weights = (log_step + log_weights).logsumexp(-1)
        log_weights = log_weights + model.log_observation(y[:, t : t + 1], h[None, :, None], t)[0]
    return log_weights.logsumexp(0), log_weights.softmax(0) @ h


def test_particle_filter_meets_the_exact_filter():
    """The bound of 4 standard errors fails once in 16,000 right filters."""
    model = one_factor()
    y = model.simulate(1, 20, seed=3)[1]
    y[0, 4, 1], y[0, 9] = torch.nan, torch.nan
    log_evidence, mean = forward_on_grid(model, y)
    got = replicates(model, y, 400)
    assert abs(z_of_evidence(got.log_evidence, log_evidence)) < 4
    last = got.mean[:, -1, 0]
    assert abs(last.mean() - mean) < 5 * last.std() / math.sqrt(len(last)) + 0.01
    posterior = infer(model, y[0], n_draws=20_000)
    assert posterior.diagnostics["method"] == "particle_filter"
    assert abs(posterior.log_evidence - log_evidence) < 0.2


def test_true_log_variances_are_calibrated():
    """Each one's place among the weighted particles is uniform."""
    program = model_of(torch.float32)
    states, y = program.simulate(400, 12, seed=5)
    particles = particle_filter(program, y, 400, seed=1).particles
    share = particles.weights / particles.total[:, None]
    below = (particles.state < states[:, -1:]).float()
    for place in (share[..., None] * below).sum(1).T:
        assert stats.kstest(place.numpy(), "uniform").pvalue > 5e-5


WRONG = {
    "loadings": ({"loadings": torch.ones(4)}, "loadings"),
    "alpha": ({"alpha": torch.zeros(3)}, "alpha of shape"),
    "mu": ({"mu": torch.zeros(2)}, "mu of shape"),
    "delta": ({"delta": torch.tensor([0.5, 1.0])}, "delta between -1 and 1"),
    "sigma": ({"sigma": torch.tensor([0.5, 0.0])}, "sigma above 0"),
    "factor": ({"noise_cov": torch.ones(4, 4).tril()}, "symmetric and positive definite"),
    "singular": ({"noise_cov": torch.zeros(4, 4)}, "symmetric and positive definite"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_wrong_parameters(changes, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        model_of(**changes)
