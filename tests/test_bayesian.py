"""BayesianRegressor and BayesianClassifier: scikit-learn's rules, and closed forms."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized import BayesianClassifier, BayesianRegressor
from amortized.priors.linear_regression import LinearRegressionPrior
from amortized.priors.student_t import StudentT


@parametrize_with_checks(
    [
        BayesianRegressor(n_draws=20, random_state=0),
        BayesianClassifier(method="laplace", n_draws=50, random_state=0),
    ]
)
def test_scikit_learn_checks(estimator, check, no_shape_checks):
    check(estimator)


RNG = np.random.RandomState(0)
X = RNG.randn(40, 2)
Y = X @ [1.0, -2.0] + 3.0 + 0.5 * RNG.randn(40)


def test_regression_agrees_with_scikit_learn():
    ours = BayesianRegressor().fit(X, Y)
    theirs = BayesianRidge().fit(X, Y)
    mean, std = ours.predict(X, return_std=True)
    their_mean, their_std = theirs.predict(X, return_std=True)
    np.testing.assert_allclose(mean, their_mean, atol=0.05)
    np.testing.assert_allclose(std, their_std, rtol=0.1)


def test_classification_agrees_with_scikit_learn():
    labels = np.array(["a", "b", "c"])[np.digitize(Y, [1.0, 4.0])]
    ours = BayesianClassifier(method="smc", n_draws=500, random_state=0).fit(X, labels)
    theirs = LogisticRegression(C=4.0).fit(X, labels)
    proba = ours.predict_proba(X)
    np.testing.assert_allclose(proba.sum(1), 1.0)
    assert np.abs(proba - theirs.predict_proba(X)).mean() < 0.05
    assert (ours.predict(X) == labels).mean() > 0.9


@pytest.mark.parametrize("method", ["exact", "smc", "importance"])
def test_quantiles_and_samples_belong_to_the_distribution(method):
    estimator = BayesianRegressor(LinearRegressionPrior(2), method=method, n_draws=500)
    estimator.fit(X, Y)
    levels = [0.05, 0.5, 0.95]
    quantiles = estimator.predict_quantiles(X[:3], levels)
    predictive = estimator.predict_distribution(X[:3])
    for level, column in zip(levels, quantiles.T, strict=True):
        np.testing.assert_allclose(predictive.cdf(torch.as_tensor(column)), level, atol=1e-6)
    draws = estimator.sample_y(X[:3], 4000)
    assert draws.shape == (3, 4000)
    np.testing.assert_allclose(draws.mean(1), estimator.predict(X[:3]), atol=0.06)
    np.testing.assert_allclose(np.quantile(draws, levels, axis=1).T, quantiles, atol=0.12)


def slope_only(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    return pyro.sample("y", dist.Normal(3.0 + slope * x[:, 0], 2.0).to_event(1), obs=y)


def test_grid_search_over_methods():
    search = GridSearchCV(
        BayesianRegressor(slope_only, n_draws=200, random_state=0),
        [
            {"method": ["exact", "smc", "laplace"]},
            {"method": ["nuts"], "options": [{"n_warmup": 50, "n_chains": 2}]},
        ],
        cv=2,
    ).fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all() and np.ptp(scores) < 0.05


@pytest.mark.parametrize("method", ["exact", "smc"])
def test_partial_fit_equals_fit(method):
    model = LinearRegressionPrior(2)
    whole = BayesianRegressor(model, method=method, random_state=0).fit(X, Y)
    parts = BayesianRegressor(model, method=method, random_state=0)
    for rows in (slice(0, 15), slice(15, 40)):
        parts.partial_fit(X[rows], Y[rows])
    np.testing.assert_allclose(whole.predict(X), parts.predict(X), atol=0.08)
    if method == "smc":
        assert parts.posterior_.diagnostics["start"] == "GaussianMixture"


def test_student_t_is_that_of_scipy():
    df, loc, scale = torch.tensor([2.5, 7.0]), torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0])
    ours = StudentT(df.double(), loc.double(), scale.double())
    theirs = stats.t(df.numpy(), loc.numpy(), scale.numpy())
    y = torch.tensor([0.7, -2.0], dtype=torch.float64)
    np.testing.assert_allclose(ours.cdf(y), theirs.cdf(y.numpy()))
    np.testing.assert_allclose(ours.icdf(ours.cdf(y)), y)
    grid = np.linspace(-400, 400, 800_001)
    for i in range(2):
        one = stats.t(float(df[i]), float(loc[i]), float(scale[i]))
        gap = (one.cdf(grid) - (grid >= float(y[i]))) ** 2
        np.testing.assert_allclose(ours.crps(y)[i], np.trapezoid(gap, grid), rtol=1e-2)


WRONG = {
    "one class": (lambda: BayesianClassifier().fit(X, np.zeros(40)), "2 classes"),
    "method": (lambda: BayesianRegressor(method="magic").fit(X, Y), "method among"),
    "quantile": (lambda: BayesianRegressor().fit(X, Y).predict_quantiles(X, 1.5), "levels"),
    "model": (lambda: BayesianRegressor(model=3, method="smc").fit(X, Y), "a Pyro program"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
