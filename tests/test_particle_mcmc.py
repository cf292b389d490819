"""SMC^2 against a grid with exact Kalman evidence, and simulation-based calibration."""

import math
from types import SimpleNamespace

import pytest
import torch
from scipy import stats
from torch.distributions import Dirichlet, Gamma, Independent, LogNormal, Normal, Uniform

from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.parameter_space import ParameterSpace
from amortized.sampling.filters.particle_mcmc import smc_squared

PRIOR = {"rho": Uniform(-1.0, 1.0), "scale": LogNormal(0.0, 0.5)}


def autoregression(latents):
    """x_t ~ N(rho x_{t-1}, scale^2), y_t ~ N(x_t, 1)."""
    rho, scale = latents["rho"][:, None, None], latents["scale"][:, None, None]
    one = torch.ones(1, 1, dtype=rho.dtype)
    return LinearGaussianModel(rho, scale**2, one, one, torch.zeros(1, dtype=rho.dtype), one)


def of_one(rho, scale):
    return autoregression({"rho": torch.tensor([rho]), "scale": torch.tensor([scale])})


def grid_posterior(y, n=40):
    """Posterior means, sds and log evidence of one series, on a midpoint grid in quantiles."""
    levels = (torch.arange(n) + 0.5) / n
    rho, scale = torch.meshgrid(
        PRIOR["rho"].icdf(levels), PRIOR["scale"].icdf(levels), indexing="ij"
    )
    latents = {"rho": rho.flatten().double(), "scale": scale.flatten().double()}
    log_z = kalman_filter(autoregression(latents), y.double()).log_evidence
    weights = log_z.softmax(0)
    means = {name: weights @ value for name, value in latents.items()}
    sds = {n: (weights @ (v - means[n]) ** 2).sqrt() for n, v in latents.items()}
    return means, sds, log_z.logsumexp(0) - math.log(n * n)


STARTS = {
    "prior": None,
    "warm": {"rho": Uniform(-1.0, 1.0), "scale": LogNormal(0.2, 0.6)},
}


@pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
def test_posterior_and_evidence_equal_the_grid(start):
    """A mean of M draws is off by sd / sqrt(M); 4 series at 5 of these fail once in 10^4 runs."""
    n_series, n_draws = 4, 200
    y = torch.cat([of_one(0.8, 1.0).simulate(1, 20, seed=i)[1] for i in range(n_series)])
    y[1, 10:13] = torch.nan
    got = smc_squared(
        autoregression, PRIOR, y, n_draws=n_draws, n_particles=64, start=start, seed=1
    )
    assert got.started_from == ("latent_prior" if start is None else "start")
    assert (got.collapsed_at == -1).all() and (got.n_rejuvenations >= 1).all()
    assert (got.acceptance > 0.1).all() and (got.n_distinct > 0.5 * n_draws).all()
    assert got.ess.shape == (n_series, 20)
    errors = []
    for i in range(n_series):
        means, sds, log_evidence = grid_posterior(y[i : i + 1])
        errors.append(got.log_evidence[i] - log_evidence)
        for name in PRIOR:
            draws = got.draws[name][:, i].double()
            assert abs(draws.mean() - means[name]) < 5 * sds[name] / math.sqrt(n_draws) * 1.5
            assert abs(draws.std() / sds[name] - 1) < 0.3
    assert torch.stack(errors).abs().max() < 0.8
    assert torch.stack(errors).mean().abs() < 0.3


def sbc_p_values(build, n_series=128, n_draws=32):
    """p-values of the ranks of the true parameters among the draws, at random within their step."""
    truth = {name: law.sample((n_series,)) for name, law in PRIOR.items()}
    y = autoregression(truth).simulate(n_series, 6, seed=2)[1]
    got = smc_squared(build, PRIOR, y, n_draws=n_draws, n_particles=32, seed=3)
    below = torch.stack([(got.draws[name] < truth[name]).sum(0) for name in PRIOR])
    ranks = (below + torch.rand(below.shape)) / (n_draws + 1)
    return [stats.kstest(each.numpy(), "uniform").pvalue for each in ranks]


def test_simulation_based_calibration():
    """Fails once in 500 runs of a right sampler."""
    assert min(sbc_p_values(autoregression)) > 1e-3


def test_calibration_catches_a_wrong_program():
    """The planted fault: states that move half as far."""

    def wrong(latents):
        return autoregression(latents | {"scale": 0.5 * latents["scale"]})

    assert min(sbc_p_values(wrong)) < 1e-3


def test_calibration_catches_a_forgotten_jacobian(monkeypatch):
    right = ParameterSpace.log_prob

    def without(self, u, laws=None):
        jacobian = torch.log(self.latents(u)["scale"])
        return right(self, u, laws) - jacobian

    monkeypatch.setattr(ParameterSpace, "log_prob", without)
    # It moves posteriors by half a standard deviation: of 128 series some seeds would not see it.
    assert min(sbc_p_values(autoregression, n_series=384)) < 1e-3


def test_impossible_observations_are_flagged():
    def build(latents):
        model = autoregression(latents)
        return SimpleNamespace(
            sample_initial=model.sample_initial,
            sample_transition=model.sample_transition,
            log_observation=lambda y, x, t: torch.where((y - x).abs() < 4, 0.0, -torch.inf)[..., 0],
        )

    y = torch.zeros(2, 6, 1)
    y[1, 3] = 1e6
    got = smc_squared(build, PRIOR, y, n_draws=32, n_particles=32)
    assert got.collapsed_at.tolist() == [-1, 3]
    assert got.log_evidence[0].isfinite() and got.log_evidence[1] == -torch.inf
    assert got.draws["rho"].isfinite().all()


def test_result_depends_on_the_arguments_alone():
    y = of_one(0.5, 1.0).simulate(1, 6, seed=0)[1]
    state = torch.random.get_rng_state()
    first, again = (
        smc_squared(autoregression, PRIOR, y, n_draws=32, n_particles=16, seed=4) for _ in range(2)
    )
    assert first.draws["rho"].equal(again.draws["rho"])
    assert torch.random.get_rng_state().equal(state)


LAWS = {
    "scalars": PRIOR,
    "vector": {"a": Independent(Normal(torch.zeros(2), torch.ones(2)), 1), "b": Gamma(2.0, 1.0)},
    "simplex": {"share": Dirichlet(torch.tensor([1.0, 2.0, 3.0]))},
}


@pytest.mark.parametrize("prior", LAWS.values(), ids=list(LAWS))
def test_parameter_space_goes_there_and_back(prior):
    space = ParameterSpace(prior)
    latents = {name: law.sample((5, 4)) for name, law in prior.items()}
    back = space.latents(space.unconstrained(latents))
    for name, value in latents.items():
        torch.testing.assert_close(back[name], value, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prior", LAWS.values(), ids=list(LAWS))
def test_parameter_space_density_integrates_to_one(prior):
    """Importance sampling from a wide normal; 5 standard errors."""
    space = ParameterSpace(prior)
    dim = space.unconstrained({n: law.sample((1,)) for n, law in prior.items()}).shape[-1]
    wide = Independent(torch.distributions.StudentT(3.0, torch.zeros(dim), 1.5), 1)
    u = wide.sample((100_000,))
    ratio = (space.log_prob(u) - wide.log_prob(u)).exp()
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / math.sqrt(len(u))


def test_parameters_far_out_are_impossible_not_an_error():
    space = ParameterSpace(PRIOR)
    log_prob = space.log_prob(torch.tensor([[0.0, -1e4], [0.0, 1e4], [0.0, 0.0]]))
    assert log_prob[:2].tolist() == [-math.inf] * 2 and log_prob[2].isfinite()


Y = torch.zeros(2, 3, 1)
WRONG = {
    "data": ({"y": Y[0]}, r"Expected y of shape \(batch, time, observed\); got \(3, 1\)"),
    "draws": ({"n_draws": 1}, "Expected n_draws to be an integer >= 2; got 1"),
    "particles": ({"n_particles": 0}, "Expected n_particles to be an integer >= 1; got 0"),
    "threshold": ({"ess_threshold": 0.0}, r"ess_threshold in \(0, 1\]; got 0.0"),
    "no prior": ({"latent_prior": {}}, "at least one parameter; got none"),
    "batch": (
        {"latent_prior": PRIOR | {"rho": Uniform(-torch.ones(2), torch.ones(2))}},
        r"prior of 'rho' without batch dimensions; got \(2,\). Wrap it",
    ),
    "start": (
        {"start": {"rho": Normal(0.0, 1.0)}},
        r"Expected start to have the parameters \['rho', 'scale'\]; got \['rho'\]",
    ),
    "outside": (
        {"start": {"rho": Normal(0.0, 9.0), "scale": LogNormal(0.0, 1.0)}},
        "Expected start to lie inside the support of latent_prior",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=list(WRONG))
def test_wrong_arguments(no_shape_checks, change, message):
    arguments = {"build": autoregression, "latent_prior": PRIOR, "y": Y, "n_draws": 8}
    with pytest.raises(ValueError, match=message):
        smc_squared(**(arguments | {"n_particles": 8} | change))
