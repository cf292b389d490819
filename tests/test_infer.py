"""`infer`: every method meets the closed form, and wrong data are refused."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from amortized.infer import infer
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.regression.linear_regression import LinearRegressionPrior

PRIOR = LinearRegressionPrior(2)
BATCH = PRIOR.sample(2, 12, 3, seed=2)
X, Y = BATCH.x_context, BATCH.y_context
OPTIONS = {"nuts": {"n_warmup": 100, "n_chains": 2}, "vi": {"n_steps": 300, "learning_rate": 0.05}}
N_DRAWS = {"nuts": 300}
METHODS = ("exact", "nuts", "smc", "hmc", "laplace", "importance", "vi")  # those without a network
# The worst error of a mean that each method may make, in posterior standard deviations.
TOLERANCE = {"exact": 0.1, "nuts": 0.25, "laplace": 0.7, "vi": 0.35}
each_method = pytest.mark.parametrize("method", METHODS)


def plain(x, y=None):
    """The prior's program, without the prior that declares its posterior."""
    return PRIOR.model(x, y)


class Posteriors(dict):
    """The answer of each method, computed when it is first asked for."""

    def __missing__(self, method):
        model, n_draws = PRIOR if method == "exact" else plain, N_DRAWS.get(method, 1000)
        options = OPTIONS.get(method, {})
        self[method] = infer(model, X, Y, method=method, n_draws=n_draws, **options)
        return self[method]


@pytest.fixture(scope="module")
def posteriors():
    return Posteriors()


@each_method
def test_moments_meet_the_closed_form(method, posteriors):
    exact = PRIOR.posterior(X.double(), Y.double()).sample(20_000)
    posterior = posteriors[method]
    for name, draws in exact.items():
        error = (posterior.mean[name] - draws.mean(0)) / draws.std(0)
        assert error.abs().max() < TOLERANCE.get(method, 0.15), name
        assert (posterior.std[name] / draws.std(0)).log().abs().max() < 0.5, name


@each_method
def test_evidence_and_density_meet_the_closed_form(method, posteriors):
    posterior, exact = posteriors[method], PRIOR.posterior(X.double(), Y.double())
    if posterior.log_evidence is None:
        with pytest.raises(ValueError, match="normalised density"):
            posterior.log_prob({})
        return
    tolerance = 1e-6 if method == "exact" else 0.3
    torch.testing.assert_close(posterior.log_evidence, exact.log_evidence, atol=tolerance, rtol=0)
    draws = exact.sample(4)
    torch.testing.assert_close(
        posterior.log_prob(draws), exact.log_prob(draws), atol=tolerance, rtol=0
    )


@each_method
def test_predictive_meets_the_closed_form(method, posteriors):
    exact = PRIOR.posterior_predictive(BATCH)
    predictive = posteriors[method].predictive(BATCH.x_query)
    assert predictive.batch_shape == (2, 3)
    error = (predictive.mean - exact.mean) / exact.stddev
    assert error.abs().max() < TOLERANCE.get(method, 0.15)
    difference = predictive.log_prob(BATCH.y_query) - exact.log_prob(BATCH.y_query)
    assert difference.abs().max() < 0.15


@each_method
def test_diagnostics_say_what_was_done(method, posteriors):
    diagnostics = posteriors[method].diagnostics
    assert diagnostics["method"] == method and diagnostics["seconds"] >= 0


def test_one_dataset_has_no_batch():
    posterior = infer(PRIOR, X[0].numpy(), Y[0].numpy(), method="exact", n_draws=50)
    assert posterior.batch_shape == () and posterior.mean["weights"].shape == (2,)
    assert posterior.log_prob(posterior.sample(5)).shape == (5,)
    predictive = posterior.predictive(BATCH.x_query[0])
    assert predictive.batch_shape == (3,) and predictive.sample((4,)).shape == (4, 3)


def test_equal_seeds_give_equal_draws_and_leave_torch_alone():
    state = torch.random.get_rng_state()
    first, second = (infer(PRIOR, X, Y, n_draws=20, seed=5).draws for _ in range(2))
    assert torch.equal(first["weights"], second["weights"])
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(infer(PRIOR, X, Y, n_draws=20).draws["weights"], first["weights"])


def mean_of(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def test_the_prior_of_a_latent_can_be_changed_at_run_time():
    y = torch.tensor([1.0, 2.0, 3.0])
    posterior = infer(mean_of, y, latent_prior={"mean": dist.Normal(5.0, 0.5)}, n_draws=10)
    precision = 4 + 3
    expected = torch.distributions.Normal((5 * 4 + 6) / precision, precision**-0.5)
    values = torch.linspace(1, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(
        posterior.log_prob({"mean": values}), expected.log_prob(values), atol=1e-5, rtol=0
    )


def gp(x, y=None):
    lengthscale = pyro.sample("lengthscale", dist.LogNormal(0.0, 0.01))
    squared = (x - x.T).square() / lengthscale**2
    covariance = torch.exp(-0.5 * squared) + 0.01 * torch.eye(len(x))
    return pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), covariance), obs=y)


def test_predictive_of_a_gaussian_process_conditions_on_the_data():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    x, y = np.linspace(-2, 2, 8)[:, None], np.sin(np.linspace(-2, 2, 8))
    reference = GaussianProcessRegressor(RBF(1.0), alpha=0.01, optimizer=None).fit(x, y)
    posterior = infer(gp, x, y, method="nuts", n_draws=40, n_warmup=30, n_chains=2)
    asked = np.linspace(-3, 3, 7)[:, None]
    mean, std = reference.predict(asked, return_std=True)
    predictive = posterior.predictive(torch.as_tensor(asked))
    np.testing.assert_allclose(predictive.mean, mean, atol=0.02)
    np.testing.assert_allclose(predictive.stddev, np.sqrt(std**2 + 0.01), atol=0.02)


def groups(x, y=None):
    with pyro.plate("rows", len(x)):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.Normal(shift, 1.0), obs=y)


def discrete(x, y=None):
    group = pyro.sample("group", dist.Bernoulli(0.5))
    return pyro.sample("y", dist.Normal(group, 1.0).expand([len(x)]).to_event(1), obs=y)


def counts(x, y=None):
    rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
    return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)


def test_gaussian_process_regression_is_exact():
    prior = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.2)
    batch = prior.sample(3, 10, 4, seed=0)
    posterior = infer(prior, batch.x_context, batch.y_context)
    assert posterior.diagnostics["method"] == "exact" and posterior.names == []
    assert posterior.sample(2) == {} == posterior.mean
    evidence = prior.log_evidence(batch.x_context.double(), batch.y_context.double())
    torch.testing.assert_close(posterior.log_evidence, evidence)
    ours, oracle = posterior.predictive(batch.x_query), prior.posterior_predictive(batch)
    for name in ("mean", "stddev"):
        expected = getattr(oracle, name).double()
        torch.testing.assert_close(getattr(ours, name), expected, atol=1e-5, rtol=1e-4)
    one = infer(prior, batch.x_context[0], batch.y_context[0])
    torch.testing.assert_close(one.log_evidence, evidence[0])
    with pytest.raises(ValueError, match="at least one latent"):
        infer(prior, batch.x_context, batch.y_context, method="smc")


@pytest.mark.parametrize("method", ["smc", "importance"])
def test_the_evidence_comes_with_its_error(method):
    """64 runs scatter as each of them says; both sds are known to about 9%."""
    y = Y[:1].double().expand(64, -1)
    posterior = infer(plain, X[:1].expand(64, -1, -1), y, method=method, n_draws=200)
    said, seen = posterior.log_evidence_error, posterior.log_evidence.std()
    assert 0.6 < said.square().mean().sqrt() / seen < 1.7
    exact = PRIOR.posterior(X[:1].double(), Y[:1].double()).log_evidence
    assert abs(posterior.log_evidence.mean() - exact) < 5 * seen / 8
    assert infer(PRIOR, X, Y).log_evidence_error.tolist() == [0.0, 0.0]


STARTING = {
    "smc": {},
    "hmc": {},
    "importance": {},
    "laplace": {},
    "nuts": {"n_warmup": 30, "n_chains": 2},
    "vi": {"n_steps": 200},
}


@pytest.mark.parametrize("method", STARTING)
def test_every_sampler_takes_a_start_and_says_so(method):
    """From the closed form's draws, and from nowhere."""
    warm, cold = (
        infer(mean_of, Y[0], method=method, n_draws=200, **options, **STARTING[method])
        for options in ({"start": infer(mean_of, Y[0], n_draws=500)}, {})
    )
    assert warm.diagnostics["start"] == "GaussianMixture"
    assert cold.diagnostics["start"] in ("auto", "laplace", "prior", "uniform")
    exact = Y[0].sum() / (len(Y[0]) + 1)
    assert abs(warm.mean["mean"] - exact) < 0.1


def line_in_plates(dim=None, size=None):
    def line(x, y=None):
        slope, shift = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("slope", "shift"))
        with pyro.plate("data", len(x), subsample_size=size, dim=dim) as rows:
            mean = (slope * x[:, 0] + shift)[rows]
            return pyro.sample("y", dist.Normal(mean, 0.5), obs=None if y is None else y[rows])

    return line


@pytest.mark.parametrize("dim", [None, -1])
def test_vi_leaves_plates_where_the_program_has_them(dim):
    line = line_in_plates(dim)
    exact = infer(line, X[0], Y[0], method="exact", n_draws=20_000)
    posterior = infer(line, X[0], Y[0], method="vi", **OPTIONS["vi"])
    for name, sd in exact.std.items():
        assert abs(posterior.std[name] / sd - 1) < 0.15
        assert abs(posterior.mean[name] - exact.mean[name]) < 0.25 * sd


@pytest.mark.parametrize("guide", ["multivariate", "flow"])
@pytest.mark.filterwarnings(
    "ignore:k-hat", "ignore:The `init_loc_fn`", "ignore:The program has pyro.param"
)
def test_vi_neither_empties_nor_fills_the_users_parameters(guide):
    noise = pyro.param("noise", torch.tensor(2.0))

    def program(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        law = dist.Normal(mean, pyro.param("noise", torch.tensor(1.0)))
        return pyro.sample("y", law.expand([len(x)]).to_event(1), obs=y)

    posterior = infer(program, Y[0], method="vi", guide=guide, n_steps=300, learning_rate=0.05)
    precision = 1 + len(Y[0]) / 4
    assert abs(posterior.std["mean"] * precision**0.5 - 1) < 0.2
    assert list(pyro.get_param_store()) == ["noise"]
    assert pyro.param("noise") is noise and noise.item() == 2.0 and noise.grad is None


@pytest.mark.parametrize("method", [*METHODS, "auto"])
def test_a_plate_of_some_rows_is_refused(method):
    with pytest.raises(ValueError, match="without subsampling; got 'data', which takes 5 of 12"):
        infer(line_in_plates(size=5), X[0], Y[0], method=method)


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_a_posterior_keeps_the_data_that_it_was_given(kind):
    x, y = kind(np.linspace(-2, 2, 8)[:, None]), kind(np.sin(np.linspace(-2, 2, 8)))
    posterior = infer(gp, x, y, method="laplace", n_draws=20)
    asked = kind(np.array([[0.3], [1.0]]))
    predictive = posterior.predictive(asked)
    mean, asked_again = predictive.mean, posterior.predictive(asked + 0)
    x *= 5
    y[:] = 100
    asked[:] = 7
    assert torch.equal(posterior.predictive([[0.3], [1.0]]).mean, mean)
    assert torch.equal(asked_again.mean, mean) and torch.equal(predictive.mean, mean)


@pytest.mark.parametrize("method", ["laplace", "vi"])
def test_an_approximation_is_judged_by_more_draws_than_are_asked_for(method):
    """An exponential law is no normal, whatever the number of draws."""

    def counts(x, y=None):
        rate = pyro.sample("rate", dist.Exponential(1.0))
        return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)

    with pytest.warns(UserWarning, match="sd_off"):
        found = infer(counts, torch.zeros(1, 0), [0.0], method=method, n_draws=10)
    assert found.draws["rate"].shape == (10,)


# Whether Laplace's answer is good is not the point.
@pytest.mark.filterwarnings("ignore:(The|These) draws")
def test_programs_of_many_threads_take_turns():
    def means(seed):
        posterior = infer(plain, X, Y, method="laplace", n_draws=20, seed=seed)
        return posterior.predictive(X).mean, posterior.log_prob(posterior.sample(3, seed=0))

    expected = [means(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(means, range(4)))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.get_default_dtype() == torch.float32


NUMBERS = st.one_of(
    st.floats(-1e6, 1e6, width=32),
    st.integers(-3, 3),
    st.sampled_from([math.nan, math.inf, -math.inf, 1e10, -1e20, 1e30, 1e300, 1e-30]),
)
SHAPES = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
ANYTHING = st.one_of(
    arrays(np.float64, SHAPES, elements=NUMBERS),
    st.lists(st.one_of(NUMBERS, st.text(max_size=2), st.none()), max_size=4),
)
FITTING_X, FITTING_Y = (arrays(np.float64, shape, elements=NUMBERS) for shape in ((4, 2), (4,)))


@given(x=st.one_of(ANYTHING, FITTING_X), y=st.one_of(ANYTHING, FITTING_Y))
@settings(max_examples=60)
def test_whatever_is_given_is_answered_or_refused_clearly(x, y):
    try:
        posterior = infer(PRIOR, x, y, n_draws=4)
    except ValueError as refusal:
        assert str(refusal).startswith("Expected")
        return
    assert all(torch.isfinite(value).all() for value in posterior.mean.values())
    assert torch.isfinite(posterior.log_evidence).all()


WRONG = {
    "method": (lambda: infer(PRIOR, X, Y, method="magic"), "Expected a method among"),
    "draws": (lambda: infer(PRIOR, X, Y, n_draws=0), "n_draws"),
    "strings": (lambda: infer(PRIOR, X, [["a", "b"]]), "y to be an array of real numbers"),
    "NaN in x": (lambda: infer(PRIOR, X * torch.nan, Y), "x to be finite"),
    "NaN in y": (lambda: infer(PRIOR, X, Y * torch.nan), "y to be finite"),
    "rows": (lambda: infer(PRIOR, X, Y[:, 1:]), "Expected x of shape"),
    "no rows": (lambda: infer(PRIOR, X[:, :0], Y[:, :0]), "at least one row"),
    "scalar": (lambda: infer(mean_of, 1.0), "Expected x of shape"),
    "no program": (lambda: infer(3, X, Y, method="nuts"), "Expected a Pyro program"),
    "features": (lambda: infer(PRIOR, X[..., :1], Y), "Expected"),
    "discrete": (lambda: infer(discrete, Y, method="nuts"), "continuous latents"),
    "impossible": (lambda: infer(counts, -Y.abs() - 1, method="nuts"), "impossible"),
    "not conjugate": (lambda: infer(counts, Y.abs().round(), method="exact"), "conjugate"),
    "latent prior": (
        lambda: infer(mean_of, Y, latent_prior={"slope": dist.Normal(0.0, 1.0)}),
        "latent_prior to name",
    ),
    "latent prior of a batch": (
        lambda: infer(mean_of, Y[0], latent_prior=infer(mean_of, Y), method="smc"),
        "posterior of one dataset",
    ),
    "predictive of words": (
        lambda: infer(mean_of, Y[0], n_draws=5).predictive([["a"]]),
        "x to be an array of real numbers",
    ),
    "predictive of other rows": (
        lambda: infer(groups, Y[0], n_draws=5).predictive(torch.zeros(3, 1)),
        "Expected x of shape",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
