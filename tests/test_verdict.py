"""Answers that were wrong in silence once, and others of their kind: right now, or in doubt."""

import math
import warnings

import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.checks.importance_check import compared
from amortized.sampling.checks.verdict import LIMITS, judged, measured, warn_of_doubt
from amortized.sampling.draws import Draws, put_draws, take_draws
from amortized.sampling.nuts import nuts
from amortized.sampling.smc import smc

METHODS = ("smc", "nuts", "hmc", "laplace", "vi", "importance")
OPTIONS = {"nuts": {"n_warmup": 200}, "vi": {"n_steps": 600}}
FEW_CHAINS = {"n_warmup": 100, "n_chains": 2}
ONE = torch.zeros(1)


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


def branching(x, y=None):
    """A trace through a < 1.5 misses the other branch."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    loc = a if a < 1.5 else 1.5 + 4 * (a - 1.5)
    return pyro.sample("y", dist.Normal(loc, 1.0).expand([len(x)]).to_event(1), obs=y)


def spike_and_slab(x, y=None):
    """Half of the mass in a hundredth of the area."""
    theta = pyro.sample("theta", dist.Uniform(-10.0, 10.0).expand([2]).to_event(1))
    spike, slab = (dist.Normal(theta, s).log_prob(tensor(0.0)).sum(-1) for s in (0.1, 1.0))
    pyro.factor("mixture", torch.logaddexp(spike, slab) - math.log(2.0))
    return pyro.sample("y", dist.Normal(0 * theta[0], 1.0).expand([len(x)]).to_event(1), obs=y)


def minor_mode(x, y=None):
    """At -8 there is a mode with exp(-60) of the mass."""
    theta = pyro.sample("theta", dist.Normal(0.0, 10.0))
    minor = dist.Normal(theta, 1.0).log_prob(tensor(-8.0)).squeeze() - 60
    major = dist.Normal(theta, 0.05).log_prob(tensor(6.0)).squeeze()
    pyro.factor("data", torch.logaddexp(minor, major))
    return pyro.sample("y", dist.Normal(0 * theta, 1.0).expand([len(x)]).to_event(1), obs=y)


def heavy_tailed(x, y=None):
    scale = pyro.sample("scale", dist.HalfCauchy(1.0))
    return pyro.sample("y", dist.Normal(0.0, scale).expand([len(x)]).to_event(1), obs=y)


def walk(x, y=None):
    """A centred random walk: a funnel."""
    q = pyro.sample("q", dist.HalfNormal(1.0))
    r = pyro.sample("r", dist.HalfNormal(1.0))
    states, state = [], tensor(0.0).squeeze()
    for t in range(len(x)):
        state = pyro.sample(f"x{t}", dist.Normal(state, q))
        states.append(state)
    return pyro.sample("y", dist.Normal(torch.stack(states), r).to_event(1), obs=y)


def banana(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    return pyro.sample("y", dist.Normal(b - a**2, 0.3).expand([len(x)]).to_event(1), obs=y)


def two_modes(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 20.0))
    return pyro.sample("y", dist.Normal(mean.abs(), 0.5).expand([len(x)]).to_event(1), obs=y)


def mixture(x, y=None):
    """Two separated modes with shares of .7 and .3: accurate, and no reason for a warning."""
    mean = pyro.sample("mean", dist.Normal(0.0, 4.0))
    far, near = (dist.Normal(mean, 0.5).log_prob(tensor(at)).squeeze() for at in (4.0, -4.0))
    pyro.factor("data", torch.logaddexp(far + math.log(0.7), near + math.log(0.3)))
    return pyro.sample("y", dist.Normal(0 * mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def schools(x, y=None):
    scale = tensor(15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0)
    mean = pyro.sample("mean", dist.Normal(0.0, 5.0))
    spread = pyro.sample("spread", dist.HalfCauchy(5.0))
    effect = pyro.sample("effect", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(mean + spread * effect, scale).to_event(1), obs=y)


EFFECTS = tensor(28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0)


def normal(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def asked(program, y, method, **options):
    """An answer, and whether it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        posterior = infer(program, y, method=method, **OPTIONS.get(method, {}), **options)
    said = [w for w in caught if "in doubt" in str(w.message)]
    assert bool(said) == bool(posterior.diagnostics["doubt"])
    return posterior, bool(said)


def test_nuts_follows_both_branches():
    with pytest.warns(UserWarning, match="one by one"):
        posterior = infer(
            branching, tensor(5.5, 5.9, 4.8, 5.2), method="nuts", n_draws=400, **FEW_CHAINS
        )
    assert posterior.diagnostics["jit"] is False
    assert abs(posterior.mean["a"] - 2.458) < 0.03 and abs(posterior.std["a"] - 0.125) < 0.02


@pytest.mark.parametrize("start", ["auto", "prior"])
def test_smc_on_a_spike_and_slab_is_right_or_in_doubt(start):
    for seed in range(3):
        posterior, said = asked(spike_and_slab, ONE, "smc", start=start, seed=seed)
        sd = posterior.std["theta"].mean()
        off = abs(posterior.log_evidence - (-math.log(400.0) - 0.5 * math.log(2 * math.pi)))
        right = abs(sd / math.sqrt(0.505) - 1) < 0.2 and off < 5 * posterior.log_evidence_error
        assert right or said


def test_smc_leaves_a_minor_mode_where_it_starts():
    at_minor = GaussianMixture.from_moments(tensor(-8.0), tensor(1.0).unsqueeze(1))
    posterior, said = asked(minor_mode, ONE, "smc", start=at_minor, n_particles=256)
    assert said or abs(posterior.mean["theta"] - 6.0) < 0.02


def test_smc_on_a_centred_walk_is_right_or_in_doubt():
    torch.manual_seed(1)
    y = torch.cumsum(0.3 * torch.randn(5), 0).double() + 0.05 * torch.randn(5).double()
    at = torch.linspace(0.0, 3.0, 301, dtype=torch.float64)[1:]
    q, r = torch.meshgrid(at, at, indexing="ij")
    steps = torch.arange(1, len(y) + 1).double()
    covariance = q.flatten()[:, None, None] ** 2 * torch.minimum(steps[:, None], steps)
    covariance = covariance + r.flatten()[:, None, None] ** 2 * torch.eye(len(y))
    data = torch.distributions.MultivariateNormal(torch.zeros(len(y)).double(), covariance)
    weights = (data.log_prob(y) - (q.flatten() ** 2 + r.flatten() ** 2) / 2).softmax(0)
    # Few moves suffice: right or in doubt is what it must be whatever it was given.
    posterior, said = asked(walk, y, "smc", n_particles=256, max_sweeps=5)
    for name, value in (("q", q.flatten()), ("r", r.flatten())):
        mean = (weights * value).sum()
        sd = (weights * (value - mean).square()).sum().sqrt()
        assert said or abs(posterior.mean[name] - mean) < 0.25 * sd


def test_heavy_tails_are_not_cut():
    y = tensor(1.0)
    density = ProgramDensity(heavy_tailed, torch.zeros(1, 1, 0).double(), y[None])
    u = torch.linspace(-8, 16, 20001, dtype=torch.float64)
    weights = density.log_density(u[None, :, None])[0].softmax(0)
    posterior = infer(heavy_tailed, y, method="smc", n_draws=2000)
    for level in (0.5, 0.9, 0.99):
        right = u[(weights.cumsum(0) < level).sum()].exp()
        share = (posterior.draws["scale"] < right).double().mean()
        assert abs(share - level) < 6 * math.sqrt(level * (1 - level) / 1000)


def test_evidence_from_the_prior_is_as_precise_as_it_says():
    prior = LinearRegressionPrior(7, variance=0.5)
    batch = prior.sample(1, 30, 0, seed=3)
    x, y = (t.double().expand(30, *t.shape[1:]) for t in (batch.x_context, batch.y_context))
    right = prior.posterior(x[:1], y[:1]).log_evidence
    for start in ("prior", "auto"):
        draws = smc(ProgramDensity(prior.model, x, y), start=start)
        z = (draws.log_evidence - right) / draws.log_evidence_error
        assert (z.abs() < 3).double().mean() > 0.9 and draws.log_evidence_error.max() < 0.1


@pytest.mark.parametrize("method", ["laplace", "vi", "hmc", "importance"])
def test_a_banana_that_is_too_bent_is_right_or_in_doubt(method):
    a, b = torch.meshgrid(torch.linspace(-5, 5, 801), torch.linspace(-4, 26, 3001), indexing="ij")
    log_density = -0.5 * a**2 - b**2 / 18 - (b - a**2) ** 2 / 0.18
    weights = log_density.flatten().softmax(0)
    mean = (weights * b.flatten()).sum()
    sd = (weights * (b.flatten() - mean).square()).sum().sqrt()
    posterior, said = asked(banana, ONE, method)
    right = abs(posterior.mean["b"] - mean) < 0.2 * sd and abs(posterior.std["b"] / sd - 1) < 0.2
    assert right or said
    assert said or method not in ("laplace", "vi")  # no normal is like it


@pytest.mark.parametrize("method", ["nuts", "hmc", "laplace", "vi"])
def test_one_mode_of_two_is_in_doubt(method):
    posterior, said = asked(two_modes, torch.full((4,), 12.0), method, n_draws=400)
    assert said or abs((posterior.draws["mean"] > 0).double().mean() - 0.5) < 0.15


def test_a_single_chain_has_its_r_hat():
    density = ProgramDensity(two_modes, torch.zeros(1, 4, 0), torch.full((1, 4), 0.3))
    draws = nuts(density, 100, n_chains=1, n_warmup=50)
    assert draws.diagnostics["r_hat"] > 0.9


@pytest.mark.parametrize("program", [mixture, schools, normal])
def test_no_false_alarm(program):
    y = EFFECTS if program is schools else ONE
    for seed in range(4):
        assert not asked(program, y, "smc", seed=seed)[1]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_states_its_precision(method):
    posterior = infer(normal, torch.ones(5), method=method, **OPTIONS.get(method, {}))
    row = posterior.summary()["mean"]
    assert row["ess_bulk"] > 100 and row["ess_tail"] > 50
    # Moves that overshoot make means more precise than independent draws would; ESS stops there.
    assert row["mcse_mean"] < 1.3 * row["sd"] / math.sqrt(row["ess_bulk"])
    assert 0.4 < row["mcse_sd"] / row["mcse_mean"] < 2.5  # 1 / sqrt(2) for independent draws
    if method != "importance":
        assert abs(row["r_hat"] - 1) < 0.03
    assert posterior.diagnostics["doubt"] == []
    assert posterior.diagnostics["mcse_mean"] < LIMITS["mcse_mean"].value


def test_stated_errors_are_the_scatter_of_replicates():
    """The means of many equal datasets scatter by what each of them states."""
    density = ProgramDensity(
        normal, torch.zeros(64, 3, 0).double(), torch.ones(64, 3, dtype=torch.float64)
    )
    for draws in (smc(density), smc(density, start="prior")):
        sd = draws.u.std()
        stated = measured(density, draws).diagnostics["mcse_mean"].square().mean().sqrt()
        scatter = draws.u.mean(1)[:, 0].std() / sd
        assert 0.6 < scatter / stated < 1.5  # a chi of 63 degrees of freedom is within 30%
        sd_scatter = (draws.u.std(1)[:, 0] / sd).std()
        assert 0.6 < sd_scatter / draws.diagnostics["mcse_sd"].square().mean().sqrt() < 1.5


def test_the_warning_names_the_worst_and_what_helps():
    numbers = {"r_hat": tensor(1.0, 1.5), "mcse_sd": tensor(0.01, math.nan)}
    draws = judged(Draws(torch.zeros(2, 8, 1), None, None, 1, numbers))
    assert draws.diagnostics["doubt"][0] == [] and len(draws.diagnostics["doubt"][1]) == 2
    with pytest.warns(UserWarning, match=r"1 of 2 datasets.*r_hat is 1.5.*What helps: give more"):
        warn_of_doubt(draws.diagnostics["doubt"])
    with pytest.warns(UserWarning, match="These draws are in doubt"):
        warn_of_doubt(draws.diagnostics["doubt"][1])
    warn_of_doubt([])
    warn_of_doubt([[], []])


def test_parts_of_different_samplers_join():
    density = ProgramDensity(normal, torch.zeros(3, 2, 0).double(), torch.ones(3, 2).double())
    particles = judged(smc(density, 100))
    index = torch.tensor([1])
    chains = judged(nuts(density.take(index), 100, n_chains=2, n_warmup=20))
    joined = put_draws(particles, index, chains)
    torch.testing.assert_close(joined.u[1], chains.u[0])
    torch.testing.assert_close(joined.u[2], particles.u[2])
    assert joined.log_evidence[1].isnan() and joined.log_evidence[0] == particles.log_evidence[0]
    assert joined.cluster[1].unique().numel() == 32  # 16 blocks of each chain
    assert joined.diagnostics["doubt"][0] == particles.diagnostics["doubt"][0]
    again = take_draws(joined, torch.tensor([2, 0]))
    torch.testing.assert_close(again.u, particles.u[[2, 0]])


def test_quadrature_agrees_with_nuts_on_a_heavy_tail():
    density = ProgramDensity(heavy_tailed, torch.zeros(1, 1, 0).double(), tensor(1.0)[None])
    grid = lambda u: density.log_density(torch.as_tensor(u)[None, :, None])[0].numpy()  # noqa: E731
    mean, sd, evidence = oracles.moments_by_quadrature(grid, -8, 16)
    posterior = infer(heavy_tailed, tensor(1.0), method="nuts", n_draws=1000, n_warmup=200)
    log_scale = posterior.draws["scale"].log()
    assert abs(log_scale.mean() - mean) < 0.2 * sd
    assert abs(posterior.log_evidence - evidence) < 5 * posterior.log_evidence_error


def test_heavy_tails_hide_no_difference():
    """Means and deviations of Cauchy draws are tails alone; shares below the centre are not."""

    def program(x, y=None):
        m = pyro.sample("m", dist.Cauchy(0.0, 1.0))
        return pyro.sample("y", dist.Normal(0 * m, 1.0).expand([1]).to_event(1), obs=y)

    density = ProgramDensity(program, ONE.reshape(1, 1, 1).double(), tensor(0.0)[None])
    u = density.sample_prior(4000)

    def off(answer):
        return compared(density, *(Draws(each, None, None, 1, {}) for each in (answer, u)))

    assert not any(off(density.sample_prior(4000)).values())
    assert 0.1 < off(u + 0.3)["mean_off"] < 0.5
    assert 0.1 < off(0.7 * u)["sd_off"] < 0.5
