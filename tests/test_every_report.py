"""Every public estimator, posterior and network has a report; held-out rows are judged rightly."""

import json
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import BayesianRidge, LinearRegression, LogisticRegression
from sklearn.metrics import log_loss

import amortized
from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
    infer,
)
from amortized.diagnostics import report
from amortized.diagnostics.data.held_out_classes import (
    HeldOutClasses,
    classes_section,
    held_out_classes,
)
from amortized.diagnostics.data.held_out_targets import (
    HeldOutTargets,
    held_out_targets,
    targets_section,
)
from amortized.latent_priors import LatentTasks
from amortized.networks import (
    PFN,
    DistributionTransformer,
    DistributionTransformerConfig,
    PFNConfig,
    TabularPFN,
    TabularPFNConfig,
)
from amortized.priors import LinearRegressionPrior, ProgramPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior

N = 40
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 2))
Y = X[:, 0] + 0.3 * RNG.normal(size=N)
LABELS = np.where(Y > 0, "<b>yes</b>", "no $x$")
CURVES = 0.8 - 0.6 * np.arange(1, 16) ** -RNG.uniform(0.3, 1.0, size=(12, 1))
CURVES += 0.01 * RNG.normal(size=CURVES.shape)
PRIOR = LinearRegressionPrior(1, variance=0.1, intercept=False)
OWN = PFN.new(
    PRIOR,
    PFNConfig(n_features=1, max_context=20, d_model=16, n_heads=2, n_layers=1, n_bars=20),
).eval()


def _posterior():
    return infer(NormalMeanPrior(), torch.zeros(9, 0), torch.linspace(0.0, 2.0, 9))


def _dt():
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, n_components=3)
    return DistributionTransformer.new(LatentTasks(NormalMeanPrior()), size).eval()


def _table_network():
    size = TabularPFNConfig(
        target="regression",
        max_context=20,
        n_bars=20,
        d_model=16,
        d_hidden=16,
        n_cell_blocks=1,
        n_row_blocks=1,
        d_row=32,
        n_retrieval_heads=2,
        n_thinking=2,
    )
    return TabularPFN.new(LinearRegressionPrior(2), size).eval()


FEW = {"n_datasets": 30, "n_context": [3]}
REPORTS = {
    "PFNClassifier": lambda: PFNClassifier(n_estimators=1).fit(X, LABELS).report(),
    "PFNRegressor": lambda: PFNRegressor(n_estimators=1).fit(X, Y).report(),
    "PFNRegressor, rows": lambda: PFNRegressor("gp").fit(X[:9], Y[:9]).report(None),
    "PFNRegressor, own network": lambda: PFNRegressor(OWN).fit(X[:20, :1], Y[:20]).report(),
    "PFNRegressor, own prior": lambda: (
        PFNRegressor(OWN).fit(X[:20, :1], Y[:20]).report(None, prior=PRIOR)
    ),
    "BayesianClassifier": lambda: (
        BayesianClassifier(method="laplace", random_state=0).fit(X, LABELS).report(None)
    ),
    "BayesianRegressor": lambda: BayesianRegressor(random_state=0).fit(X, Y).report(None),
    "LearningCurveRegressor": lambda: LearningCurveRegressor().fit(None, CURVES).report(),
    "Posterior": lambda: _posterior().report(),
    "own PFN": lambda: report(OWN, prior=PRIOR, **FEW),
    "own network of tables": lambda: report(
        _table_network(), prior=LinearRegressionPrior(2), **FEW
    ),
    "own Distribution Transformer": lambda: report(_dt(), prior=NormalMeanPrior(), **FEW),
    "estimator by the one call": lambda: report(BayesianRegressor(method="exact").fit(X, Y)),
    "scikit-learn, classes": lambda: report(LogisticRegression(), X, LABELS),
    "quantiles by their own method": lambda: report(Quantiles(), X, Y),
    "quantiles by an argument": lambda: report(QuantilesByArgument(), X, Y),
    "scikit-learn, targets": lambda: report(GaussianProcessRegressor(alpha=0.1), X, Y),
}


class Quantiles(RegressorMixin, BaseEstimator):
    """A model that knows quantiles only."""

    def fit(self, X, y):
        self.model_ = BayesianRidge().fit(X, y)
        return self

    def predict_quantiles(self, X, q):
        mean, std = self.model_.predict(X, return_std=True)
        return mean[:, None] + std[:, None] * stats.norm.ppf(q)

    def predict(self, X):
        return self.model_.predict(X)


class QuantilesByArgument(RegressorMixin, BaseEstimator):
    """The same with the interface of quantile forests."""

    def fit(self, X, y):
        self.model_ = Quantiles().fit(X, y)
        return self

    def predict(self, X, quantiles=None):
        return self.model_.predict_quantiles(X, quantiles)


def test_a_model_without_uncertainty_is_refused():
    with pytest.raises(TypeError, match="predict_quantiles.*got a LinearRegression"):
        report(LinearRegression(), X, Y)


def test_quantiles_are_judged_as_the_distribution_they_come_from():
    """The log score differs by what a density between thirteen quantiles loses."""
    one, other = (
        report(model, X, Y).sections["Held-out rows"] for model in (Quantiles(), BayesianRidge())
    )
    key = "coverage of 90% intervals"
    assert one[key] == other[key]
    scores = [float(each["log score, estimator"].split()[0]) for each in (one, other)]
    assert abs(scores[0] - scores[1]) < 0.1


@pytest.mark.parametrize("name", REPORTS)
def test_everything_has_a_report(name):
    page = REPORTS[name]()
    assert page.sections and page.title
    stored = page.to_dict()
    json.dumps(stored)
    assert stored["what this means"] and stored["what to do"]
    html = page.to_html()
    # No name of a class or a column reaches the page as markup.
    assert "<b>yes</b>" not in html and html.count("<h1>") == 1
    lines = repr(page).splitlines()
    assert lines[0] == f"{page.title}: {page.verdict}"
    for section in page.sections:
        assert f"  {section}" in lines
    if re.search("Classifier|classes", name):
        assert "&lt;b&gt;yes&lt;/b&gt;" in html
        assert len(page.figures) >= 2


def test_a_network_that_knows_less_than_a_line_is_named():
    """Untrained, it is as wide as its prior: calibrated perhaps, but of no use."""
    page = PFNRegressor(OWN).fit(X[:20, :1], X[:20, 0]).report(None)
    assert any("linear model has a higher log score" in warning for warning in page.warnings)


def test_every_public_estimator_is_among_them():
    estimators = {
        name for name in amortized.__all__ if hasattr(getattr(amortized, name), "predict_quantiles")
    } | {name for name in amortized.__all__ if hasattr(getattr(amortized, name), "predict_proba")}
    assert estimators <= REPORTS.keys()
    assert len(estimators) == 5


def test_what_cannot_be_judged_says_why():
    with pytest.raises(ValueError, match="Give it: report.network, prior"):
        report(OWN)
    with pytest.raises(ValueError, match="For other networks run"):
        report(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match=r"report\(estimator, X, y\)"):
        report(LogisticRegression())
    with pytest.raises(ValueError, match="report_posterior"):
        report(amortized.Posterior({"mu": torch.randn(9)}))
    page = PFNClassifier(n_estimators=1).fit(X[:3], LABELS[:3]).report()
    assert "at least 5 rows" in page.sections["Held-out rows"]["not judged"]


# --- Classes


def calibrated(n, n_classes, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(n_classes), size=n)
    y = (rng.random((n, 1)) > probs.cumsum(1)[:, :-1]).sum(1)
    return probs, y


@pytest.mark.parametrize("n_classes", [2, 4])
def test_ece_has_the_p_value_that_it_says(n_classes):
    """It is uniform where the probabilities are exact."""
    found = []
    for seed in range(60):
        probs, y = calibrated(150, n_classes, seed)
        section = classes_section(HeldOutClasses(y, {"estimator": probs}), range(n_classes), seed)
        text = section.entries["expected calibration error (ECE)"]
        found.append(float(text.split("p = ")[1].rstrip(")")))
    assert stats.kstest(found, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("power", "word"), [(3.0, "overconfident"), (0.3, "underconfident")])
def test_probabilities_too_extreme_or_too_moderate_are_named(n_classes, power, word):
    probs, y = calibrated(600, n_classes, 0)
    wrong = probs**power / (probs**power).sum(1, keepdims=True)
    section = classes_section(HeldOutClasses(y, {"estimator": wrong}), range(n_classes))
    assert any(word in warning for warning in section.warnings)


def test_log_loss_and_counts_are_those_of_scikit_learn():
    probs, y = calibrated(80, 3, 1)
    section = classes_section(HeldOutClasses(y, {"estimator": probs}), "abc")
    assert section.entries["log-loss, estimator"].startswith(f"{log_loss(y, probs):.4g} +-")
    right = [(probs.argmax(1)[y == i] == i).sum() for i in range(3)]
    for i, name in enumerate("abc"):
        text = section.entries[f"class {name}"]
        assert text.startswith(f"{(y == i).sum()} rows, ")
        assert text.endswith(f"; {right[i]} classified correctly")


def test_each_row_is_judged_once_and_from_others_alone():
    y = np.array([0] * 11 + [1] * 9 + [2])  # nothing can be said of the class that comes once
    asked = []

    def answer(given, out):
        assert not np.intersect1d(given, out).size
        assert {0, 1} <= set(y[given])
        asked.extend(out)
        return np.full((len(out), 3), 1 / 3)

    found = held_out_classes(answer, RNG.normal(size=(21, 1)), y, 3)
    assert sorted(asked) == list(range(20)) and found.n_left_out == 1
    np.testing.assert_array_equal(found.y, y[asked])


def test_a_worse_model_than_the_baselines_is_named():
    x = RNG.normal(size=(200, 1))
    y = (x[:, 0] > 0).astype(np.intp)

    def answer(given, out):
        return np.full((len(out), 2), 0.5)

    section = classes_section(held_out_classes(answer, x, y, 2), ["a", "b"])
    assert any("boosted trees has a lower log-loss" in warning for warning in section.warnings)


def test_repeated_rows_are_in_one_fold():
    """Rows with whole weights are repeated: a copy in another fold would give the answer away."""
    labels = RNG.permutation(LABELS)
    weights = np.full(N, 5.0)
    page = PFNClassifier(n_estimators=1).fit(X, labels, sample_weight=weights).report()
    assert page.sections["Held-out rows"]["rows judged"].startswith(f"{N}, ")


# --- Targets


def normal_targets(scale, n=300):
    y = np.random.default_rng(3).normal(size=n)
    return HeldOutTargets.of(dist.Normal(torch.zeros(n), scale), y)


@pytest.mark.parametrize(
    ("scale", "words"), [(1.0, None), (0.5, "too narrow"), (2.0, "too wide")], ids=str
)
def test_width_of_intervals_is_judged(scale, words):
    section = targets_section(normal_targets(scale))
    covered = 1 - 2 * stats.norm.sf(1.645 * scale)
    share = float(section.entries["coverage of 90% intervals"].split()[0])
    assert abs(share - covered) < 4 * np.sqrt(covered * (1 - covered) / 300)
    assert (not section.warnings) if words is None else words in section.warnings[0]


def test_a_shift_is_found_by_the_pit():
    n = 300
    y = np.random.default_rng(3).normal(size=n)
    section = targets_section(HeldOutTargets.of(dist.Normal(torch.full((n,), 0.4), 1.0), y))
    assert "wrong shape or location" in section.warnings[0]


@pytest.mark.parametrize("n", [20, 23])
def test_each_target_is_judged_once_and_from_others_alone(n):
    y = np.arange(float(n))
    asked = []

    def answer(given, out):
        assert not np.intersect1d(given, out).size
        asked.extend(out)
        return dist.Normal(torch.as_tensor(y[out]), 1.0)

    found = held_out_targets(answer, RNG.normal(size=(n, 2)), y)
    assert sorted(asked) == list(range(n))
    np.testing.assert_array_equal(found.y, y[asked])
    np.testing.assert_allclose(found.mean, found.y)


def test_the_part_of_a_curve_that_is_hidden_is_not_read():
    """The last value changes nothing but what it is compared with."""
    changed = CURVES.copy()
    changed[:, -1] = 0.1
    one, other = (LearningCurveRegressor().fit(None, c).report() for c in (CURVES, changed))
    error = "root mean squared error, estimator"
    held = "Held-out curves"
    assert other.sections[held][error] > 10 * one.sections[held][error]
    assert "too narrow" in other.warnings[0] and one.warnings == []


def waits(x, y=None):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    return pyro.sample("y", dist.Exponential(rate).expand([len(x)]).to_event(1), obs=y)


def test_a_posterior_remembers_its_problem():
    posterior = infer(ProgramPrior(waits), [0.5, 1.0, 0.2, 2.0])
    page = posterior.report()
    assert page.sections["Subject"]["rows"] == 4
    assert "Reference" in page.sections and page.warnings == []
