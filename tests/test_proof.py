"""No closed form is claimed of a program that leaves the family somewhere, however far out."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import moments_by_quadrature
from scipy import stats

from amortized.infer import infer
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.exact.closed_form import exact

T = torch.tensor
STANDARD = dist.Normal(0.0, 1.0)


def answers(fn, y):
    return pyro.sample("y", fn.expand([len(y)]).to_event(1), obs=y)


def program_of(prior, law, factor=None):
    """A program of one latent: its prior, the law of an answer given it, and a log factor."""

    def program(x, y=None):
        z = pyro.sample("z", prior)
        if factor is not None:
            pyro.factor("factor", factor(z))
        return answers(law(z), y)

    return program


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale)


def order(x, y=None):
    low, high = (pyro.sample(name, dist.Normal(0.0, 5.0)) for name in ("low", "high"))
    pyro.factor("order", torch.where(low < high, 0.0, -math.inf))
    mean = low * (1 - x[:, 0]) + high * x[:, 0]
    return pyro.sample("y", dist.Normal(mean, 2.0).to_event(1), obs=y)


def positive_slope(x, y=None):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    mean = (torch.ones(len(y), 2) * slope.clamp(min=0.0)).sum(-1)
    return pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)


def capped_noise(x, y=None):
    v = pyro.sample("v", dist.InverseGamma(3.0, 2.0))
    m = pyro.sample("m", dist.Normal(0.0, v.sqrt()))
    return answers(dist.Normal(m, v.clamp(max=5.0).sqrt()), y)


def capped_precision(x, y=None):
    tau = pyro.sample("tau", dist.Gamma(3.0, 2.0))
    m = pyro.sample("m", dist.Normal(0.0, tau.rsqrt()))
    return answers(dist.Normal(m, tau.clamp(max=20.0).rsqrt()), y)


def shares(x, y=None):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    return answers(dist.Categorical(p.clamp(min=0.05)), y)


def mixture(weight, far, scale):
    """A prior whose second component has hardly any weight."""
    return dist.MixtureSameFamily(
        dist.Categorical(T([1 - weight, weight], dtype=torch.float64)),
        dist.Normal(T([0.0, far]), T([1.0, scale])),
    )


# One latent: the program and its data. The answers are those of quadrature.
ONE_LATENT = {
    "box": (program_of(STANDARD, lambda z: dist.Uniform(z - 1, z + 1)), [0.0, 0.5]),
    "from z on": (program_of(STANDARD, lambda z: dist.Pareto(z.exp(), 3.0)), [2.5, 3.0, 2.2]),
    "factor": (
        program_of(STANDARD, normal, lambda z: torch.where(z > 0.3, 0.0, -math.inf)),
        [0.2, 1.0],
    ),
    "factor far away": (
        program_of(STANDARD, normal, lambda z: torch.where(z < 3.0, 0.0, -math.inf)),
        [4.0, 5.0, 4.5],
    ),
    "finite factor": (program_of(STANDARD, normal, lambda z: 3.0 * (z > 2.5)), [1.0, 1.5]),
    "a hill far away": (
        program_of(STANDARD, normal, lambda z: 900.0 * torch.exp(-((z - 25) ** 2) / 8)),
        [1.0, 1.5],
    ),
    "capped mean": (program_of(STANDARD, lambda z: normal(z.clamp(max=1.5))), [1.0, 2.5, 1.8]),
    "floored mean": (program_of(STANDARD, lambda z: normal(z.clamp(min=-4.0))), [-5.0, -6.0]),
    "where": (
        program_of(STANDARD, lambda z: normal(torch.where(z > 1.2, 2 * z - 1.2, z))),
        [0.5, 1.5, 3.0],
    ),
    "relu": (program_of(STANDARD, lambda z: normal(torch.relu(z))), [0.3, -0.2]),
    "leaky": (
        program_of(STANDARD, lambda z: normal(torch.nn.functional.leaky_relu(z + 3.0) - 3.0)),
        [-4.0, -2.5],
    ),
    "abs": (program_of(STANDARD, lambda z: normal((z - 3.0).abs())), [2.0, 1.0]),
    "maximum": (program_of(STANDARD, lambda z: normal(torch.maximum(z, T(-2.0)))), [-1.5, -2.5]),
    "floor": (program_of(STANDARD, lambda z: normal(z, 1.0 + z.abs().floor() / 50)), [0.4, 2.2]),
    "noise that grows": (
        program_of(STANDARD, lambda z: normal(z, torch.where(z > 2.0, 1.1, 1.0))),
        [1.0, 2.5],
    ),
    "outlier component": (
        program_of(
            STANDARD,
            lambda z: dist.MixtureSameFamily(
                dist.Categorical(T([1 - 1e-6, 1e-6], dtype=torch.float64)),
                dist.Normal(z.unsqueeze(-1), T([1.0, 30.0])),
            ),
        ),
        [0.2, 11.0],
    ),
    "capped rate": (
        program_of(dist.Gamma(2.0, 0.5), lambda z: dist.Poisson(z.clamp(max=5.0))),
        [4.0, 7.0],
    ),
    "capped rate, rarely": (
        program_of(dist.Gamma(2.0, 1.0), lambda z: dist.Poisson(z.clamp(max=8.0))),
        [3.0, 2.0, 4.0],
    ),
    "waiting": (
        program_of(dist.Gamma(2.0, 1.0), lambda z: dist.Exponential(z.clamp(min=0.3))),
        [3.0, 4.0],
    ),
    "clipped probability": (
        program_of(dist.Beta(1.0, 1.0), lambda z: dist.Bernoulli(z.clamp(0.05, 0.95))),
        [1.0, 1.0, 1.0, 1.0],
    ),
    "clipped at a hundredth": (
        program_of(dist.Beta(2.0, 2.0), lambda z: dist.Bernoulli(z.clamp(0.01, 0.99))),
        [1.0, 0.0, 1.0],
    ),
    "half the interval": (
        program_of(
            dist.Beta(2.0, 2.0),
            lambda z: dist.Bernoulli(z),
            lambda z: torch.where(z < 0.5, 0.0, -math.inf),
        ),
        [1.0, 1.0],
    ),
    "truncated normal": (
        program_of(
            dist.InverseGamma(3.0, 2.0),
            lambda z: normal(0.0, torch.where(z < 4.0, z, 4.0).sqrt()),
        ),
        [3.0, -2.0],
    ),
}


@pytest.mark.parametrize("name", ONE_LATENT)
def test_what_leaves_the_family_is_not_exact(name):
    program, y = ONE_LATENT[name]
    y = T([y], dtype=torch.float64)
    with pytest.raises(ValueError, match="Expected a program with a conjugate posterior"):
        exact(ProgramDensity(program, y.new_zeros(1, y.shape[1], 0), y))


@pytest.mark.parametrize("name", ["box", "factor", "capped rate", "clipped probability", "where"])
def test_auto_goes_on_to_the_right_answer(name):
    program, y = ONE_LATENT[name]
    density = ProgramDensity(program, torch.zeros(1, len(y), 0), T([y], dtype=torch.float64))

    def log_joint(grid):
        return density.log_density(torch.as_tensor(grid)[None, :, None])[0].numpy()

    mean, sd, evidence = moments_by_quadrature(log_joint, -9, 9)
    posterior = infer(program, y)
    draws = posterior.draws["z"]
    u = density.unconstrain({"z": draws[None]})[0, :, 0]
    assert posterior.diagnostics["method"] != "exact"
    assert abs(u.mean() - mean) < 0.2 * sd
    assert abs(posterior.log_evidence - evidence) < 0.25


def test_the_order_of_two_means_is_kept():
    x = T([[0.0], [1.0]] * 4)
    y = [1.0, 0.8, 1.2, 1.1, 0.7, 0.9, 1.3, 1.0]
    with pytest.raises(ValueError, match="normal is ruled out: at low = .* density is 0 and that"):
        infer(order, x, y, method="exact")
    posterior = infer(order, x, y)
    assert (posterior.draws["low"] < posterior.draws["high"]).all()
    assert abs(posterior.log_evidence + 16.9) < 0.25


@pytest.mark.parametrize(
    ("far", "scale", "y"), [(50.0, 2.0, 30.0), (50.0, 2.0, 60.0), (0.0, 30.0, 12.0)]
)
def test_a_component_of_tiny_weight_counts(far, scale, y):
    """The mixture of normals is exact, and all but one component of its prior is hardly there."""
    weight = 1e-5
    posterior = infer(program_of(mixture(weight, far, scale), normal), [y], method="exact")
    near = stats.norm.logpdf(y, 0.0, 2**0.5) + np.log1p(-weight)
    away = stats.norm.logpdf(y, far, (1 + scale**2) ** 0.5) + np.log(weight)
    evidence = np.logaddexp(near, away)
    share = np.exp(away - evidence)
    mean = (1 - share) * y / 2 + share * (far + (y - far) * scale**2 / (1 + scale**2))
    assert abs(posterior.log_evidence - evidence) < 1e-5
    assert abs(posterior.mean["z"] - mean) < 0.3


SEVERAL = {
    "positive slope": (positive_slope, [0.5, 1.0, 0.2]),
    "capped noise": (capped_noise, [1.0, 3.0, -2.0]),
    "capped precision": (capped_precision, [0.1, 0.3, -0.2]),
    "shares": (shares, [0.0, 1.0, 1.0]),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_leaves_a_family_of_several_latents_is_not_exact(name):
    program, y = SEVERAL[name]
    with pytest.raises(ValueError, match="ruled out"):
        infer(program, y, method="exact")


def test_one_dataset_of_a_batch_is_enough_to_rule_it_out():
    """The cap is far from what all datasets but one say."""
    program, _ = ONE_LATENT["capped mean"]
    y = T([[0.0, 0.1], [0.3, -0.5], [2.0, 3.0]], dtype=torch.float64)
    with pytest.raises(ValueError, match="ruled out"):
        exact(ProgramDensity(program, torch.zeros(3, 2, 0), y))


def test_a_declared_posterior_must_be_that_of_the_program():
    class Shifted(LinearRegressionPrior):
        """Inherits the closed form of another program."""

        def model(self, x, y=None):
            return super().model(x, None if y is None else y.clamp(max=1.0))

    x, y = torch.randn(20, 2), torch.randn(20) + 1.0
    assert infer(LinearRegressionPrior(2), x, y).diagnostics["method"] == "exact"
    with pytest.raises(ValueError, match="Shifted.posterior to be the posterior of its program"):
        infer(Shifted(2), x, y, method="exact")
    assert infer(Shifted(2), x, y, n_draws=100).diagnostics["method"] != "exact"


def wide(x, y=None):
    """Far from standard units, and with many rows: rounding must not rule it out."""
    slope = pyro.sample("slope", dist.Normal(torch.zeros(4), 1e4).to_event(1))
    return pyro.sample("y", dist.Normal(1e5 + x @ slope, 30.0).to_event(1), obs=y)


def certain(x, y=None):
    return answers(dist.Bernoulli(pyro.sample("p", dist.Beta(0.1, 0.1))), y)


def rare(x, y=None):
    return answers(dist.Poisson(pyro.sample("rate", dist.Gamma(0.01, 0.01))), y)


@pytest.mark.parametrize(
    ("program", "y"),
    [
        (wide, 1e5 + 1e4 * torch.randn(2000)),
        (certain, torch.ones(500)),
        (rare, torch.zeros(300)),
        (rare, 1e4 + torch.arange(50.0)),
    ],
)
def test_conjugate_programs_of_unusual_scale_stay_exact(program, y):
    x = torch.randn(len(y), 4)
    assert infer(program, x, y, n_draws=10).diagnostics["method"] == "exact"


@pytest.mark.parametrize(
    "prior",
    [
        dist.Uniform(T([-1.0, 0.0]), T([1.0, 1.0]), validate_args=False),
        dist.Pareto(T([1.0, 2.0]), 3.0, validate_args=False),
        dist.Uniform(T([0.0, 0.0]), T([1.0, 2.0]), validate_args=False),
    ],
    ids=["two intervals", "two half-lines", "one of two is the unit interval"],
)
def test_bounds_may_differ_between_elements(prior):
    def model(x, y=None):
        at = pyro.sample("at", prior.to_event(1))
        return pyro.sample("y", dist.Normal(at, 1.0).to_event(1), obs=y)

    posterior = infer(model, [0.5, 0.7], seed=0)
    low, high = (prior.icdf(T([p, p])) for p in (0.0, 1.0 - 1e-7))
    assert posterior.diagnostics["method"] != "exact"
    for i, y in enumerate((0.5, 0.7)):
        grid = torch.linspace(float(low[i]), min(float(high[i]), 9.0), 20001)
        law = prior.log_prob(grid[:, None].expand(-1, 2))[:, i].nan_to_num(-math.inf)
        weights = (law - 0.5 * (grid - y) ** 2).softmax(0)
        mean = (weights * grid).sum()
        sd = (weights * (grid - mean) ** 2).sum().sqrt()
        assert abs(posterior.mean["at"][i] - mean) < 0.15 * sd
