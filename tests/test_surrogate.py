"""Surrogates of expensive likelihoods: exact answers from few calls, or doubt."""

import math
import warnings

import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.infer import infer
from amortized.infer.inputs.problem import make_problem
from amortized.program.density import ProgramDensity
from amortized.sampling.laplace import far_maxima
from amortized.sampling.steps.likelihood_surrogate import LikelihoodSurrogate, SurrogateDensity
from amortized.sampling.surrogate import Known, missed_maxima

X = torch.tensor([-1.0, 0.0, 1.0, 2.0], dtype=torch.float64).unsqueeze(-1)
Y = torch.tensor([0.1, 0.9, 1.6, 3.2], dtype=torch.float64)


def line(x, y=None):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.5).to_event(1))
    mean = w[0] + w[1] * x[:, 0]
    return pyro.sample("y", dist.Normal(mean, 0.7).to_event(1), obs=y)


def exact_line(y):
    design = torch.cat([torch.ones(4, 1), X], 1).numpy()
    noise, prior = 0.49 * torch.eye(4).numpy(), 2.25 * torch.eye(2).numpy()
    return oracles.linear_gaussian(design, y.numpy(), torch.zeros(2).numpy(), prior, noise)


def banana(x, y=None):
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    return pyro.sample("y", dist.Normal(b - a**2, 0.5).expand([len(x)]).to_event(1), obs=y)


def test_answers_are_exact_for_every_dataset_of_a_batch():
    ys = torch.stack([Y, Y.flip(0) - 1])
    found = infer(line, X.expand(2, 4, 1), ys, method="surrogate", n_draws=600, seed=1)
    for i, y in enumerate(ys):
        mean, covariance, evidence = exact_line(y)
        sd = torch.tensor(covariance).diagonal().sqrt()
        error = found.log_evidence_error[i]
        assert abs(found.log_evidence[i] - evidence) < 4.5 * error + 1e-3
        assert error < 0.1
        assert ((found.mean["w"][i] - torch.tensor(mean)) / sd).abs().max() < 0.3
    assert not any(found.diagnostics["doubt"])
    assert (found.diagnostics["k_hat"] < 0.7).all()


def test_far_fewer_calls_than_plain_smc_and_the_same_evidence():
    y = torch.tensor([1.5], dtype=torch.float64)
    x = torch.zeros(1, 0, dtype=torch.float64)
    one = infer(banana, x, y, method="surrogate", n_draws=400, seed=2)
    other = infer(banana, x, y, method="smc", seed=2)
    assert 5 * one.diagnostics["likelihood_calls"] < other.diagnostics["likelihood_calls"]
    error = math.hypot(one.log_evidence_error, other.log_evidence_error)
    assert abs(one.log_evidence - other.log_evidence) < 4.5 * error
    assert not one.diagnostics["doubt"]


def test_a_likelihood_that_cannot_be_learnt_is_right_or_in_doubt():
    """Noise of the place: rough at every scale, so that the weights have a heavy tail."""

    def rough(x, y=None):
        t = pyro.sample("t", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.factor("rough", 6 * torch.sin(1e4 * t).sum())
        return pyro.sample("y", dist.Normal(t[0], 1.0).expand([len(x)]).to_event(1), obs=y)

    y = torch.zeros(1, dtype=torch.float64)
    x = torch.zeros(1, 0, dtype=torch.float64)
    # The mean of exp(6 sin) over a period is a Bessel function; y is N(0, 2) apart from it.
    bessel = torch.special.i0(torch.tensor(6.0, dtype=torch.float64)).log()
    exact = 2 * bessel - 0.5 * math.log(2 * math.pi * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = infer(rough, x, y, method="surrogate", n_draws=500, most_calls=200, seed=3)
    off = abs(found.log_evidence - exact) / found.log_evidence_error
    assert found.diagnostics["doubt"] or off < 4.5


def test_calls_are_those_of_the_true_likelihood(monkeypatch):
    seen, original = [], ProgramDensity.over_all

    def counting(self, function, particles):
        if function == self.evaluate:
            seen.append(particles.shape[0] * particles.shape[1])
        return original(self, function, particles)

    monkeypatch.setattr(ProgramDensity, "over_all", counting)
    found = infer(line, X, Y, method="surrogate", n_draws=50, seed=4)
    assert sum(seen) <= found.diagnostics["likelihood_calls"] + 100  # and checks of the answer
    assert found.diagnostics["likelihood_calls"] <= sum(seen)


def test_prior_is_evaluated_without_the_likelihood():
    n_runs = []

    def costly(x, y=None):
        t = pyro.sample("t", dist.Exponential(1.0))
        n_runs.append(1)
        return pyro.sample("y", dist.Normal(t, 1.0).expand([len(x)]).to_event(1), obs=y)

    density = ProgramDensity(costly, torch.zeros(1, 1, 0).double(), torch.zeros(1, 1).double())
    u = torch.randn(1, 5, 1, dtype=torch.float64)
    n_runs.clear()
    log_prior = density.log_prior(u)
    assert not n_runs and density.n_calls == 0
    torch.testing.assert_close(log_prior, density.log_prior_and_likelihood(u)[0])
    assert n_runs and density.n_calls == 5


def test_surrogate_interpolates_and_is_bounded():
    u = torch.randn(300, 2, dtype=torch.float64)
    fitted = LikelihoodSurrogate(u, torch.sin(2 * u[:, 0]) - u[:, 1].abs())
    inner = 0.7 * torch.randn(100, 2, dtype=torch.float64)
    error = fitted(inner) - torch.sin(2 * inner[:, 0]) + inner[:, 1].abs()
    assert error.abs().mean() < 0.1
    assert (fitted(1000 * u) < 5.0).all()
    known = LikelihoodSurrogate(u, torch.where(u[:, 0] > 0, -torch.inf, -(u[:, 1] ** 2)))
    assert known(u).isfinite().all()


def test_density_keeps_the_prior_and_takes_rows():
    problem = make_problem(line, X, Y, GaussianMixture.from_moments(torch.ones(2), torch.eye(2)))
    own = problem.density()
    u = torch.randn(1, 6, 2, dtype=torch.float64)
    fitted = LikelihoodSurrogate(torch.randn(50, 2).double(), torch.randn(50).double())
    density = SurrogateDensity(own, fitted, 0.5)
    prior, likelihood = density.log_prior_and_likelihood(u)
    torch.testing.assert_close(prior, own.log_prior_and_likelihood(u)[0])
    torch.testing.assert_close(likelihood, 0.5 * fitted(u))
    twice = density.take(torch.tensor([0, 0])).log_density(u.expand(2, 6, 2))
    torch.testing.assert_close(twice[1], (prior + likelihood)[0])


def readings(x, y=None):
    m = pyro.sample("m", dist.Cauchy(0.0, 1.0))
    return pyro.sample("y", dist.Cauchy(m, 1.0).expand([len(x)]).to_event(1), obs=y)


Y_FAR = torch.tensor([0.0, 100.0, 101.0], dtype=torch.float64)  # 45% of the mass is near 100


def test_a_mode_far_from_a_prior_with_heavy_tails_is_found_and_missed():
    far = make_problem(readings, torch.zeros(3, 0), Y_FAR, None).density()
    u = far_maxima(far)[0]
    assert (u - 100.5).abs().min() < 1.0
    near = 2.0 * torch.randn(200, 1, dtype=torch.float64)
    known, draws = (Known(at, far.log_likelihood(at[None])[0]) for at in (u, near))
    assert ((missed_maxima(far, known, draws) - 100.5).abs() < 5.0).all()
    both = Known(*(torch.cat(pair) for pair in zip(draws, known, strict=True)))
    assert not len(missed_maxima(far, known, both))
    assert not far_maxima(make_problem(line, X, Y, None).density()).numel()


@pytest.mark.parametrize("seed", range(3))
def test_only_latents_with_heavy_tails_are_moved_far(seed):
    """Beside eight standard normals, which would be hopeless at ten spreads."""

    def mixed(x, y=None):
        pyro.sample("b", dist.Normal(torch.zeros(8), 1.0).to_event(1))
        return readings(x, y)

    torch.manual_seed(seed)
    found = far_maxima(make_problem(mixed, torch.zeros(3, 0), Y_FAR, None).density())
    assert found.shape[-1] == 9 and found[..., :8].abs().max() < 5.0


def discrete(x, y=None):
    z = pyro.sample("z", dist.Bernoulli(0.3))
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(m + z, 1.0).expand([len(x)]).to_event(1), obs=y)


WRONG = {
    "discrete": (discrete, {}, "without discrete latents"),
    "few": (line, {"n_start": 3}, "n_start and n_each >= 10"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_are_refused(name):
    program, options, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        infer(program, X, Y, method="surrogate", **options)
