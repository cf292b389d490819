"""A report says what was asked and answered, and warns where a planted fault asks for it."""

import html
import io
import json
import sys
import time

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch.distributions import Independent, LogNormal, Normal

from amortized import PFNRegressor, infer, load
from amortized.diagnostics import Report, TrainingRange, report, report_posterior
from amortized.diagnostics.data.quantile_predictive import LEVELS, QuantilePredictive
from amortized.diagnostics.reports.advice import ADVICE, SOUND
from amortized.diagnostics.reports.page import Section
from amortized.diagnostics.reports.predictive_report import report_pfn
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.estimators.bayesian import BayesianClassifier, BayesianRegressor
from amortized.latent_priors.problems import named_tasks
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.posterior import Posterior
from amortized.priors import named_prior
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior


@pytest.fixture(scope="module")
def network():
    return load("gp-1d")


@pytest.fixture(scope="module")
def inside(network):
    return TrainingRange(network, named_prior("gp-1d"), 20, 1, n_datasets=400)


def fresh(n=200):
    batch = named_prior("gp-1d").sample(n, 20, 0, seed=77)
    return batch.x_context, batch.y_context


def test_datasets_of_the_prior_are_inside(inside):
    assert 0.01 <= inside(*fresh()).flagged().mean() <= 0.11


SHIFTS = {
    "moved": (lambda x, y: (x, y + 5), "y"),
    "stretched": (lambda x, y: (x, 10 * y), "y"),
    "other inputs": (lambda x, y: (x + 4, y), "x"),
    "outliers": (lambda x, y: (x, y + 5 * (torch.arange(20) == 7)), "y"),
}


@pytest.mark.parametrize("name", SHIFTS)
def test_shifted_datasets_are_outside_for_a_reason(inside, name):
    shift, _ = SHIFTS[name]
    verdict = inside(*shift(*fresh()))
    assert verdict.flagged().mean() >= 0.8
    assert "than in the training prior" in verdict.reason(0)


def test_standardised_range_does_not_see_units(network):
    judge = TrainingRange(network, named_prior("gp-1d"), 20, 1, standardised=True, n_datasets=100)
    x, y = fresh(20)
    one, other = judge(x, y), judge(10 * x + 3, 0.1 * y - 7)
    np.testing.assert_allclose(one.p_values, other.p_values, atol=0.05)


def test_range_refuses_other_sizes(inside, network, no_shape_checks):
    with pytest.raises(ValueError, match="TrainingRange of that size"):
        inside(torch.zeros(1, 19, 1), torch.zeros(1, 19))
    with pytest.raises(ValueError, match="at least 8 rows"):
        TrainingRange(network, named_prior("gp-1d"), 7, 1)
    with pytest.raises(ValueError, match="with 3 features"):
        TrainingRange(network, NormalMeanPrior(), 8, 3, n_datasets=40)


def test_page_is_one_file_without_links(tmp_path):
    figure = Figure()
    figure.subplots().plot([0, 1], [0, 1])
    page = Report("A < B", {"S": {"p": 0.123456}}, ["Mind <this>."], {"A line": figure})
    text = page.save(tmp_path / "report.html").read_text()
    assert "A &lt; B" in text and "Mind &lt;this&gt;" in text and "0.1235" in text
    assert "http" not in text and text.count("data:image/png;base64,") == 1
    stored = json.loads(page.save(tmp_path / "report.json").read_text())
    assert stored == page.to_dict() and stored["S"]["p"] == 0.123456


@pytest.mark.parametrize(
    ("warnings", "verdict"),
    [
        ([], "No check found a problem."),
        (["The range is .05 of it; narrow. More."], "The range is .05 of it."),
        (["Intervals are narrow: widen them.", "b", "c"], "Intervals are narrow (and 2 more)."),
    ],
)
def test_every_form_of_a_report_begins_with_its_verdict(warnings, verdict):
    page = Report("<i>gp</i>", {}, warnings)
    assert page.to_dict()["verdict"] == verdict
    assert repr(page).splitlines()[0] == f"<i>gp</i>: {verdict}"
    text = page.to_html()
    for tag in ("title", "h1"):
        assert f"<{tag}>&lt;i&gt;gp&lt;/i&gt;: {verdict}</{tag}>" in text
    assert "<i>" not in text


@pytest.mark.parametrize("name", ADVICE)
def test_every_form_says_what_warnings_mean_and_what_to_do(name):
    page = Report.of("t", [Section(name, {}, ["One.", "Two."]), Section(name, {}, ["Three."])])
    stored, text = page.to_dict(), page.to_html()
    assert stored["what this means"] == [ADVICE[name].meaning]
    assert stored["what to do"] == [ADVICE[name].remedy]
    assert html.escape(ADVICE[name].meaning) in text and html.escape(ADVICE[name].remedy) in text
    assert f"  > {ADVICE[name].remedy}" in repr(page).splitlines()


def test_a_report_without_warnings_says_what_that_means():
    assert Report.of("t", [Section("Calibration", {})]).to_dict()["what this means"] == [
        SOUND.meaning
    ]


def test_quantile_predictive_is_a_distribution():
    """Against the normal whose quantiles it has, where they are dense; and its own mass."""
    normal = torch.distributions.Normal(torch.tensor([0.0, 3.0]).double(), 2.0)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    predictive = QuantilePredictive(normal.icdf(levels[:, None]).mT)
    p = torch.linspace(0.001, 0.999, 40, dtype=torch.float64)[:, None].expand(-1, 2)
    torch.testing.assert_close(predictive.cdf(predictive.icdf(p)), p)
    assert (predictive.cdf(normal.icdf(p)) - p).abs().max() < 0.01
    y = torch.linspace(-40.0, 46.0, 40_001, dtype=torch.float64)[:, None].expand(-1, 2)
    density, one = predictive.log_prob(y).exp(), torch.ones(2, dtype=torch.float64)
    torch.testing.assert_close(torch.trapezoid(density, y, dim=0), one, atol=1e-3, rtol=0)
    mean = torch.trapezoid(density * y, y, dim=0)
    torch.testing.assert_close(mean, predictive.mean, atol=5e-3, rtol=0)
    flat = QuantilePredictive(torch.ones(1, len(LEVELS)))
    assert flat.log_prob(torch.ones(1)).isfinite() and 0 <= flat.cdf(torch.ones(1)) <= 1


@pytest.mark.parametrize(("terminal", "disabled", "shown"), [(1, "0", 1), (1, "1", 0), (0, "0", 0)])
def test_a_bar_is_shown_on_terminals_alone_and_not_where_it_is_disabled(
    monkeypatch, terminal, disabled, shown
):
    class Screen(io.StringIO):
        def isatty(self):
            return bool(terminal)

    def sections():
        for name in "ab":
            time.sleep(0.01)
            yield Section(name, {})

    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # another test may load it
    monkeypatch.setenv("TQDM_DISABLE", disabled)
    monkeypatch.setattr("amortized.progress.DELAY", 0.0)
    assert list(Report.of("A report", sections()).sections) == ["a", "b"]
    assert ("section" in screen.getvalue()) == bool(shown)


def test_page_adapts_to_phones_dark_mode_and_paper():
    text = Report("t", {}).to_html()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in text
    for rule in ("(prefers-color-scheme: dark)", "(max-width: 600px)", "@media print"):
        assert rule in text


def small(page, tmp_path):
    path = page.save(tmp_path / "page.html")
    assert path.stat().st_size < 3_000_000
    json.dumps(page.to_dict())
    return page


def test_report_of_a_network_estimator(tmp_path):
    task = named_prior("gp-1d").sample(1, 12, 0, seed=5)
    estimator = PFNRegressor("gp-1d").fit(task.x_context[0].numpy(), task.y_context[0].numpy())
    page = small(estimator.report(), tmp_path)
    assert page.sections["Reference"]["method"] == "smc"
    assert page.sections["Range"]["p-value"] > 0
    assert len(page.figures) == 2 and page.sections["Prior"]["units"] == "raw"
    assert page.warnings == []


def test_report_leaves_the_network_where_it_is(monkeypatch):
    X = np.linspace(-1, 1, 8)[:, None]
    estimator = PFNRegressor("gp-1d").fit(X, X[:, 0])
    before = estimator.predict(X)

    def change(network, x, y, **asked):
        network.double()  # in place, as a move to another device is
        return Report("changed", {})

    monkeypatch.setattr("amortized.estimators.reporting.report_pfn", change)
    estimator.report()
    assert estimator.network_.borders.dtype == torch.float32
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_report_of_a_network_warns_of_data_out_of_range():
    X = np.linspace(-1, 1, 16)[:, None]
    y = np.zeros(16)
    y[8] = 30.0
    with pytest.warns(UserWarning, match="Expected y between"):
        estimator = PFNRegressor("gp-1d").fit(X, y)
    x, y = torch.as_tensor(X), torch.as_tensor(y)
    page = report_pfn(estimator.network_, x, y, reference=None, n_datasets=20)
    assert "Reference" not in page.sections
    assert any("outside of the network's training range" in w for w in page.warnings)


def test_report_of_a_posterior_estimator(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = X[:, 0] + 0.3 * rng.normal(size=30)
    page = small(BayesianRegressor(random_state=0).fit(X, y).report(), tmp_path)
    assert page.sections["Method"]["method"] == "exact"
    assert page.sections["Reference"]["method"] == "smc"
    assert page.warnings == []


def test_report_of_a_wrong_posterior_warns():
    prior, x, y = NormalMeanPrior(), torch.zeros(6, 0), torch.linspace(0, 2, 6)
    right = infer(prior, x, y, method="exact", n_draws=1000)
    narrow = right.mean["mean"] + 0.5 * (right.draws["mean"] - right.mean["mean"]) + 0.5
    wrong = Posterior(
        {"mean": narrow},
        predictive=lambda z: right.predictive(z),
        diagnostics={"method": "exact", "doubt": ["r_hat is 1.2", "mcse_mean is 0.3"]},
    )
    warnings = report_posterior(prior, x, y, wrong, reference="exact", n_datasets=40).warnings
    assert len(warnings) == 3
    for words in ("mcse_mean is 0.3.", "r_hat is 1.2.", "mean differs from exact"):
        assert any(words in warning for warning in warnings)


MIXTURE = GaussianMixture.from_moments(torch.tensor([1.5, -0.5]), 0.05 * torch.eye(2))
BY_NAME = {"coefficients": Normal(1.5, 0.2), "noise": LogNormal(-0.5, 0.2)}


@pytest.mark.parametrize("latent_prior", [MIXTURE, BY_NAME], ids=["mixture", "by name"])
def test_report_is_of_the_prior_that_was_told(latent_prior):
    """Data drawn under it: a network is calibrated there, and equal to SMC under it alone."""
    model, y = LinearModelPrior(0), torch.tensor([1.3, 2.4, 1.9]).double()
    x = torch.zeros(3, 0).double()
    posterior = infer(model, x, y, method="dt", latent_prior=latent_prior)
    page = report_posterior(
        model, x, y, posterior, latent_prior=latent_prior, options={"network": "dt-normal"}
    )
    assert page.sections["Reference"]["method"] == "smc"
    assert page.sections["Prior"]["of its latents"] == "given at run time"
    assert page.warnings == []
    page = report_posterior(model, x, y, posterior, n_datasets=40)
    assert any("differs from smc" in warning for warning in page.warnings)


def test_report_warns_of_a_network_out_of_its_range_and_of_a_stream_that_drifted():
    model, y = LinearModelPrior(0), torch.linspace(0, 2, 6).double()
    posterior = infer(model, y, method="dt", latent_prior={"coefficients": Normal(500.0, 1.0)})
    posterior.diagnostics["drift"] = 0.7
    x = torch.zeros(6, 0).double()
    warnings = report_posterior(model, x, y, posterior, reference=None, n_datasets=40).warnings
    for words in ("training range", "the stream is 0.70 nats"):
        assert any(words in warning for warning in warnings)


def test_report_of_data_that_the_model_does_not_make():
    y = torch.tensor([0.0, 0.1, -0.1, 0.0, 0.1, 25.0])
    prior, x = NormalMeanPrior(), torch.zeros(6, 0)
    posterior = infer(prior, x, y, method="exact")
    page = report_posterior(prior, x, y, posterior, reference=None, n_datasets=40)
    assert any("does not fit" in warning for warning in page.warnings)


def test_report_of_an_estimator_knows_its_prior():
    X = np.linspace(-1, 1, 20)[:, None]
    y = X[:, 0] + 0.1 * np.sin(40 * X[:, 0])
    estimator = BayesianRegressor(method="laplace", random_state=0).fit(X, y)
    estimator.set_prior({"weights": Independent(Normal(0.9, 0.02).expand([1]), 1)})
    page = estimator.report("smc")
    assert page.sections["Prior"]["of its latents"] == "given at run time"
    assert not any(warning.startswith("weights") for warning in page.warnings)


def test_report_of_a_classifier():
    X = np.linspace(-1, 1, 20)[:, None]
    estimator = BayesianClassifier(method="laplace", random_state=0).fit(X, X[:, 0] > 0.1)
    page = estimator.report(reference=None)
    assert page.sections["Method"]["method"] == "laplace"


def test_report_of_networks(network, tmp_path):
    page = small(report(network, n_datasets=60), tmp_path)
    assert page.sections["Subject"]["network"] == "PFN gp-1d"
    assert page.sections["Calibration"]["order of rows, change in nats"] < 1e-3
    tasks = named_tasks("dt-mean")
    config = DistributionTransformerConfig(d_model=16, n_layers=1, n_components=3, prior="dt-mean")
    untrained = DistributionTransformer.new(tasks, config).eval()
    page = small(report(untrained, n_context=[1, 3], n_datasets=60), tmp_path)
    assert page.sections["Prior"]["name"] == "dt-mean"
    assert {"SBC with 1 rows, p-value", "5% importance efficiency with 3 rows"} <= set(
        page.sections["Calibration"]
    )
    assert len(page.figures) == 6
    with pytest.raises(ValueError, match="Expected a network among .*PFN"):
        report(torch.nn.Linear(1, 1))
