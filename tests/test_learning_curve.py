"""Learning curves as a prior: formulas, the rule of acceptance, the sampler against its density."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from amortized.priors import LearningCurvePrior, named_prior
from amortized.priors.curves.curve_families import PEAKED, UNIFORM
from amortized.priors.curves.learning_curve import WITHIN
from amortized.program.density import ProgramDensity
from amortized.program.support import bijection_to

# The formulas as the papers print them, with parameters in the order of the families' priors.
PRINTED = {
    "pow3": lambda t, c, a, alpha: c - a * t**-alpha,
    "ilog2": lambda t, c, a: c - a / np.log(t + 1),
    "janoschek": lambda t, a, beta, k, delta: a - (a - beta) * np.exp(-k * t**delta),
    "weibull": lambda t, al, be, kappa, delta: al - (al - be) * np.exp(-((kappa * t) ** delta)),
    "mmf": lambda t, al, be, kappa, delta: al - (al - be) / (1 + (kappa * t) ** delta),
    "vap": lambda t, a, b, log_c: np.exp(a + b / t + np.exp(log_c) * np.log(t)),
    "loglog_linear": lambda t, a, log_b: np.log(a * np.log(t) + np.exp(log_b)),
    "exp4": lambda t, c, a, alpha, b: c - np.exp(-a * t**alpha + b),
    "pow4": lambda t, gap, a, al, log_b: 1 - np.exp(gap) - (a * t + np.exp(log_b)) ** -al,
    "log_power": lambda t, a, b, c: a / (1 + (t / np.exp(b)) ** c),
    "dr_hill": lambda t, theta, eta, kappa: theta * t**eta / (kappa**eta + t**eta),
}
FAMILIES = [(PEAKED, name) for name in PEAKED] + [(UNIFORM, name) for name in UNIFORM]
PRIORS = {
    "published": LearningCurvePrior(),
    "flat": LearningCurvePrior(parameter_priors="uniform"),
    "all eleven": LearningCurvePrior({name: 0.3 for name in PEAKED}),
    "one family, short": LearningCurvePrior(["mmf"], n_steps=7, regular=0.0),
    "with discrepancy": LearningCurvePrior(discrepancy=(-3.0, 0.5)),
}
each_prior = pytest.mark.parametrize("prior", PRIORS.values(), ids=PRIORS)


@pytest.mark.parametrize("table, name", FAMILIES, ids=[name for _, name in FAMILIES])
def test_family_is_its_printed_formula(table, name):
    family, t = table[name], torch.arange(1, 101, dtype=torch.float64)
    parameters = [make(*at).sample((200, 1)).double() for make, *at in family.priors.values()]
    printed = PRINTED[name](t.numpy(), *[value.numpy() for value in parameters])
    sane = np.isfinite(printed)
    assert sane.mean() > 0.6
    found = family.formula(t, *parameters).numpy()
    np.testing.assert_allclose(found[sane], printed[sane], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "values, accepted",
    [
        ([0.0, 0.5, 1.0], True),
        ([0.5, 0.9, 0.6], True),
        ([0.5, 0.5, 0.5], False),
        ([0.6, 0.7, 0.5], False),
        ([0.1, 1.01, 0.5], False),
        ([0.1, -0.01, 0.5], False),
        ([0.1, math.nan, 0.5], False),
        ([0.1, 0.2, math.inf], False),
    ],
)
def test_rule_of_acceptance(values, accepted):
    assert bool(PRIORS["published"].accepts(torch.tensor(values))) is accepted


@each_prior
def test_every_curve_obeys_the_rule(prior):
    latents = prior.sample(200, 3, 3, seed=0).latents
    grid = torch.arange(1.0, prior.n_steps + 1)
    assert prior.accepts(prior.curve(grid, latents)).all()


def test_looking_at_the_ends_first_changes_nothing():
    prior, n = PRIORS["published"], 4000
    torch.manual_seed(3)
    found = prior._candidates(n)
    torch.manual_seed(3)
    drawn = {name: make(*at).sample((n,)) for name, (make, *at) in prior._sites().items()}
    ok = prior.accepts(prior.curve(torch.arange(1.0, 101), drawn))
    assert 0.1 < ok.float().mean() < 0.3
    for name, value in found.items():
        assert torch.equal(value, drawn[name][ok])


def test_latents_that_are_never_refused_follow_their_priors():
    # Log-power curves nearly always obey the rule.
    latents = (
        LearningCurvePrior(["log_power"], noise=(-3.0, 0.5)).sample(4000, 1, 1, seed=1).latents
    )
    laws = {
        "noise": stats.lognorm(0.5, scale=math.exp(-3)),
        "log_power_weight": stats.uniform(0, 1),
        "log_power_a": stats.norm(0.8, 0.1),
        "log_power_b": stats.norm(1, 1),
        "log_power_c": stats.uniform(-3, 3),
    }
    assert set(latents) == set(laws)
    for name, law in laws.items():
        assert stats.kstest(latents[name].numpy(), law.cdf).pvalue > 1e-3, name


def covariances(x, latents):
    """Of the answers around their curves, ``(tasks, rows, rows)``."""
    cov = latents["noise"][:, None, None] ** 2 * torch.eye(x.shape[1], dtype=x.dtype)
    if "discrepancy" in latents:
        delta, length = latents["discrepancy"][:, None, None], latents["length"][:, None, None]
        cov = cov + delta**2 * torch.exp(-(x - x.mT).abs() / length)
    return cov


@pytest.mark.parametrize("name", ["published", "with discrepancy"])
def test_answers_scatter_about_the_curve_as_noise_and_discrepancy_say(name):
    prior = PRIORS[name]
    batch = prior.sample(3000, 4, 4, seed=2)
    # Beside a noise of 1e-7 the rounding of float32 would show.
    kept = batch.latents["noise"] > 1e-4
    latents = {name: value[kept].double() for name, value in batch.latents.items()}
    x = torch.cat((batch.x_context, batch.x_query), 1)[kept].double()
    y = torch.cat((batch.y_context, batch.y_query), 1)[kept].double()
    off = (y - prior.curve(prior.steps(x), latents)).unsqueeze(-1)
    root = torch.linalg.cholesky(covariances(x, latents))
    z = torch.linalg.solve_triangular(root, off, upper=False)
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3


@each_prior
def test_density_is_that_of_the_sampler(prior):
    batch = prior.sample(6, 5, 0, seed=4)
    latents = {name: value.double() for name, value in batch.latents.items()}
    density = ProgramDensity(prior.model, batch.x_context.double(), batch.y_context.double())
    u = density.unconstrain({name: value.unsqueeze(1) for name, value in latents.items()})
    log_prior, log_likelihood = density.log_prior_and_likelihood(u)
    wanted = torch.zeros(6, dtype=torch.float64)
    for name, (make, *at) in prior._sites().items():
        wanted += make(*at).log_prob(latents[name])
        support = bijection_to(make(*at).support)
        back = support.inv(latents[name])
        wanted += support.log_abs_det_jacobian(back, latents[name])
    np.testing.assert_allclose(log_prior[:, 0], wanted, rtol=1e-5)
    mean = prior.curve(prior.steps(batch.x_context.double()), latents).numpy()
    cov = covariances(batch.x_context.double(), latents).numpy()
    answers = batch.y_context.double().numpy()
    by_scipy = [
        stats.multivariate_normal.logpdf(*one) for one in zip(answers, mean, cov, strict=True)
    ]
    np.testing.assert_allclose(log_likelihood[:, 0], by_scipy, rtol=1e-6)


def test_density_of_a_refused_curve_is_zero():
    prior = PRIORS["published"]
    batch = prior.sample(1, 5, 0, seed=5)
    density = ProgramDensity(prior.model, batch.x_context.double(), batch.y_context.double())
    draws = density.sample_prior(500)
    latents = {name: value[0] for name, value in density.constrain(draws).items()}
    grid = torch.arange(1, 101, dtype=torch.float64)
    accepted = prior.accepts(prior.curve(grid, latents))
    assert torch.equal(density.log_likelihood(draws)[0] > -torch.inf, accepted)


def test_acceptance_is_the_share_of_the_program_that_has_density():
    prior = PRIORS["published"]
    density = ProgramDensity(prior.model, torch.zeros(1, 1, 1), torch.zeros(1, 1))
    share = (density.log_likelihood(density.sample_prior(20_000)) > -torch.inf).double().mean()
    assert prior.acceptance(100_000) == pytest.approx(share.item(), abs=0.02)


def test_regular_context_is_a_prefix_and_queries_come_later():
    prior = LearningCurvePrior(regular=1.0)
    batch = prior.sample(400, 30, 20, seed=6)
    context, query = prior.steps(batch.x_context), prior.steps(batch.x_query)
    torch.testing.assert_close(context, torch.arange(1.0, 31).expand(400, -1))
    torch.testing.assert_close(query, query.round())
    earlier = (query < 30.5).float().mean().item()
    assert earlier == pytest.approx(WITHIN * 0.3, abs=0.01)
    assert query.round().unique().tolist() == list(range(1, 101))


def test_irregular_steps_lie_before_the_queries_but_for_some():
    prior = LearningCurvePrior(regular=0.0)
    batch = prior.sample(400, 30, 20, seed=7)
    context, query = prior.steps(batch.x_context), prior.steps(batch.x_query)
    assert context.min() >= 1 - 1e-4 and max(context.max(), query.max()) <= 100 + 1e-3
    before = query < context.max(1, keepdim=True).values
    assert 0.3 * WITHIN < before.float().mean() < 0.7 * WITHIN
    assert (context - context.round()).abs().mean() > 0.1


def test_features_and_steps_are_inverse():
    prior, steps = LearningCurvePrior(n_steps=40), torch.linspace(1, 40, 30)
    torch.testing.assert_close(prior.steps(prior.features(steps)), steps)
    assert prior.features(torch.tensor([1.0, 40.0])).flatten().tolist() == [0.0, 1.0]


@each_prior
def test_sampling_is_pure(prior):
    first, again = (prior.sample(5, 4, 3, seed=8) for _ in range(2))
    other = prior.sample(5, 4, 3, seed=9)
    assert torch.equal(first.y_query, again.y_query)
    assert not torch.equal(first.y_query, other.y_query)


def test_whole_curves_are_those_of_regular_tasks():
    prior = named_prior("learning-curve")
    curves = prior.whole_curves(50, seed=10)
    assert curves.shape == (50, 100)
    assert prior.regular == 0.7  # the prior itself is left as it was
    published = LearningCurvePrior(regular=1.0).sample(50, 100, 0, seed=10)
    assert torch.equal(curves, published.y_context)


def test_weights_go_up_to_their_bounds():
    prior = LearningCurvePrior({"pow3": 0.2, "mmf": 0.7})
    latents = prior.sample(3000, 1, 1, seed=11).latents
    assert 0.19 < latents["pow3_weight"].max() <= 0.2
    assert 0.69 < latents["mmf_weight"].max() <= 0.7


WRONG = {
    "family": (lambda: LearningCurvePrior(["pow5"]), r"families among .* got \['pow5'\]"),
    "none": (lambda: LearningCurvePrior([]), "one or more"),
    "flat": (lambda: LearningCurvePrior(["mmf"], parameter_priors="uniform"), "uniform priors"),
    "priors": (lambda: LearningCurvePrior(parameter_priors="wide"), "'peaked' or 'uniform'"),
    "weight": (lambda: LearningCurvePrior({"pow3": 0.0}), "weight of pow3 > 0"),
    "n_steps": (lambda: LearningCurvePrior(n_steps=1), "n_steps to be an integer >= 2; got 1"),
    "noise": (lambda: LearningCurvePrior(noise=(-4.0, 0.0)), "sd > 0"),
    "regular": (lambda: LearningCurvePrior(regular=1.5), r"regular in \[0, 1\]; got 1.5"),
    "context": (lambda: PRIORS["published"].sample(2, 101, 1, seed=0), "at most n_steps=100"),
}


@pytest.mark.parametrize("make, message", WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=message):
        make()
