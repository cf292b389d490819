"""Parameters by marginal likelihood against EM, closed forms, and exact gradients."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from amortized import fit_parameters, infer
from amortized.empirical_bayes.monte_carlo_em import Chains
from amortized.empirical_bayes.parameters import Parameters, WithParameters
from amortized.seeding import seeded

DOUBLE = torch.float64
N = 60


def mixture(x, y=None):
    share = pyro.param("share", torch.tensor(0.4), constraint=constraints.unit_interval)
    mean = pyro.param("mean", torch.tensor([-1.0, 1.0]))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(share))
        return pyro.sample("y", dist.Normal(mean[z.long()], scale), obs=y)


def rows():
    generator = torch.Generator().manual_seed(0)
    z = torch.rand(N, generator=generator) < 0.3
    y = torch.where(z, 2.0, -1.0) + 0.9 * torch.randn(N, generator=generator)
    return torch.zeros(N, 0), y.double()


def em(y, n_steps=4000):
    share, mean, scale = 0.4, np.array([-1.0, 1.0]), 1.0
    for _ in range(n_steps):
        weight = np.exp(-0.5 * ((y[:, None] - mean) / scale) ** 2) * [1 - share, share]
        weight /= weight.sum(1, keepdims=True)
        share = weight[:, 1].mean()
        mean = (weight * y[:, None]).sum(0) / weight.sum(0)
        scale = math.sqrt((weight * (y[:, None] - mean) ** 2).sum() / len(y))
    return share, mean, scale


def test_exact_is_the_optimum_of_em():
    x, y = rows()
    share, mean, scale = em(y.numpy())
    fitted = fit_parameters(mixture, x, y, n_starts=2)
    assert fitted.method == "exact" and not fitted.diagnostics["doubt"]
    assert abs(fitted["share"] - share) < 1e-3 and abs(fitted["scale"] - scale) < 1e-3
    assert np.abs(fitted["mean"].numpy() - mean).max() < 1e-3
    density = np.exp(-0.5 * ((y.numpy()[:, None] - mean) / scale) ** 2) @ [1 - share, share]
    exact = np.log(density / scale / math.sqrt(2 * math.pi)).sum()
    assert abs(fitted.log_evidence - exact) < 1e-6
    # The fitted program is one without parameters, and Pyro's store is as it was.
    posterior = infer(fitted.program, x, y, n_draws=10)
    assert abs(posterior.log_evidence - exact) < 1e-6
    assert not list(pyro.get_param_store())


def test_monte_carlo_em_is_the_same_optimum():
    x, y = rows()
    share, mean, scale = em(y.numpy())
    fitted = fit_parameters(
        mixture, x, y, method="mcem", start={"mean": [-1.0, 2.0]}, n_steps=240, n_chains=6
    )
    assert fitted.log_evidence is None and fitted.diagnostics["accept"].shape == (1, N)
    assert abs(fitted["share"] - share) < 0.04 and abs(fitted["scale"] - scale) < 0.07
    assert np.abs(fitted["mean"].numpy() - mean).max() < 0.1


def effects(x, y=None):
    centre = pyro.param("centre", torch.tensor(0.0))
    between = pyro.param("between", torch.tensor(1.0), constraint=constraints.positive)
    within = pyro.param("within", torch.tensor(1.0), constraint=constraints.positive)
    mean = pyro.sample("mean", dist.Normal(centre, between))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(mean, within), obs=y)


def groups():
    generator = torch.Generator().manual_seed(1)
    mean = 0.7 + 1.5 * torch.randn(12, 1, generator=generator, dtype=DOUBLE)
    return torch.zeros(12, 4, 0), mean + 0.6 * torch.randn(12, 4, generator=generator, dtype=DOUBLE)


def test_the_importance_weighted_bound_is_tight_for_normal_latents():
    x, y = groups()

    def loss(at):
        covariance = np.exp(2 * at[2]) * np.eye(4) + np.exp(2 * at[1])
        return -multivariate_normal(np.full(4, at[0]), covariance).logpdf(y.numpy()).sum()

    best = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-8})
    fitted = fit_parameters(effects, x, y, n_steps=250)
    assert fitted.method == "iwae" and not fitted.diagnostics["doubt"]
    found = [fitted["centre"], fitted["between"].log(), fitted["within"].log()]
    assert np.abs(np.array(found) - best.x).max() < 0.03
    # At the optimum the evidence is flat, so that it is known better than the parameters.
    assert abs(fitted.log_evidence + best.fun) < 0.02 + 5 * fitted.diagnostics["log_evidence_error"]


@pytest.mark.parametrize(("unit", "shift"), [(1e-3, 0.0), (1e3, 5e3)])
def test_a_bound_that_still_rises_is_said(unit, shift):
    """Parameters that begin in other units than those of the data are not reached."""
    x, y = groups()
    with pytest.warns(UserWarning, match="still rises at the end"):
        fitted = fit_parameters(effects, x, unit * y + shift, n_steps=150)
    assert fitted.diagnostics["gain"] > 1


@pytest.mark.parametrize("control_variate", [False, True])
def test_gradients_of_monte_carlo_em_have_the_exact_mean(control_variate):
    x, y = rows()
    parameters = Parameters(mixture, x, y, {"mean": [-0.5, 1.5]})
    theta = parameters.start.clone().requires_grad_()
    values = parameters.values(theta)
    program = WithParameters(mixture, values)
    weight = torch.stack([1 - values["share"], values["share"]])
    normal = torch.distributions.Normal(values["mean"], values["scale"])
    evidence = (weight * normal.log_prob(y[:, None]).exp()).sum(1).log().sum()
    (exact,) = torch.autograd.grad(evidence, theta, retain_graph=True)
    with seeded(0):
        chains = Chains(program, x[None], y[None], 400)
        kept = []
        for step in range(60):
            gradient = chains.gradient(theta, control_variate)
            if step >= 30:
                kept.append(gradient)
    gradients = torch.stack(kept)
    # Steps of one chain depend on each other: their number is counted as a third.
    error = gradients.std(0) / math.sqrt(10)
    assert ((gradients.mean(0) - exact).abs() < 5 * error + 1e-9).all()


def test_the_control_variate_removes_noise_where_proposals_are_accepted():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(50, 1, generator=generator, dtype=DOUBLE)
    y = 20 * torch.randn(50, generator=generator, dtype=DOUBLE)

    def program(x, y=None):
        w = pyro.param("w", torch.tensor([[-1.0, 0.0, 1.0]], dtype=DOUBLE))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Categorical(logits=x @ w))
            return pyro.sample("y", dist.Normal(z.double(), 20.0), obs=y)

    variance = []
    for control_variate in (False, True):
        theta = Parameters(program, x, y).start.clone().requires_grad_()
        held = WithParameters(program, {"w": theta.reshape(1, 3)})
        with seeded(0):
            chains = Chains(held, x[None], y[None], 1)
            kept = []
            for step in range(140):
                gradient = chains.gradient(theta, control_variate)
                if step >= 90:
                    kept.append(gradient)
        variance.append(float(torch.stack(kept).var(0).sum()))
    assert variance[1] < 0.05 * variance[0]


def test_parameters_begin_where_the_store_has_them():
    x, y = rows()
    kept = pyro.param("share", torch.tensor(0.3), constraint=constraints.unit_interval)
    parameters = Parameters(mixture, x, y, {"scale": 2.0})
    values = parameters.values(parameters.start)
    torch.testing.assert_close(values["share"], torch.tensor(0.3, dtype=DOUBLE), check_dtype=False)
    assert abs(values["scale"] - 2) < 1e-9 and list(values) == ["share", "mean", "scale"]
    assert pyro.param("share").item() == kept.item() and list(pyro.get_param_store()) == ["share"]


def test_equal_seeds_give_equal_parameters():
    x, y = rows()
    options = {"method": "mcem", "n_steps": 20, "n_chains": 2, "start": {"mean": [-6.0, 6.0]}}
    with pytest.warns(UserWarning, match="drift"):
        one, two, other = (fit_parameters(mixture, x, y, seed=s, **options) for s in (1, 1, 2))
    assert torch.equal(one["mean"], two["mean"]) and not torch.equal(one["mean"], other["mean"])


def test_infer_names_the_way():
    x, y = rows()
    with pytest.warns(UserWarning, match="fit_parameters"):
        infer(mixture, x, y, n_draws=10)


def plain(x, y=None):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def improper(x, y=None):
    pyro.param("scale", torch.tensor(-1.0), constraint=constraints.positive)


X, Y = torch.zeros(3, 0), [0.0, 1.0, 2.0]
WRONG = {
    "method": (lambda: fit_parameters(mixture, X, Y, method="em"), "a method among"),
    "none": (lambda: fit_parameters(plain, X, Y), r"parameters pyro.param.*in the program"),
    "name": (lambda: fit_parameters(mixture, X, Y, start={"shape": 1.0}), r"\['shape'\]"),
    "value": (lambda: fit_parameters(mixture, X, Y, start={"scale": -1.0}), "in its constraint"),
    "rows": (lambda: fit_parameters(mixture, X, [0.0, 1.0]), "x of shape"),
    "fails": (lambda: fit_parameters(lambda x, y: 1 / 0, X, Y), "program that runs"),
    "continuous": (lambda: fit_parameters(effects, X, Y, method="exact"), "Use method='iwae'"),
    "discrete": (lambda: fit_parameters(mixture, X, Y, method="iwae"), "Use 'exact'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs(name, no_shape_checks):
    make, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        make()
