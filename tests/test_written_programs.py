"""Programs as people write them: named data, missing answers, deterministic sites, flat priors."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer

EFFECTS = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
ERRORS = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
NAN = math.nan


def schools(sigma, effects=None):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("schools", len(sigma)):
        theta = pyro.sample("theta", dist.Normal(mu, 10.0))
        pyro.sample("effects", dist.Normal(theta, sigma), obs=effects)
    pyro.deterministic("best", theta.max())


def test_arguments_and_observations_of_any_name():
    posterior = infer(schools, data={"sigma": ERRORS, "effects": EFFECTS}, n_draws=4000)
    y, variance = torch.tensor(EFFECTS).double(), torch.tensor(ERRORS).double() ** 2 + 100
    precision = 1 / 25 + (1 / variance).sum()
    mean = (y / variance).sum() / precision
    assert posterior.diagnostics["method"] == "exact"
    assert abs(posterior.mean["mu"] - mean) < 5 / math.sqrt(4000 * precision)
    law = dist.MultivariateNormal(torch.zeros(8), 25 * torch.ones(8, 8) + variance.diag())
    torch.testing.assert_close(posterior.log_evidence, law.log_prob(y), rtol=1e-6, atol=1e-6)
    draws = posterior.draws
    torch.testing.assert_close(draws["best"], draws["theta"].amax(-1))
    with pytest.raises(ValueError, match=r"got data by names.*posterior_predictive"):
        posterior.predictive(torch.zeros(1, 1))


def two_kinds(x, counts, weights, offset=0.0):
    """Two observed sites of different shapes, one of integers, and a constant."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("days", len(counts)):
        pyro.sample("counts", dist.Poisson(rate), obs=counts)
    with pyro.plate("rows", len(weights)):
        pyro.sample("weights", dist.Exponential(rate * x + offset), obs=weights)


def test_several_observations_add_up():
    x, counts, weights = [1.0, 2.0, 0.5], [2, 0, 3, 1], [0.2, 0.4, 1.1]
    data = {"x": x, "counts": counts, "weights": weights, "offset": 0.0}
    posterior = infer(two_kinds, data, n_draws=4000)
    a = 2.0 + sum(counts) + 3
    b = 1.0 + 4 + sum(u * w for u, w in zip(x, weights, strict=True))
    assert posterior.diagnostics["stage"] == "exact"
    assert abs(posterior.mean["rate"] - a / b) < 5 * math.sqrt(a) / b / math.sqrt(4000)


def test_data_that_do_not_fit_the_arguments_are_refused():
    with pytest.raises(ValueError, match=r"names of the program's arguments.*missing.*sigma"):
        infer(schools, data={"effects": EFFECTS})
    with pytest.raises(ValueError, match="got both"):
        infer(schools, [1.0], data={"effects": EFFECTS})
    with pytest.raises(ValueError, match="data={...}"):
        infer(schools)
    with pytest.raises(ValueError, match="at least one array"):
        infer(lambda n: None, data={"n": 3})


def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    return pyro.sample("y", dist.Normal(slope * x[:, 0], 0.5).to_event(1), obs=y)


def joint_rows(x, y=None):
    """The same rows as one law in which the slope is integrated out, and a shift."""
    shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
    covariance = 4 * x @ x.T + 0.25 * torch.eye(len(x), dtype=x.dtype)
    return pyro.sample("y", dist.MultivariateNormal(shift.expand(len(x)), covariance), obs=y)


def pairs(x, y=None):
    """A row is two numbers, either of which may be missing."""
    shift = pyro.sample("shift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=x.dtype)
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.MultivariateNormal(shift, covariance), obs=y)


def mixed(x, y=None):
    """Rows with a discrete latent of their own."""
    centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        return pyro.sample("y", dist.Normal(centre + 3 * z, 1.0), obs=y)


def lengths(x, y=None):
    """Of positive numbers, which NaN and what stands for it are not."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 2.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Exponential(rate), obs=y)


X = torch.tensor([[0.5], [1.0], [-1.0], [2.0], [0.3]], dtype=torch.float64)
Y = torch.tensor([0.4, 0.9, 1.3, 2.2, 0.1], dtype=torch.float64)
KEPT = torch.tensor([0, 1, 3])
LOST = Y.clone()
LOST[[2, 4]] = NAN


@pytest.mark.parametrize("program", [line, joint_rows, mixed, lengths])
def test_missing_answers_are_integrated_out(program):
    """The density is that of the rows that are there."""
    options = {"method": "smc", "n_draws": 500}
    posterior = infer(program, X, LOST, **options)
    expected = infer(program, X[KEPT], LOST[KEPT], **options)
    latents = {k: v for k, v in expected.draws.items() if k != "z"}
    slack = 4 * (posterior.log_evidence_error**2 + expected.log_evidence_error**2) ** 0.5 + 0.02
    assert abs(posterior.log_evidence - expected.log_evidence) < slack
    ours = posterior.log_prob(latents) + posterior.log_evidence
    torch.testing.assert_close(ours, expected.log_prob(latents) + expected.log_evidence)


def test_datasets_may_miss_different_answers():
    y = torch.stack([Y, LOST, Y])
    y[2, 0] = NAN
    posterior = infer(line, X.expand(3, 5, 1), y, n_draws=50)
    for i, kept in enumerate(([0, 1, 2, 3, 4], [0, 1, 3], [1, 2, 3, 4])):
        alone = infer(line, X[kept], y[i, kept], n_draws=50)
        torch.testing.assert_close(posterior.log_evidence[i], alone.log_evidence)


def test_parts_of_a_normal_row_may_be_missing():
    y = torch.stack([Y, Y.flip(0)], -1)
    y[0, 0], y[1] = NAN, NAN
    posterior = infer(pairs, torch.zeros(5, 0), y, method="smc", n_draws=200)
    at = {"shift": torch.tensor([[0.3, -0.2]], dtype=torch.float64)}
    joint = (posterior.log_prob(at) + posterior.log_evidence)[0]
    covariance = torch.tensor([[1.0, 0.6], [0.6, 2.0]], dtype=torch.float64)
    expected = dist.Normal(0.0, 1.0).log_prob(at["shift"]).sum()
    expected += dist.Normal(-0.2, math.sqrt(2.0)).log_prob(y[0, 1])
    expected += dist.MultivariateNormal(at["shift"][0], covariance).log_prob(y[2:]).sum()
    torch.testing.assert_close(joint, expected)


def test_a_predictive_given_rows_of_which_some_are_missing():
    posterior = infer(joint_rows, X, LOST, method="smc", n_draws=300)
    expected = infer(joint_rows, X[KEPT], LOST[KEPT], method="smc", n_draws=300)
    ours, theirs = (p.predictive(X[:2] + 0.1) for p in (posterior, expected))
    assert ((ours.mean - theirs.mean).abs() < 0.2 * theirs.stddev).all()
    torch.testing.assert_close(ours.variance, theirs.variance, rtol=0.2, atol=0)


def autoregressive(x, y=None):
    phi = pyro.sample("phi", dist.Normal(0.0, 1.0))
    before = torch.cat([y.new_zeros(1), y[:-1]])
    return pyro.sample("y", dist.Normal(phi * before, 1.0).to_event(1), obs=y)


def shares(x, y=None):
    a = pyro.sample("a", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Dirichlet(a.expand(3)), obs=y)


def test_missing_answers_that_cannot_be_integrated_out_are_refused():
    with pytest.raises(ValueError, match=r"Draw them as latents.*pyro.sample\('missing'"):
        infer(autoregressive, X, LOST)
    with pytest.raises(ValueError, match="none at all"):
        infer(line, X.expand(2, 5, 1), torch.stack([Y, Y * NAN]))
    y = torch.full((5, 3), 1 / 3)
    y[1, 0] = NAN
    with pytest.raises(ValueError, match="independent or jointly normal.*Dirichlet"):
        infer(shares, torch.zeros(5, 0), y)


def flat(x, y=None):
    mean = pyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
    sd = pyro.sample("sd", dist.ImproperUniform(dist.constraints.positive, (), ()))
    return pyro.sample("y", dist.Normal(mean, sd).expand([len(x)]).to_event(1), obs=y)


def test_flat_priors():
    """With a flat prior of mean and sd, sd^2 has an inverse gamma posterior."""
    with pytest.warns(UserWarning, match=r"\['mean', 'sd'\] is improper.*evidence"):
        posterior = infer(flat, torch.zeros(5, 0), Y, n_draws=4000)
    assert posterior.log_evidence is None
    a, b = (5 - 2) / 2, (Y - Y.mean()).square().sum() / 2
    # The median of sd^2 by that of the gamma law of its inverse.
    draws = posterior.sample(4000, seed=0)
    inverse = draws["sd"] ** -2
    level = torch.special.gammainc(torch.tensor(a), b * inverse)
    assert abs(level.mean() - 0.5) < 0.05 and abs((level < 0.1).double().mean() - 0.1) < 0.04
    assert abs(draws["mean"].median() - Y.mean()) < 0.1


def separable(x, y=None):
    logit = pyro.sample("logit", dist.ImproperUniform(dist.constraints.positive, (), ()))
    return pyro.sample("y", dist.Bernoulli(logits=logit).expand([len(x)]).to_event(1), obs=y)


def two_means(x, y=None):
    real = dist.constraints.real
    mean = sum(pyro.sample(name, dist.ImproperUniform(real, (), ())) for name in "ab")
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


@pytest.mark.parametrize(("program", "y"), [(separable, torch.ones(4)), (two_means, Y)])
def test_what_the_data_leave_open_under_a_flat_prior_is_said(program, y):
    with pytest.warns(UserWarning, match="seems to be improper"):
        infer(program, torch.zeros(len(y), 0), y, method="laplace", n_draws=200)


def flat_slopes(x, y=None):
    slopes = pyro.sample("slopes", dist.ImproperUniform(dist.constraints.real, (), (3,)))
    sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(x @ slopes, sd).to_event(1), obs=y)


@pytest.mark.parametrize("program", [flat, flat_slopes])
@pytest.mark.parametrize("method", ["importance", "laplace"])
def test_no_such_doubt_of_a_proper_posterior(program, method):
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double()
    with pytest.warns(UserWarning) as caught:
        infer(program, x, x.sum(-1) + 0.3 * x.sin().square()[:, 0], method=method, n_draws=300)
    assert not any("seems to be improper" in str(each.message) for each in caught)


def with_functions(x, y=None):
    a = pyro.sample("a", dist.LogNormal(0.0, 1.0))
    pyro.deterministic("log_a", a.log())
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.4))
        pyro.deterministic("rate", a * (1 + z))
        return pyro.sample("y", dist.Exponential(a * (1 + z)), obs=y)


@pytest.mark.parametrize("many", [False, True])
def test_deterministic_sites_are_among_the_draws(many):
    y = Y.expand(2, 5) if many else Y
    posterior = infer(with_functions, torch.zeros(*y.shape, 0), y, n_draws=100)
    draws = posterior.sample(50, seed=0)
    torch.testing.assert_close(draws["log_a"], draws["a"].log())
    torch.testing.assert_close(draws["rate"], draws["a"].unsqueeze(-1) * (1 + draws["z"]))
    assert "log_a" in repr(posterior) or many
    assert posterior.predictive(torch.zeros(*y.shape, 0)).mean.shape == y.shape


def only_a_factor(x, y=None):
    theta = pyro.sample("theta", dist.Normal(0.0, 1.0))
    pyro.factor("likelihood", -0.5 * (y - theta).square().sum())


def test_a_likelihood_by_a_factor_alone():
    posterior = infer(only_a_factor, torch.zeros(5, 0), Y, n_draws=2000)
    assert abs(posterior.mean["theta"] - Y.sum() / 6) < 5 / math.sqrt(6 * 2000)
