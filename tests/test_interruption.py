"""Ctrl-C during a fit leaves an estimator as it was, and bars appear where they should."""

import io

import numpy as np
import pytest

from amortized import (
    BayesianClassifier,
    BayesianRegressor,
    PFNClassifier,
    PFNRegressor,
    infer,
)
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.progress import progress_bar, with_progress

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 1))
Y = X[:, 0] + 0.1 * RNG.normal(size=12)
LABELS = np.where(Y > 0, "a", "b")
OTHER = RNG.normal(size=(10, 1)) * 50 + 7
ESTIMATORS = {
    "table": (PFNRegressor(n_estimators=1), Y, 100 * OTHER[:, 0]),
    "rows": (PFNRegressor("gp"), Y, 100 * OTHER[:, 0]),
    "classes": (PFNClassifier(n_estimators=1), LABELS, np.repeat(["c", "d"], 5)),
    "posterior": (BayesianRegressor(method="exact"), Y, 100 * OTHER[:, 0]),
    "posterior of classes": (
        BayesianClassifier(method="laplace"),
        LABELS,
        np.repeat(["c", "d"], 5),
    ),
}
HEAVY = {
    "table": "amortized.tables.views.EncodedViews.encode",
    "rows": "amortized.estimators.tabular.encoded_rows.EncodedRows.__init__",
    "classes": "amortized.tables.views.EncodedViews.encode",
    "posterior": "amortized.estimators.bayesian_estimator.infer",
    "posterior of classes": "amortized.estimators.bayesian_estimator.infer",
}


def interrupted(*args, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_that_is_interrupted_changes_nothing(name, monkeypatch):
    estimator, y, other = ESTIMATORS[name]
    before = estimator.fit(X, y).predict(X)
    with monkeypatch.context() as patched:
        patched.setattr(HEAVY[name], interrupted)
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(OTHER, other)
    np.testing.assert_array_equal(estimator.predict(X), before)


def test_a_refused_fit_changes_nothing():
    estimator = BayesianClassifier(method="laplace").fit(X, LABELS)
    with pytest.raises(ValueError, match="at least 2 classes"):
        estimator.fit(X, np.repeat("c", 12))
    assert set(estimator.predict(X)) == {"a", "b"}


class Screen(io.StringIO):
    def isatty(self):
        return True


def watched(monkeypatch):
    """A terminal; within the test, since pytest has its own standard error for each phase."""
    monkeypatch.setattr("sys.stderr", screen := Screen())
    monkeypatch.setattr("amortized.progress.DELAY", 0.0)
    monkeypatch.setenv("TQDM_DISABLE", "0")
    return screen


@pytest.mark.parametrize(
    ("name", "method", "options"),
    [
        ("SMC", "smc", {}),
        ("NUTS", "nuts", {"n_warmup": 10, "n_chains": 1, "jit": False}),
        ("HMC", "hmc", {}),
    ],
)
def test_samplers_show_a_bar(monkeypatch, name, method, options):
    screen = watched(monkeypatch)

    infer(NormalMeanPrior(), np.zeros((3, 0)), np.zeros(3), method=method, n_draws=64, **options)
    assert f"{name}: " in screen.getvalue()


def test_predictions_of_many_rows_show_a_bar(monkeypatch):
    screen = watched(monkeypatch)
    fitted = PFNRegressor(n_estimators=1).fit(X, Y)
    fitted.predict(np.zeros((300, 1)))
    assert "predicting: " in screen.getvalue()


def test_only_the_outermost_bar_is_shown(monkeypatch):
    screen = watched(monkeypatch)
    with progress_bar("outer", "unit"):
        assert list(with_progress(range(3), "inner", "unit")) == [0, 1, 2]
    assert list(with_progress(range(3), "later", "unit")) == [0, 1, 2]
    assert "outer" in screen.getvalue() and "later" in screen.getvalue()
    assert "inner" not in screen.getvalue()


def test_bars_are_silent_where_asked(monkeypatch):
    screen = watched(monkeypatch)
    with progress_bar("hidden", "unit", shown=False):
        list(with_progress(range(3), "inner", "unit"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    list(with_progress(range(3), "off", "unit"))
    assert screen.getvalue() == ""
