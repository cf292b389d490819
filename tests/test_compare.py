"""Model comparison: exact evidences, calibrated probabilities, intervals, averaged predictive."""

import math
import sys
import warnings

import numpy as np
import oracles
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from amortized.infer import infer
from amortized.infer.compare import AveragedPredictive, ModelComparison, compare

NOISE = 0.5


def polynomial(degree):
    def program(x, y=None):
        powers = torch.stack([x[:, 0] ** k for k in range(degree + 1)], -1)
        w = pyro.sample("w", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(powers @ w, NOISE), obs=y)

    return program


MODELS = {f"degree {d}": polynomial(d) for d in range(4)}


def draws_of_polynomials(n, rows=15):
    """Datasets of a uniformly drawn degree: inputs, observations, degrees."""
    x = torch.linspace(-1, 1, rows, dtype=torch.float64).reshape(1, rows, 1).expand(n, -1, -1)
    degree = torch.randint(0, 4, (n,))
    w = torch.randn(n, 4, dtype=torch.float64) * (torch.arange(4) <= degree[:, None])
    curves = sum(w[:, k, None] * x[..., 0] ** k for k in range(4))
    return x, curves + NOISE * torch.randn(n, rows, dtype=torch.float64), degree


def exact_evidence(x, y):
    found = []
    for degree in range(4):
        design = np.stack([x[:, 0] ** k for k in range(degree + 1)], -1)
        size = degree + 1
        noise = NOISE**2 * np.eye(len(y))
        found.append(oracles.linear_gaussian(design, y, np.zeros(size), np.eye(size), noise)[2])
    return np.array(found)


@pytest.mark.parametrize(("method", "error"), [("exact", 1e-8), ("smc", 0.05), ("auto", 1e-8)])
def test_evidences_and_probabilities_are_the_closed_forms(method, error):
    x, y, _ = draws_of_polynomials(4)
    found = compare(MODELS, x, y, method=method, n_draws=300)
    expected = np.stack([exact_evidence(*each) for each in zip(x.numpy(), y.numpy(), strict=True)])
    np.testing.assert_allclose(found.log_evidence, expected, atol=error)
    share = np.exp(expected - expected.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    answered = torch.stack(list(found.probabilities.values()), -1)
    np.testing.assert_allclose(answered, share, atol=max(error, 1e-6))


def test_one_dataset_is_the_batch_of_it_and_priors_enter_by_bayes():
    x, y, _ = draws_of_polynomials(3)
    many, one = compare(MODELS, x, y), compare(MODELS, x[1], y[1])
    torch.testing.assert_close(many.log_evidence[1], one.log_evidence)
    prior = {name: 1.0 + i for i, name in enumerate(MODELS)}
    weighted = compare(MODELS, x[1], y[1], prior=prior)
    odds = one.probabilities["degree 3"] / one.probabilities["degree 0"]
    again = weighted.probabilities["degree 3"] / weighted.probabilities["degree 0"]
    assert again / odds == pytest.approx(4.0)
    factor = weighted.bayes_factor("degree 3", "degree 0")
    assert factor.estimate.item() == pytest.approx(odds.item())
    assert factor.low == factor.estimate == factor.high  # exact evidences have no error


def calibration_p_value(found, truth):
    """SBC for a discrete unknown: randomised rank of the model that the data were drawn from."""
    share = torch.stack(list(found.probabilities.values()), -1).numpy()
    rows = np.arange(len(truth))
    below = share.cumsum(-1)[rows, truth] - share[rows, truth]
    rank = below + np.random.default_rng(0).uniform(size=len(truth)) * share[rows, truth]
    return stats.kstest(rank, "uniform").pvalue


def test_probabilities_are_calibrated_and_the_test_sees_a_wrong_evidence():
    x, y, truth = draws_of_polynomials(500)
    found = compare(MODELS, x, y, method="importance", n_draws=300)
    assert calibration_p_value(found, truth.numpy()) > 0.001
    wrong = found.log_evidence + torch.tensor([1.0, 0.0, 0.0, -1.0])
    off = ModelComparison(found.posteriors, found.prior, wrong, wrong * 0, found.in_doubt)
    assert calibration_p_value(off, truth.numpy()) < 1e-4


def test_intervals_of_bayes_factors_hold_the_exact_ones():
    x, y, _ = draws_of_polynomials(60)
    exact = compare(MODELS, x, y).log_bayes_factor("degree 2", "degree 1").estimate
    low_high = compare(MODELS, x, y, method="importance", n_draws=300)
    interval = low_high.log_bayes_factor("degree 2", "degree 1", 0.95)
    inside = (interval.low <= exact) & (exact <= interval.high)
    assert inside.double().mean() > 0.85
    assert (interval.high - interval.low).mean() < 0.3
    shares = low_high.probability_intervals()["degree 2"]
    assert ((shares.low <= shares.estimate) & (shares.estimate <= shares.high)).all()
    assert (shares.low < shares.high).all()


def test_averaged_predictive_is_the_mixture_of_the_exact_ones():
    x, y, _ = draws_of_polynomials(1)
    found = compare(MODELS, x[0], y[0], n_draws=4000)
    new = torch.tensor([[0.3], [2.0]], dtype=torch.float64)
    answer = found.predictive(new)
    parts, weights = [], np.array([found.probabilities[name].item() for name in MODELS])
    for degree in range(4):
        design, asked = (
            np.stack([v[:, 0].numpy() ** k for k in range(degree + 1)], -1) for v in (x[0], new)
        )
        size = degree + 1
        noise = NOISE**2 * np.eye(len(y[0]))
        mean, covariance, _ = oracles.linear_gaussian(
            design, y[0].numpy(), np.zeros(size), np.eye(size), noise
        )
        variance = np.einsum("ni,ij,nj->n", asked, covariance, asked) + NOISE**2
        parts.append(stats.norm(asked @ mean, np.sqrt(variance)))
    value = torch.tensor([0.1, -1.0], dtype=torch.float64)
    density = sum(w * part.pdf(value.numpy()) for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(answer.log_prob(value), np.log(density), atol=0.03)
    level = sum(w * part.cdf(value.numpy()) for w, part in zip(weights, parts, strict=True))
    np.testing.assert_allclose(answer.cdf(value), level, atol=0.02)
    torch.testing.assert_close(answer.icdf(answer.cdf(value)), value, rtol=0, atol=1e-5)
    draws = answer.sample((4000,))
    error = 5 * (answer.variance / 4000).sqrt()
    assert ((draws.mean(0) - answer.mean).abs() < error).all()
    torch.testing.assert_close(draws.var(0), answer.variance, rtol=0.2, atol=0)


def test_a_sample_of_the_average_keeps_to_one_model():
    parts = [dist.Normal(torch.full((1, 5), m), 0.01) for m in (-10.0, 10.0)]
    draws = AveragedPredictive(parts, torch.tensor([[0.25, 0.75]]).log()).sample((2000,))
    above = (draws > 0).double().mean((-1, -2))
    assert set(above.tolist()) == {0.0, 1.0}
    assert above.mean().item() == pytest.approx(0.75, abs=0.05)


def counts(family):
    def program(x, y=None):
        mean = pyro.sample("mean", dist.LogNormal(1.0, 0.5))
        rows = dist.Poisson(mean) if family == "poisson" else dist.Geometric(1 / (1 + mean))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", rows, obs=y)

    return program


def test_counts_without_a_closed_form_meet_quadrature():
    y = torch.tensor([0.0, 5.0, 1.0, 9.0, 2.0, 0.0, 14.0])
    found = compare({name: counts(name) for name in ("poisson", "geometric")}, y)

    def evidence(log_pmf):
        def log_density(grid):
            mean = np.exp(grid)
            terms = np.array([log_pmf(k, mean) for k in y.numpy()]).sum(0)
            return terms + stats.norm(1.0, 0.5).logpdf(grid)

        return oracles.moments_by_quadrature(log_density, -3.0, 5.0)[2]

    expected = [
        evidence(lambda k, mean: stats.poisson(mean).logpmf(k)),
        evidence(lambda k, mean: stats.geom(1 / (1 + mean)).logpmf(k + 1)),
    ]
    np.testing.assert_allclose(found.log_evidence, expected, atol=0.05)
    assert found.probabilities["geometric"] > 0.99
    predictive = found.predictive(torch.zeros(1, 0))
    total = sum(predictive.log_prob(torch.tensor([float(k)])).exp().item() for k in range(150))
    assert total == pytest.approx(1.0, abs=1e-3)


def ridge(x, y=None):
    """Two latents of which only the product is seen, narrowly: importance sampling is lost."""
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(a * b, 0.001), obs=y)


def test_doubt_is_said_with_the_name_of_the_model():
    with pytest.warns(UserWarning, match="Model 'ridge': These draws are in doubt"):
        found = compare(
            {"ridge": ridge, "line": polynomial(0)}, torch.zeros(3, 1), torch.ones(3),
            method="importance", n_draws=200,
        )  # fmt: skip
    assert found.in_doubt.tolist() == [True, False]
    assert "in doubt" in repr(found)


def test_no_doubt_no_warning_and_a_compact_print():
    x, y, _ = draws_of_polynomials(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(MODELS, x[0], y[0])
    lines, loo = repr(found).splitlines()[: 2 + len(MODELS)], repr(found.loo)
    assert repr(found) == "\n".join([*lines, loo]) and len(loo.splitlines()) == 2 + len(MODELS)
    shares = [found.probabilities[line.split("  ")[0].strip() or line[:12].strip()]
              for line in lines[2:]]  # fmt: skip
    assert shares == sorted(shares, reverse=True)
    assert {"log_evidence", "error", "probability", "low", "high"} <= set(lines[1].split())


@pytest.mark.parametrize("n", [1, 5])
def test_plot_has_a_bar_for_each_model(n):
    x, y, _ = draws_of_polynomials(n)
    found = compare(MODELS, x if n > 1 else x[0], y if n > 1 else y[0])
    axes = found.plot()
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MODELS)
    widths = [bar.get_width() for bar in axes.patches]
    shares = [share.mean().item() for share in found.probabilities.values()]
    assert widths == pytest.approx(shares)
    assert math.isclose(sum(widths), 1.0, abs_tol=1e-9)


ONE = {"a": polynomial(0), "b": polynomial(1)}
X, Y = torch.zeros(3, 1), torch.zeros(3)
WRONG = {
    "one model": (lambda: compare({"a": polynomial(0)}, X, Y), "two models"),
    "a list": (lambda: compare([polynomial(0)] * 2, X, Y), "two models"),
    "no evidence": (lambda: compare(ONE, X, Y, method="vi", n_draws=20), "estimates the evid"),
    "prior names": (lambda: compare(ONE, X, Y, prior={"a": 1.0}), "prior probabilities"),
    "prior zero": (lambda: compare(ONE, X, Y, prior={"a": 1.0, "b": 0.0}), "prior probabilities"),
    "unknown": (lambda: compare(ONE, X, Y).bayes_factor("a", "c"), "among"),
    "level": (lambda: compare(ONE, X, Y).log_bayes_factor("a", "b", 95), "level in"),
    "impossible": (lambda: compare({"a": counts("poisson"), "b": ONE["b"]}, X, Y - 1), "Model 'a'"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"{message}"):
        make()


def test_a_check_gives_both_evidences_and_says_where_they_disagree(monkeypatch):
    x, y, _ = draws_of_polynomials(1)
    models = {name: MODELS[name] for name in ("degree 0", "degree 1")}
    found = compare(models, x[0], y[0], method="exact", check="importance")
    assert found.apart.abs().max() < 4 and not found.in_doubt.any()
    row = found.summary()["degree 0"]
    assert row["check"] == pytest.approx(row["log_evidence"], abs=5 * row["check_error"] + 1e-6)
    assert "apart" in repr(found)
    with pytest.raises(ValueError, match="check='nested'"):
        _ = compare(models, x[0], y[0], method="exact").apart

    def wrong(model, x, y, *, method, **options):
        answer = infer(model, x, y, method=method, **options)
        if method == "importance" and model is MODELS["degree 1"]:
            answer.log_evidence = answer.log_evidence + 2
        return answer

    monkeypatch.setattr(sys.modules["amortized.infer.compare"], "infer", wrong)
    with pytest.warns(UserWarning, match="'degree 1': 'exact' and 'importance' disagree"):
        off = compare(models, x[0], y[0], method="exact", check="importance")
    assert off.in_doubt.tolist() == [False, True]
