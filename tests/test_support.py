"""Where each distribution of torch and Pyro has mass, against values that were chosen by hand."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import transforms as maps

from amortized.infer import infer
from amortized.program.density import ProgramDensity
from amortized.program.observations.possible import check_possible
from amortized.program.support import bijection_to, cdf, contains, log_prob, support_of

T = torch.tensor
EYE = torch.eye(2)
HALF = T([[1.0, 0.0], [0.6, 0.8]])
NEGATIVE, BEYOND_ONE = [-1.0, -1e-3], [-0.1, 1.1]
NO_COUNTS = [-1.0, 0.5]


def transformed(base, *parts):
    return dist.TransformedDistribution(base, list(parts))


def mixed(components):
    return dist.MixtureSameFamily(dist.Categorical(T([0.3, 0.7])), components)


# name: a distribution, values inside its support, values outside of it.
DISTRIBUTIONS = {
    # on the whole line
    "AsymmetricLaplace": (lambda: dist.AsymmetricLaplace(0.0, 1.0, 2.0), [-3.0, 3.0], []),
    "Cauchy": (lambda: dist.Cauchy(0.0, 1.0), [-3.0, 3.0], []),
    "Gumbel": (lambda: dist.Gumbel(0.0, 1.0), [-3.0, 3.0], []),
    "Laplace": (lambda: dist.Laplace(0.0, 1.0), [-3.0, 3.0], []),
    "Logistic": (lambda: dist.Logistic(0.0, 1.0), [-3.0, 3.0], []),
    "Normal": (lambda: dist.Normal(0.0, 1.0), [-3.0, 3.0], []),
    "SkewLogistic": (lambda: dist.SkewLogistic(0.0, 1.0, 2.0), [-3.0, 3.0], []),
    "SoftAsymmetricLaplace": (lambda: dist.SoftAsymmetricLaplace(0.0, 1.0), [-3.0, 3.0], []),
    "SoftLaplace": (lambda: dist.SoftLaplace(0.0, 1.0), [-3.0, 3.0], []),
    "StudentT": (lambda: dist.StudentT(3.0), [-3.0, 3.0], []),
    "VonMises": (lambda: dist.VonMises(0.0, 1.0), [-3.0, 3.0], []),
    "NanMaskedNormal": (lambda: dist.NanMaskedNormal(0.0, 1.0), [-3.0, 3.0], []),
    # on half of it
    "Chi2": (lambda: dist.Chi2(3.0), [0.1, 9.0], NEGATIVE),
    "Exponential": (lambda: dist.Exponential(2.0), [0.0, 0.1, 9.0], NEGATIVE),
    "FisherSnedecor": (lambda: dist.FisherSnedecor(3.0, 4.0), [0.1, 9.0], NEGATIVE),
    "FoldedDistribution": (
        lambda: dist.FoldedDistribution(dist.Normal(1.0, 1.0)),
        [0.1, 9.0],
        NEGATIVE,
    ),
    "Gamma": (lambda: dist.Gamma(2.0, 3.0), [0.1, 9.0], NEGATIVE),
    "HalfCauchy": (lambda: dist.HalfCauchy(2.0), [0.1, 9.0], NEGATIVE),
    "HalfNormal": (lambda: dist.HalfNormal(2.0), [0.1, 9.0], NEGATIVE),
    "InverseGamma": (lambda: dist.InverseGamma(2.0, 3.0), [0.1, 9.0], NEGATIVE),
    "LogNormal": (lambda: dist.LogNormal(0.0, 1.0), [0.1, 9.0], NEGATIVE),
    "Weibull": (lambda: dist.Weibull(2.0, 1.5), [0.1, 9.0], NEGATIVE),
    "Weibull of shape 2": (lambda: dist.Weibull(2.0, 2.0), [0.1, 9.0], NEGATIVE),
    "Pareto": (lambda: dist.Pareto(2.0, 3.0), [2.0, 9.0], [-1.0, 0.5, 1.99]),
    "GeneralizedPareto": (
        lambda: dist.GeneralizedPareto(1.0, 2.0, 0.5),
        [1.1, 9.0],
        [-1.0, 0.9],
    ),
    # on an interval
    "AffineBeta": (lambda: dist.AffineBeta(2.0, 3.0, 1.0, 2.0), [1.1, 2.9], [0.9, 3.1]),
    "Beta": (lambda: dist.Beta(2.0, 3.0), [0.1, 0.9], BEYOND_ONE),
    "ContinuousBernoulli": (lambda: dist.ContinuousBernoulli(0.3), [0.0, 0.4, 1.0], BEYOND_ONE),
    "Kumaraswamy": (lambda: dist.Kumaraswamy(2.0, 3.0), [0.1, 0.9], BEYOND_ONE),
    "RelaxedBernoulli": (
        lambda: dist.RelaxedBernoulli(T(0.5), probs=T(0.3)),
        [0.1, 0.9],
        BEYOND_ONE,
    ),
    "RelaxedBernoulliStraightThrough": (
        lambda: dist.RelaxedBernoulliStraightThrough(T(0.5), probs=T(0.3)),
        [0.1, 0.9],
        BEYOND_ONE,
    ),
    "Uniform": (lambda: dist.Uniform(-1.0, 2.0), [-0.9, 1.9], [-1.1, 2.1]),
    # counts
    "Bernoulli": (lambda: dist.Bernoulli(0.3), [0.0, 1.0], [-1.0, 0.5, 2.0]),
    "BetaBinomial": (lambda: dist.BetaBinomial(2.0, 3.0, 5), [0.0, 5.0], [*NO_COUNTS, 6.0]),
    "Binomial": (lambda: dist.Binomial(5, 0.3), [0.0, 5.0], [*NO_COUNTS, 6.0]),
    "Categorical": (lambda: dist.Categorical(T([0.3, 0.7])), [0.0, 1.0], [*NO_COUNTS, 2.0]),
    "GammaPoisson": (lambda: dist.GammaPoisson(2.0, 3.0), [0.0, 5.0], NO_COUNTS),
    "Geometric": (lambda: dist.Geometric(0.3), [0.0, 5.0], NO_COUNTS),
    "LogNormalNegativeBinomial": (
        lambda: dist.LogNormalNegativeBinomial(
            T(5.0), logits=T(0.0), multiplicative_noise_scale=T(0.3)
        ),
        [0.0, 5.0],
        NO_COUNTS,
    ),
    "NegativeBinomial": (lambda: dist.NegativeBinomial(5, 0.3), [0.0, 5.0], NO_COUNTS),
    "OrderedLogistic": (
        lambda: dist.OrderedLogistic(T(0.0), T([-1.0, 1.0])),
        [0.0, 2.0],
        [*NO_COUNTS, 3.0],
    ),
    "Poisson": (lambda: dist.Poisson(3.0), [0.0, 5.0], NO_COUNTS),
    "ZeroInflatedDistribution": (
        lambda: dist.ZeroInflatedDistribution(dist.Poisson(3.0), gate=T(0.2)),
        [0.0, 5.0],
        NO_COUNTS,
    ),
    "ZeroInflatedNegativeBinomial": (
        lambda: dist.ZeroInflatedNegativeBinomial(T(3.0), probs=T(0.3), gate=T(0.2)),
        [0.0, 5.0],
        NO_COUNTS,
    ),
    "ZeroInflatedPoisson": (
        lambda: dist.ZeroInflatedPoisson(T(3.0), gate=T(0.2)),
        [0.0, 5.0],
        NO_COUNTS,
    ),
    "Delta": (lambda: dist.Delta(T(2.0)), [2.0], []),
    "Empirical": (lambda: dist.Empirical(T([1.0, 2.0]), T([0.0, 0.0])), [1.0], []),
    # vectors
    "Dirichlet": (lambda: dist.Dirichlet(T([2.0, 3.0])), [[0.4, 0.6]], [[0.4, 0.7], [-0.1, 1.1]]),
    "DirichletMultinomial": (
        lambda: dist.DirichletMultinomial(T([2.0, 3.0]), 5),
        [[2.0, 3.0]],
        [[-1.0, 6.0], [2.5, 2.5]],
    ),
    "LogisticNormal": (
        lambda: dist.LogisticNormal(T([0.0]), T([1.0])),
        [[0.4, 0.6]],
        [[0.4, 0.7], [-0.1, 1.1]],
    ),
    "LowRankMultivariateNormal": (
        lambda: dist.LowRankMultivariateNormal(T([0.0, 0.0]), T([[1.0], [1.0]]), T([1.0, 1.0])),
        [[-1.0, 2.0]],
        [],
    ),
    "Multinomial": (
        lambda: dist.Multinomial(5, T([0.4, 0.6])),
        [[2.0, 3.0]],
        [[-1.0, 6.0], [2.0, 4.0]],
    ),
    "MultivariateNormal": (
        lambda: dist.MultivariateNormal(T([0.0, 0.0]), EYE),
        [[-1.0, 2.0]],
        [],
    ),
    "MultivariateStudentT": (
        lambda: dist.MultivariateStudentT(T(3.0), T([0.0, 0.0]), EYE),
        [[-1.0, 2.0]],
        [],
    ),
    "OneHotCategorical": (
        lambda: dist.OneHotCategorical(T([0.4, 0.6])),
        [[0.0, 1.0]],
        [[1.0, 1.0], [0.5, 0.5]],
    ),
    "RelaxedOneHotCategorical": (
        lambda: dist.RelaxedOneHotCategorical(T(0.5), probs=T([0.4, 0.6])),
        [[0.4, 0.6]],
        [[0.4, 0.7], [-0.1, 1.1]],
    ),
    "ProjectedNormal": (lambda: dist.ProjectedNormal(T([1.0, 0.0])), [[0.6, 0.8]], [[0.6, 0.9]]),
    # matrices
    "LKJCholesky": (lambda: dist.LKJCholesky(2, 2.0), [HALF.tolist()], [(2 * EYE).tolist()]),
    "Wishart": (lambda: dist.Wishart(T(3.0), EYE), [(2 * EYE).tolist()], [(-EYE).tolist()]),
    # built on others
    "Exponential from 2 on": (
        lambda: transformed(dist.Exponential(1.0), maps.AffineTransform(2.0, 3.0)),
        [2.5, 9.0],
        [-1.0, 1.9],
    ),
    "Exponential to the left": (
        lambda: transformed(dist.Exponential(1.0), maps.AffineTransform(2.0, -3.0)),
        [-9.0, 1.9],
        [2.1, 9.0],
    ),
    "exp of Exponential": (
        lambda: transformed(dist.Exponential(1.0), maps.ExpTransform()),
        [1.1, 9.0],
        [-1.0, 0.5],
    ),
    "LogNormal from 2 on": (
        lambda: transformed(dist.LogNormal(0.0, 1.0), maps.AffineTransform(2.0, 1.0)),
        [2.5, 9.0],
        [-1.0, 1.9],
    ),
    "log of Uniform": (
        lambda: transformed(dist.Uniform(1.0, 2.0), maps.ExpTransform().inv),
        [0.1, 0.6],
        [-0.1, 0.8],
    ),
    "Beta on (-1, 1)": (
        lambda: transformed(dist.Beta(2.0, 3.0), maps.AffineTransform(-1.0, 2.0)),
        [-0.9, 0.9],
        [-1.1, 1.1],
    ),
    "Gamma of two, moved": (
        lambda: transformed(
            dist.Gamma(2.0, 3.0).expand([2]).to_event(1), maps.AffineTransform(1.0, 1.0)
        ),
        [[1.5, 2.0]],
        [[1.5, 0.9], [0.5, 0.5]],
    ),
    "two exponentials": (
        lambda: dist.Exponential(T([1.0, 2.0])).to_event(1),
        [[0.5, 1.0]],
        [[0.5, -1.0]],
    ),
    "mixture of exponentials": (
        lambda: mixed(dist.Exponential(T([1.0, 2.0]))),
        [0.1, 9.0],
        NEGATIVE,
    ),
    "mixture of distant uniforms": (
        lambda: mixed(dist.Uniform(T([0.0, 3.0]), T([1.0, 4.0]))),
        [0.5, 3.5],
        [-1.0, 2.0, 5.0],
    ),
    "mixture of shifted exponentials": (
        lambda: mixed(transformed(dist.Exponential(1.0), maps.AffineTransform(T([1.0, 2.0]), 1.0))),
        [2.5, 9.0],
        [0.5],
    ),
    "MixtureSameFamily": (
        lambda: mixed(dist.Pareto(T([1.0, 2.0]), T([3.0, 3.0]))),
        [2.5, 9.0],
        [-1.0, 0.9],
    ),
    "MaskedMixture": (
        lambda: dist.MaskedMixture(T(True), dist.Normal(0.0, 1.0), dist.Gamma(2.0, 3.0)),
        [0.5],
        NEGATIVE,
    ),
    "MaskedDistribution": (lambda: dist.Gamma(2.0, 3.0).mask(T(True)), [0.5], NEGATIVE),
    "ExpandedDistribution": (
        lambda: dist.ExpandedDistribution(dist.Gamma(2.0, 3.0), (2,)),
        [[0.5, 0.5]],
        [[-0.5, -0.5]],
    ),
}
NO_BIJECTION = {"Delta", "Empirical", "ProjectedNormal", "MaskedMixture", "Wishart"}
# As latents these are refused: the end of the interval may be infinite.
NO_BIJECTION |= {"GeneralizedPareto"}
NO_SAMPLER = {"LogNormalNegativeBinomial", "Empirical"}
# Densities of torch and Pyro that `vmap` cannot run; such programs are run particle by particle.
LOOPED = {"Empirical", "Multinomial", "NanMaskedNormal", "Wishart"}


@pytest.fixture(autouse=True)
def _no_validation():
    with pyro.validation_enabled(False):
        yield


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_density_is_torchs_inside_and_nothing_outside(name):
    make, inside, outside = DISTRIBUTIONS[name]
    fn = make()
    for value in map(T, inside):
        density = log_prob(fn, value)
        assert torch.isfinite(density).all() and contains(fn, value).all()
        torch.testing.assert_close(density, fn.log_prob(value))
    for value in map(T, outside):
        assert (log_prob(fn, value) == -torch.inf).all() and not contains(fn, value).any()


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS.keys() - NO_SAMPLER))
def test_draws_lie_inside(name):
    fn = DISTRIBUTIONS[name][0]()
    draws = fn.sample((200,))
    assert contains(fn, draws).all()
    assert torch.isfinite(log_prob(fn, draws)).all()


@pytest.mark.parametrize("name", sorted(DISTRIBUTIONS.keys() - LOOPED))
def test_under_vmap_it_is_the_same(name):
    make, inside, outside = DISTRIBUTIONS[name]
    fn, values = make(), T([*inside, *outside])
    batched = torch.func.vmap(lambda value: log_prob(fn, value))(values)
    torch.testing.assert_close(batched, torch.stack([log_prob(fn, v) for v in values]))


CONTINUOUS = sorted(
    name
    for name in DISTRIBUTIONS.keys() - NO_BIJECTION
    if not support_of(DISTRIBUTIONS[name][0]()).is_discrete
)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_bijection_leads_into_the_support(name):
    """A mixture's support may have gaps, where the density is 0 and contains says so."""
    fn = DISTRIBUTIONS[name][0]()
    to = bijection_to(support_of(fn))
    values = to(torch.randn(100, *to.inv(fn.sample()).shape))
    inside = contains(fn, values)
    assert inside.any() if name == "mixture of distant uniforms" else inside.all()
    torch.testing.assert_close(log_prob(fn, values).isfinite(), inside)


def test_every_distribution_of_pyro_is_tried():
    """Those with parameters of their own, a density, and values that are numbers of one kind."""
    special = {  # processes, graphs, networks and laws without a density
        name
        for name in dist.__all__
        if name.endswith(("HMM", "Module", "MRF", "Matching", "Tree", "Transform"))
        or name.startswith(("Conditional", "Coalescent", "Stable", "Rejector", "Improper"))
        or "Masked" in name
    } | {
        "AVFMultivariateNormal",
        "ExtendedBetaBinomial",  # whose parameters may make every value impossible
        "ExtendedBinomial",
        "GaussianScaleMixture",
        "GroupedNormalNormal",
        "Independent",
        "LKJ",
        "LKJCorrCholesky",
        "MixtureOfDiagNormals",
        "MixtureOfDiagNormalsSharedCovariance",
        "OMTMultivariateNormal",
        "OneHotCategoricalStraightThrough",
        "RelaxedOneHotCategoricalStraightThrough",
        "SineBivariateVonMises",
        "SineSkewed",
        "TruncatedPolyaGamma",
        "Unit",
        "VonMises3D",
        "Distribution",
        "ExponentialFamily",
        "TorchDistribution",
        "TransformedDistribution",
    }
    classes = {name for name in dist.__all__ if isinstance(getattr(dist, name), type)}
    assert classes - special <= DISTRIBUTIONS.keys()


def test_gradients_are_finite_where_a_bound_moves():
    """One row outside makes the density 0; its gradient must not spoil what it is added to."""
    scale = T(2.0, requires_grad=True)
    each = log_prob(dist.Pareto(scale.expand(3), 3.0), T([1.0, 3.0, 4.0]))
    (gradient,) = torch.autograd.grad(each[1:].sum() + each[0].clamp(min=-1e3), scale)
    torch.testing.assert_close(gradient, T(3.0))  # 2 rows of alpha / scale


def test_a_mixture_has_the_mass_of_the_components_that_reach():
    fn = mixed(dist.Pareto(T([1.0, 2.0]), 3.0))
    torch.testing.assert_close(log_prob(fn, T(1.5)), T(math.log(0.3 * 3.0 / 1.5**4)))
    fn = mixed(dist.Uniform(T([0.0, 3.0]), T([1.0, 5.0])))
    torch.testing.assert_close(log_prob(fn, T([0.5, 4.0])), T([0.3, 0.35]).log())


# name: a distribution whose cdf in torch is wrong outside its support, and scipy's
OUTSIDE = {
    "Exponential": (lambda: dist.Exponential(2.0), stats.expon(scale=0.5).cdf),
    "Gamma": (lambda: dist.Gamma(2.0, 1.0), stats.gamma(2).cdf),
    "HalfCauchy": (lambda: dist.HalfCauchy(1.0), stats.halfcauchy.cdf),
    "HalfNormal": (lambda: dist.HalfNormal(1.0), stats.halfnorm.cdf),
    "InverseGamma": (lambda: dist.InverseGamma(3.0, 2.0), stats.invgamma(3, scale=2).cdf),
    "Kumaraswamy": (
        lambda: dist.Kumaraswamy(2.0, 3.0),
        lambda v: 1 - (1 - np.clip(v, 0, 1) ** 2) ** 3,
    ),
    "LogNormal": (lambda: dist.LogNormal(0.0, 1.0), stats.lognorm(1).cdf),
    "Pareto": (lambda: dist.Pareto(1.0, 3.0), stats.pareto(3).cdf),
    "Uniform": (lambda: dist.Uniform(0.5, 1.0), stats.uniform(0.5, 0.5).cdf),
    "Weibull": (lambda: dist.Weibull(1.0, 2.0), stats.weibull_min(2).cdf),
    "Exponential to the left": (
        lambda: transformed(dist.Exponential(1.0), maps.AffineTransform(0.5, -1.0)),
        lambda v: stats.expon.sf(0.5 - v),
    ),
    "mixture": (
        lambda: mixed(transformed(dist.Exponential(1.0), maps.AffineTransform(T([0.0, 1.0]), 1.0))),
        lambda v: 0.3 * stats.expon.cdf(v) + 0.7 * stats.expon(1).cdf(v),
    ),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_distribution_function_is_right_also_outside_the_support(name):
    make, expected = OUTSIDE[name]
    values = torch.tensor([-3.0, -0.5, 0.0, 0.4, 0.7, 1.0, 1.7, 8.0], dtype=torch.float64)
    torch.testing.assert_close(
        cdf(make(), values), torch.from_numpy(expected(values.numpy())), atol=1e-6, rtol=1e-6
    )


def test_predictives_of_a_log_normal_are_nothing_below_zero():
    def size(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.LogNormal(mean, 1.0), obs=y)

    with pyro.validation_enabled(True):
        predictive = infer(size, T([0.5, 1.2, 0.3])).predictive(torch.zeros(1, 0))
        assert predictive.cdf(T([-1.0])).item() == 0.0
        assert predictive.log_prob(T([-1.0])).item() == -math.inf


def test_predictives_have_no_mass_outside_the_support():
    def wait(x, y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Exponential(rate), obs=y)

    y = T([0.5, 1.2, 0.3])
    predictive = infer(wait, y).predictive(torch.zeros(1, 0))
    below = [predictive.cdf(T([v])).item() for v in (-3.0, -0.5, 0.0)]
    assert below == [0.0, 0.0, 0.0]
    exact = stats.lomax(2 + 3, scale=1 + y.sum().item())  # the rate integrated out
    assert abs(predictive.cdf(T([0.8])).item() - exact.cdf(0.8)) < 5 * 0.1 / math.sqrt(1000)


def answers(fn, y):
    return pyro.sample("y", fn.expand([len(y)]).to_event(1), obs=y)


def minimum(x, y=None):
    return answers(dist.Pareto(pyro.sample("s", dist.LogNormal(0.0, 1.0)), 3.0), y)


def delay(x, y=None):
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    return answers(transformed(dist.Exponential(1.0), maps.AffineTransform(first, 2.0)), y)


def either(x, y=None):
    """A discrete latent chooses between two bounds."""
    late = pyro.sample("late", dist.Bernoulli(0.5))
    first = pyro.sample("first", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        wait = transformed(dist.Exponential(1.0), maps.AffineTransform(first + late, 2.0))
        return pyro.sample("y", wait, obs=y)


def test_pareto_scale_stays_below_the_least():
    """p(s | y) is s^(3 n) N(log s) / s below min y: the normal law of log s, tilted, cut there."""
    y = np.array([2.5, 3.0, 4.0, 2.2])
    posterior = infer(minimum, y, method="smc", n_draws=2000, seed=1)
    top, n = math.log(2.2), len(y)
    # exp(3 n t) N(t; 0, 1) is exp(9 n^2 / 2) N(t; 3 n, 1).
    log_mass = stats.norm.logcdf(top - 3 * n)
    evidence = n * math.log(3) - 4 * np.log(y).sum() + 4.5 * n**2 + log_mass
    mean = math.exp(3 * n + 0.5 + stats.norm.logcdf(top - 3 * n - 1) - log_mass)
    assert abs(mean - 2.022) < 1e-3 and abs(evidence + 6.557) < 1e-3
    assert abs(posterior.mean["s"] - mean) < 0.02
    assert abs(posterior.log_evidence - evidence) < 0.15
    assert posterior.draws["s"].max() <= 2.2


@pytest.mark.parametrize("program", [delay, either])
def test_density_of_a_program_is_nothing_where_its_bounds_are_passed(program):
    y = T([[1.5, 2.5]], dtype=torch.float64)
    density = ProgramDensity(program, torch.zeros(1, 2, 0), y)
    u = T([[[-0.5], [0.4], [1.4], [1.6]]], dtype=torch.float64)
    expected = []
    for first in u[0, :, 0]:
        terms = []
        for late in (0.0, 1.0) if program is either else (0.0,):
            z = (y[0] - first - late) / 2
            terms.append(torch.where((z >= 0).all(), -z.sum() - 2 * math.log(2), -torch.inf))
        expected.append(torch.stack(terms).logsumexp(0) - math.log(len(terms)))
    torch.testing.assert_close(density.log_likelihood(u)[0], torch.stack(expected))


def coin(x, y=None):
    return answers(dist.Bernoulli(pyro.sample("p", dist.Beta(2.0, 3.0))), y)


@pytest.mark.parametrize("method", ["exact", "smc", "laplace", "importance"])
def test_posterior_density_is_nothing_outside_the_support(method):
    posterior = infer(coin, [1.0, 0.0, 1.0], method=method, n_draws=200)
    inside, outside = T([[0.3], [0.6]]), T([[1.2], [-0.1]])
    density = posterior.log_prob({"p": torch.cat([inside, outside], 1)})
    assert density.shape == (2, 2)
    truth = torch.distributions.Beta(4.0, 4.0).log_prob(inside[:, 0]).double()
    torch.testing.assert_close(density[:, 0], truth, atol=0.2, rtol=0)
    assert (density[:, 1] == -torch.inf).all()
    assert posterior.log_prob({"p": T(0.3)}).shape == ()


def test_a_given_prior_bounds_the_posterior_density():
    prior = {"p": dist.Uniform(0.2, 0.4)}
    posterior = infer(coin, [1.0, 0.0, 1.0], latent_prior=prior, method="smc", n_draws=200)
    density = posterior.log_prob({"p": T([0.3, 0.9])})
    assert density[0].isfinite() and density[1] == -torch.inf


def test_draws_outside_the_support_are_no_prior():
    with pytest.raises(ValueError, match="in the supports.*1 of 4 outside"):
        infer(coin, [1.0, 0.0, 1.0], latent_prior={"p": T([0.3, 1.4, 0.2, 0.5])}, method="smc")


@pytest.mark.parametrize("name", [n for n, (_, _, out) in DISTRIBUTIONS.items() if out])
def test_impossible_observations_are_refused(name):
    make, _, outside = DISTRIBUTIONS[name]
    if len(make().shape()) > 1 or name == "ExpandedDistribution":
        pytest.skip("rows are numbers or vectors")

    def program(x, y=None):
        pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", make(), obs=y)

    y = T(outside[:1], dtype=torch.float64)
    with pytest.raises(ValueError, match="impossible"):
        check_possible(ProgramDensity(program, torch.zeros(1, 1, 0), y.unsqueeze(0)))


def box(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return answers(dist.Uniform(m - 1, m + 1), y)


def ordered(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.factor("between", torch.where(m > 10 * m.abs() + 1, 0.0, -math.inf))
    return answers(dist.Normal(m, 1.0), y)


METHODS = ["auto", "exact", "smc", "nuts", "hmc", "laplace", "vi", "importance"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("program", "y"), [(box, [0.0, 5.0]), (ordered, [0.0])])
def test_impossible_data_are_refused_by_every_method(method, program, y):
    with pytest.raises(ValueError, match="data that are impossible"):
        infer(program, y, method=method)


def normal(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return answers(dist.Normal(m, 1.0), y)


@pytest.mark.parametrize("method", ["smc", "nuts", "hmc", "laplace", "vi", "importance"])
def test_data_that_rounding_hides_are_refused(method):
    """At 1e30 the log densities of all latents are equal to the last digit."""
    with pytest.raises(ValueError, match="Expected data near those that the program produces"):
        infer(normal, [1e30, 1.0], method=method)


def slope(x, y=None):
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    return answers(dist.StudentT(5.0, b * x[:, 0], 1.0), y)


@pytest.mark.parametrize("method", ["auto", "smc", "nuts", "laplace", "importance"])
def test_posteriors_narrower_than_rounding_are_refused(method):
    """With inputs of 1e17 the slope has a standard deviation of 1e-17, below the spacing at .3."""

    def precise(x, y=None):
        b = pyro.sample("b", dist.StudentT(3.0, 0.0, 1.0))
        return answers(dist.Normal(b * x[:, 0], 1.0), y)

    with pytest.raises(ValueError, match="fewer than 100 neighbouring numbers"):
        infer(precise, T([[1e17], [2e17]]), [3e16, 6e16], method=method)


@pytest.mark.parametrize("scale", [1e3, 1e8])
def test_narrow_posteriors_are_answered(scale):
    """Rescaling inputs and answer of a slope only rescales its posterior, where the prior is flat.

    The standard deviation of the normalised likelihood is found by quadrature.
    """
    x = T([[1.0], [2.0]], dtype=torch.float64) * scale
    posterior = infer(slope, x, [0.0, 0.0], method="smc", seed=0)
    grid = torch.linspace(-30, 30, 100001, dtype=torch.float64)
    weights = sum(dist.StudentT(5.0, k * grid, 1.0).log_prob(T(0.0)) for k in (1.0, 2.0)).exp()
    sd = (weights * grid.square()).sum().div(weights.sum()).sqrt() / scale
    assert abs(posterior.std["b"] / sd - 1) < 0.15


def test_distant_data_that_rounding_does_not_hide_are_answered():
    posterior = infer(normal, [100.0], method="smc", seed=0)
    assert abs(posterior.mean["m"] - 50.0) < 0.1
    exact = -0.25 * 100.0**2 - 0.5 * math.log(4 * math.pi)
    assert abs(posterior.log_evidence - exact) < 4 * posterior.log_evidence_error


def test_rare_data_are_not_impossible():
    """The latent lies 40 prior standard deviations out, where no prior draw is."""
    x, y = torch.zeros(2, 2, 0), T([[40.0, 40.5], [0.0, 5.0]], dtype=torch.float64)
    check_possible(ProgramDensity(box, x[:1], y[:1]))
    with pytest.raises(ValueError, match="in dataset 1"):
        check_possible(ProgramDensity(box, x, y))
