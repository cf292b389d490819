"""Laws of program priors: what is drawn follows the program, and the density is the program's."""

import warnings

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.priors.program_prior import ProgramPrior
from amortized.program.density import ProgramDensity
from amortized.program.support import bijection_to
from amortized.program.vectorised import draw, run_programs

ONE = torch.ones(())

# Every one of these must be drawn in one vectorised run. The second entry is scipy's law of it.
DISTRIBUTIONS = {
    "normal": (lambda: dist.Normal(1.0, 2.0), stats.norm(1, 2)),
    "lognormal": (lambda: dist.LogNormal(0.5, 0.5), stats.lognorm(0.5, scale=np.exp(0.5))),
    "half_normal": (lambda: dist.HalfNormal(2.0), stats.halfnorm(scale=2)),
    "exponential": (lambda: dist.Exponential(2.0), stats.expon(scale=0.5)),
    "student_t": (lambda: dist.StudentT(3.0, 1.0, 2.0), stats.t(3, 1, 2)),
    "laplace": (lambda: dist.Laplace(1.0, 2.0), stats.laplace(1, 2)),
    "cauchy": (lambda: dist.Cauchy(1.0, 2.0), stats.cauchy(1, 2)),
    "half_cauchy": (lambda: dist.HalfCauchy(2.0), stats.halfcauchy(scale=2)),
    "weibull": (lambda: dist.Weibull(2.0, 1.5), stats.weibull_min(1.5, scale=2)),
    "pareto": (lambda: dist.Pareto(1.0, 3.0), stats.pareto(3)),
    "gumbel": (lambda: dist.Gumbel(1.0, 2.0), stats.gumbel_r(1, 2)),
    "gamma": (lambda: dist.Gamma(2.0, 3.0), stats.gamma(2, scale=1 / 3)),
    "inverse_gamma": (lambda: dist.InverseGamma(3.0, 2.0), stats.invgamma(3, scale=2)),
    "chi2": (lambda: dist.Chi2(3.0), stats.chi2(3)),
    "beta": (lambda: dist.Beta(0.3, 2.0), stats.beta(0.3, 2)),
    "kumaraswamy": (lambda: dist.Kumaraswamy(1.0, 3.0), stats.beta(1, 3)),
    "uniform": (lambda: dist.Uniform(-1.0, 2.0), stats.uniform(-1, 3)),
    "logistic": (lambda: dist.Logistic(0.0, 1.0), stats.logistic()),
    "poisson": (lambda: dist.Poisson(3.0), stats.poisson(3)),
    "geometric": (lambda: dist.Geometric(0.3), stats.geom(0.3, loc=-1)),
    "bernoulli": (lambda: dist.Bernoulli(0.3), stats.bernoulli(0.3)),
    "binomial": (lambda: dist.Binomial(5, 0.3), stats.binom(5, 0.3)),
    "dirichlet": (lambda: dist.Dirichlet(torch.tensor([0.5, 2.0])), stats.beta(0.5, 2)),
    "multivariate": (
        lambda: dist.MultivariateNormal(ONE.expand(2), 4 * torch.eye(2)),
        stats.norm(1, 2),
    ),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_vectorised_draws_follow_the_distribution(name):
    make, law = DISTRIBUTIONS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a fall back to the loop is a failure here
        draws = run_programs(lambda x, y=None: pyro.sample("y", make()), torch.zeros(4000, 1, 1))
    values = draws["y"].reshape(4000, -1)[:, 0].double().numpy()
    if isinstance(law.dist, stats.rv_continuous):
        p_value = stats.kstest(values, law.cdf).pvalue
    else:
        ends = law.ppf([0.2, 0.4, 0.6, 0.8])
        ends = np.unique(ends[ends < law.support()[1]])
        expected = np.diff(np.concatenate([[0], law.cdf(ends), [1]])) * 4000
        seen = np.bincount(np.searchsorted(ends, values), minlength=len(ends) + 1)
        p_value = stats.chisquare(seen, expected).pvalue
    # One seed, 24 tests: a right sampler fails one of them with probability 0.0024.
    assert p_value > 1e-4


def test_a_tiny_dirichlet_does_not_underflow():
    draws = draw(dist.Dirichlet(torch.full((1000, 3), 1e-3)))
    assert torch.isfinite(draws).all()
    torch.testing.assert_close(draws.sum(-1), torch.ones(1000))


def test_lkj_draws_have_beta_correlations():
    """Every correlation of an LKJ(eta) matrix is Beta(eta + d/2 - 1) on (-1, 1)."""
    factors = draw(dist.LKJCholesky(4, torch.tensor(2.0)), (4000,))
    correlations = factors @ factors.mT
    law = stats.beta(3, 3, loc=-1, scale=2)
    for i, j in ((1, 0), (2, 1), (3, 0), (3, 2)):
        assert stats.kstest(correlations[:, i, j].numpy(), law.cdf).pvalue > 1e-4


def regression(x, y=None):
    with pyro.plate("features", x.shape[1]):
        weights = pyro.sample("weights", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("rows", x.shape[0]):
        return pyro.sample("y", dist.Normal(x @ weights, scale), obs=y)


def simplex(x, y=None):
    probs = pyro.sample("probs", dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])))
    return pyro.sample("y", dist.Categorical(probs).expand([len(x)]).to_event(1), obs=y)


def nested_support(x, y=None):
    high = pyro.sample("high", dist.Exponential(1.0))
    middle = pyro.sample("middle", dist.Uniform(0 * high, high))
    return pyro.sample("y", dist.Normal(middle, 1.0).expand([len(x)]).to_event(1), obs=y)


def ordered(x, y=None):
    base = dist.Normal(0.0, 1.0).expand([3]).to_event(1)
    cuts = pyro.sample(
        "cuts", dist.TransformedDistribution(base, [dist.transforms.OrderedTransform()])
    )
    return pyro.sample("y", dist.Normal(cuts.sum(), 1.0).expand([len(x)]).to_event(1), obs=y)


def correlation(x, y=None):
    factor = pyro.sample("factor", dist.LKJCholesky(3, 2.0))
    mean = factor[1, 0]
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def scaled_and_masked(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.poutine.scale(scale=2.0), pyro.poutine.mask(mask=torch.arange(len(x)) > 0):
        return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]), obs=y)


PROGRAMS = {
    "regression": regression,
    "simplex": simplex,
    "nested_support": nested_support,
    "ordered": ordered,
    "correlation": correlation,
    "scaled_and_masked": scaled_and_masked,
}
each_program = pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)


def density_of(program, n_datasets=2, dtype=torch.float64):
    x = torch.randn(n_datasets, 4, 2, dtype=dtype)
    y = torch.randint(0, 3, (n_datasets, 4)).to(dtype)
    return ProgramDensity(program, x, y)


@each_program
def test_density_is_that_of_pyro_with_the_jacobian(program):
    density = density_of(program)
    u = torch.randn(2, 3, density.dim, dtype=torch.float64)
    latents = density.constrain(u)
    for i in range(2):
        for j in range(3):
            given = {name: value[i, j] for name, value in latents.items()}
            conditioned = pyro.poutine.condition(program, given)
            trace = pyro.poutine.trace(conditioned).get_trace(density.x[i], density.y[i])
            expected = trace.log_prob_sum()
            for name, (where, shape) in density.layout.items():
                transform = bijection_to(trace.nodes[name]["fn"].support)
                piece = u[i, j, where].reshape(shape)
                expected = expected + transform.log_abs_det_jacobian(piece, given[name]).sum()
            torch.testing.assert_close(density.log_density(u)[i, j], expected)


@each_program
def test_unconstrain_inverts_constrain(program):
    density = density_of(program)
    u = torch.randn(2, 3, density.dim, dtype=torch.float64)
    torch.testing.assert_close(density.unconstrain(density.constrain(u)), u)


@each_program
def test_gradient_is_that_of_finite_differences(program):
    density = density_of(program)
    u = torch.randn(2, 2, density.dim, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(density.log_density, u)


@each_program
def test_datasets_do_not_touch_each_other(program):
    density = density_of(program, 3)
    u = torch.randn(3, 2, density.dim, dtype=torch.float64)
    alone = density.take(torch.tensor([1])).log_density(u[1:2])
    torch.testing.assert_close(alone[0], density.log_density(u)[1])


@each_program
def test_prior_density_integrates_to_one(program):
    """E[q(u) / p(u)] = 1 over prior draws u, for a normal density q narrower than p."""
    density = density_of(program, 1)
    n = 4000
    u = density.sample_prior(n)
    half = torch.distributions.MultivariateNormal(
        u[0].median(0).values, 0.3 * torch.eye(u.shape[-1])
    )
    log_ratio = half.log_prob(u[0]) - density.log_prior(u)[0]
    ratio = log_ratio.exp()
    standard_error = ratio.std() / n**0.5
    assert abs(ratio.mean() - 1) < 5 * standard_error + 1e-3 and standard_error < 0.2


def test_prior_sampling_is_a_pure_function():
    prior = ProgramPrior(regression, inputs=2)
    before = torch.random.get_rng_state()
    first, second = (prior.sample(5, 6, 2, seed=3) for _ in range(2))
    assert torch.equal(first.y_context, second.y_context)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not torch.equal(prior.sample(5, 6, 2, seed=4).y_context, first.y_context)
    assert set(first.latents) == {"weights", "scale"}


def branching(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    slope = slope if slope > 0 else -slope
    return pyro.sample("y", dist.Normal(slope * x[:, 0], 1.0).to_event(1), obs=y)


def test_control_flow_falls_back_to_a_loop_with_a_warning():
    prior = ProgramPrior(branching, inputs=1)
    with pytest.warns(UserWarning, match="one task at a time.*torch.where"):
        batch = prior.sample(5, 3, 1, seed=0)
    assert batch.latents["slope"].shape == (5,)
    with pytest.warns(UserWarning, match="one by one"):
        density = density_of(branching)
    u = torch.randn(2, 3, 1, dtype=torch.float64)
    folded = density.log_likelihood(u)
    torch.testing.assert_close(folded, density.log_likelihood(-u))


def test_validation_is_as_it_was():
    for before in (True, False):
        with pyro.validation_enabled(before):
            ProgramPrior(regression, inputs=2).sample(2, 2, 2, seed=0)
            density_of(regression).log_density(torch.zeros(2, 1, 3, dtype=torch.float64))
            assert torch.distributions.Distribution._validate_args is before
    assert torch.get_default_dtype() is torch.float32


def test_a_singular_matrix_spoils_its_own_particle_only():
    def gaussian(x, y=None):
        a = pyro.sample("a", dist.Normal(0.0, 0.1))
        covariance = torch.stack([torch.stack([ONE, a]), torch.stack([a, ONE])])
        return pyro.sample("y", dist.MultivariateNormal(torch.zeros(2), covariance), obs=y)

    density = ProgramDensity(gaussian, torch.zeros(1, 2, 0), torch.ones(1, 2))
    values = density.log_density(torch.tensor([[[0.5], [2.0], [-0.5]]]))
    assert torch.isfinite(values).tolist() == [[True, False, True]]


def discrete(x, y=None):
    group = pyro.sample("group", dist.Bernoulli(0.5))
    return pyro.sample("y", dist.Normal(group, 1.0).expand([len(x)]).to_event(1), obs=y)


def unobserved(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1))


def some_rows(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        return pyro.sample("y", dist.Normal(mean, 1.0), obs=y[rows])


def raising(x, y=None):
    raise RuntimeError("no such thing")


def counts(x, y=None):
    rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
    return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)


X, Y = torch.zeros(1, 3, 1), torch.ones(1, 3)
WRONG = {
    "discrete latent": (lambda: ProgramDensity(discrete, X, Y), "continuous latents.*group"),
    "not observed": (lambda: ProgramDensity(unobserved, X, Y), "observe its data.*not observed"),
    "no latent": (
        lambda: ProgramDensity(lambda x, y: pyro.sample("y", dist.Normal(0 * y, 1.0), obs=y), X, Y),
        "at least one latent",
    ),
    "some rows": (lambda: ProgramDensity(some_rows, X, Y), "without subsampling; got 'data'.*2 of"),
    "raises": (lambda: ProgramDensity(raising, X, Y), "model\\(x, y\\).*no such thing"),
    "negative count": (lambda: ProgramDensity(counts, X, -Y), "in the support.*got -1"),
    "half a count": (lambda: ProgramDensity(counts, X, Y / 2), "in the support.*got 0.5"),
    "NaN": (lambda: ProgramDensity(regression, X, Y * torch.nan), "finite observations"),
    "rows differ": (lambda: ProgramDensity(regression, X, Y[:, :2]), "Expected x of shape"),
    "u too short": (
        lambda: density_of(regression).log_density(torch.zeros(2, 1, 1)),
        "Expected u of shape",
    ),
    "latent missing": (
        lambda: density_of(regression).unconstrain({"scale": torch.ones(2, 1)}),
        "got none for.*weights",
    ),
    "no program": (lambda: ProgramPrior(), "Expected a Pyro program"),
    "bad inputs": (
        lambda: ProgramPrior(regression, inputs=-1),
        "Expected inputs.*>= 0; got -1",
    ),
    "inputs of a wrong shape": (
        lambda: ProgramPrior(regression, lambda b, n: torch.zeros(b, n)).sample(2, 2, 2, seed=0),
        "Expected inputs",
    ),
    "sampling raises": (
        lambda: ProgramPrior(raising, 1).sample(2, 2, 2, seed=0),
        "runs on one dataset.*no such thing",
    ),
    "no y": (
        lambda: ProgramPrior(lambda x, y=None: pyro.sample("z", dist.Normal(0.0, 1.0)), 1).sample(
            2, 2, 2, seed=0
        ),
        "sample site 'y'",
    ),
    "y too short": (
        lambda: ProgramPrior(lambda x, y=None: pyro.sample("y", dist.Normal(0.0, 1.0)), 1).sample(
            2, 2, 2, seed=0
        ),
        "one target per row",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
