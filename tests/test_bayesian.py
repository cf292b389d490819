"""BayesianRegressor and BayesianClassifier: scikit-learn's rules, and closed forms."""

import pickle

import numpy as np
import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import linear_gaussian
from scipy import stats
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized import BayesianClassifier, BayesianRegressor, infer
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors import LatentTasks
from amortized.latent_priors.problems import PROBLEMS
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.program.observations.student_t import StudentT


# Of some checks' few rows a normal approximation is poor, and says so.
@pytest.mark.filterwarnings("ignore:These draws are in doubt")
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


@pytest.mark.parametrize("method", ["exact", "smc"])
def test_one_value_is_for_every_row(method):
    predictive = BayesianRegressor(method=method, n_draws=50, random_state=0).fit(X, Y)
    predictive = predictive.predict_distribution(X[:3])
    for question in (predictive.icdf, predictive.cdf, predictive.log_prob):
        expected = question(torch.full((3,), 0.5, dtype=torch.float64))
        one = torch.tensor(0.5, dtype=torch.float64)
        assert torch.allclose(question(one), expected)
        assert torch.allclose(question(one.expand(2, 1)), expected.expand(2, 3))


def test_a_constant_column_says_nothing():
    """Of 0.1 rounding leaves a standard deviation of 1e-17."""
    constant, other = np.full((40, 1), 0.1), np.full((40, 1), 0.2)
    mean, std = BayesianRegressor().fit(constant, Y).predict(other, return_std=True)
    assert (np.abs(mean - Y.mean()) < 3 * Y.std()).all() and (std < 3 * Y.std()).all()
    mean, std = BayesianRegressor().fit(X, constant[:, 0]).predict(X, return_std=True)
    assert np.isfinite(mean).all() and (std > 1e-6).all()
    estimator = BayesianClassifier(method="laplace", random_state=0)
    estimator.fit(np.hstack((X, constant)), Y > 3)
    assert (estimator.predict(np.hstack((X, other))) == (Y > 3)).mean() > 0.8


def test_classes_as_objects():
    for labels in (
        pd.Series(Y > 3, dtype=object),
        pd.Series(np.where(Y > 3, "a", "b"), dtype="string"),
    ):
        estimator = BayesianClassifier(method="laplace", random_state=0).fit(X, labels)
        assert (estimator.predict(X) == labels.to_numpy(object)).mean() > 0.8


def slope_only(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 5.0))
    return pyro.sample("y", dist.Normal(3.0 + slope * x[:, 0], 2.0).to_event(1), obs=y)


# A short chain may be in doubt; that all methods can be searched is the point.
@pytest.mark.filterwarnings("ignore:These draws are in doubt")
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


ELSEWHERE = {"slope": dist.Normal(-3.0, 0.3)}
MIXTURE = GaussianMixture.from_moments(torch.tensor([-3.0]), torch.tensor([[0.09]]))


@pytest.mark.parametrize(
    ("method", "latent_prior"),
    [("exact", ELSEWHERE), ("smc", ELSEWHERE), ("smc", MIXTURE), ("laplace", MIXTURE)],
)
def test_prior_set_later_gives_the_posterior_under_it(method, latent_prior):
    """As from the start, as with its oracle; and after more rows, which keep it."""
    estimator = BayesianRegressor(slope_only, method=method, n_draws=4000, random_state=0)
    estimator.fit(X[:6], Y[:6])
    without = estimator.posterior_.mean["slope"]
    assert estimator.set_prior(latent_prior) is estimator
    afresh = BayesianRegressor(
        slope_only, method=method, latent_prior=latent_prior, n_draws=4000, random_state=0
    ).fit(X[:6], Y[:6])
    assert torch.equal(estimator.posterior_.mean["slope"], afresh.posterior_.mean["slope"])
    for n in (6, 20):
        if n > 6:
            estimator.partial_fit(X[6:n], Y[6:n])
        mean, covariance, log_evidence = linear_gaussian(
            X[:n, :1], Y[:n] - 3.0, np.array([-3.0]), np.array([[0.09]]), 4.0 * np.eye(n)
        )
        posterior = estimator.posterior_
        assert posterior.mean["slope"].item() == pytest.approx(mean[0], abs=0.02)
        assert posterior.std["slope"].item() == pytest.approx(covariance[0, 0] ** 0.5, rel=0.06)
        assert posterior.log_evidence.item() == pytest.approx(log_evidence, abs=0.3)
    estimator.set_prior(None).fit(X[:6], Y[:6])
    assert torch.equal(estimator.posterior_.mean["slope"], without)


def sketched(name):
    """An untrained network that reads the sketch of the likelihood alone: nearly right."""
    config = DistributionTransformerConfig(
        d_model=16,
        n_heads=2,
        n_layers=1,
        d_hidden=16,
        n_components=1,
        reads_rows=False,
        prior=name,
    )
    return DistributionTransformer.new(LatentTasks(PROBLEMS[name].program()), config).eval()


@pytest.fixture(scope="module")
def linear_network():
    return sketched("dt-linear")


@pytest.fixture(scope="module")
def logistic_network():
    return sketched("dt-logistic")


COEFFICIENTS = {"coefficients": dist.Normal(torch.tensor([1.0, -1.5, 3.0]), 0.05).to_event(1)}


NO_INTERCEPT = {"intercept": dist.Normal(0.0, 1e-3)}


@pytest.mark.parametrize(
    ("method", "latent_prior"),
    [
        *((method, None) for method in ("auto", "exact", "smc", "laplace", "dt")),
        *((method, NO_INTERCEPT) for method in ("auto", "smc", "laplace", "dt")),
    ],
)
def test_the_default_regression_is_one_program(method, latent_prior, linear_network):
    """Whatever answers: with the same latents in the same units, and the same answers."""
    options = {"network": linear_network} if method == "dt" else None
    estimator = BayesianRegressor(
        method=method, latent_prior=latent_prior, options=options, n_draws=2000, random_state=0
    ).fit(X, 10 * Y)
    reference = BayesianRegressor(
        method="smc", latent_prior=latent_prior, n_draws=2000, random_state=1
    ).fit(X, 10 * Y)
    ours, theirs = estimator.posterior_, reference.posterior_
    assert sorted(ours.names) == ["intercept", "variance", "weights"]
    assert isinstance(estimator._problem[0], LinearRegressionPrior)
    for name in ours.names:
        off = (ours.mean[name] - theirs.mean[name]) / theirs.std[name]
        assert off.abs().max() < 0.5
        torch.testing.assert_close(ours.std[name], theirs.std[name], rtol=0.4, atol=0)
    np.testing.assert_allclose(estimator.predict(X), reference.predict(X), atol=1.0)


@pytest.mark.parametrize("method", ["auto", "smc", "laplace", "dt"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_default_classification_is_one_program(method, n_classes, logistic_network):
    labels = np.digitize(Y, [1.0, 4.0][: n_classes - 1])
    options = {"network": logistic_network} if method == "dt" else None
    estimator = BayesianClassifier(method=method, options=options, n_draws=200, random_state=0)
    if method == "dt" and n_classes == 3:
        with pytest.raises(ValueError, match="Expected the program that the network 'dt-logistic'"):
            estimator.fit(X, labels)
        return
    estimator.fit(X, labels)
    expected = ["coefficients"] if n_classes == 2 else ["weights", "intercept"]
    assert estimator.posterior_.names == expected
    model = estimator._problem[0]
    trace = pyro.poutine.trace(model.model if n_classes == 2 else model).get_trace(torch.ones(1, 2))
    assert all((trace.nodes[name]["fn"].base_dist.scale == 2.0).all() for name in expected)


def test_stream_goes_on_from_the_prior_that_was_set(linear_network):
    model = LinearModelPrior(2)
    stream = BayesianRegressor(model, method="dt", options={"network": linear_network})
    first = stream.fit(X[:20], Y[:20]).set_prior(COEFFICIENTS).posterior_
    stream.partial_fit(X[20:], Y[20:])
    # The update is exact, whatever the untrained network made of the rows before it.
    exact = infer(
        model, X[20:], Y[20:], method="smc", latent_prior=first.mixture, n_draws=4000, seed=0
    )
    off = stream.posterior_.mean["coefficients"] - exact.mean["coefficients"]
    assert (off.abs() < 0.15 * exact.std["coefficients"]).all()
    # That answer was off, and the drift says so.
    assert 0.1 < stream.posterior_.diagnostics["drift"] < 2
    # A prior set as a parameter counts from the next call on, for all rows.
    stream.set_params(latent_prior=None).partial_fit(X[:1], Y[:1])
    own = infer(
        model,
        np.concatenate([X, X[:1]]),
        np.concatenate([Y, Y[:1]]),
        method="dt",
        network=linear_network,
    )
    assert torch.allclose(stream.posterior_.mixture.mean, own.mixture.mean)


def test_classes_in_one_pass(logistic_network):
    """Against SMC on the same model; in batches the second of which has a class less."""
    labels = np.where(Y > 3.0, "yes", "no")
    options = {"network": logistic_network}
    stream = BayesianClassifier(method="dt", options=options, random_state=0)
    stream.partial_fit(X[:25], labels[:25], classes=["yes", "no"])
    same = labels[25:] == "no"
    stream.partial_fit(X[25:][same], labels[25:][same])
    seen = np.concatenate([np.arange(25), 25 + np.flatnonzero(same)])
    whole = BayesianClassifier(method="dt", options=options, random_state=0)
    whole.fit(X[seen], labels[seen])
    sampled = BayesianClassifier(method="smc", random_state=0).fit(X[seen], labels[seen])
    assert list(stream.classes_) == ["no", "yes"] and len(stream.y_train_) == len(seen)
    reference = sampled.predict_proba(X)
    assert np.abs(whole.predict_proba(X) - reference).mean() < 0.05
    assert np.abs(stream.predict_proba(X) - reference).mean() < 0.1
    away = {"coefficients": dist.Normal(torch.tensor([-2.0, 2.0, 0.0]), 0.1).to_event(1)}
    assert (whole.set_prior(away).predict(X) != labels).mean() > 0.7


def test_grid_search_over_priors():
    """Of few rows and priors near, far and wide, the near one predicts best."""
    near = GaussianMixture.from_moments(torch.tensor([1.0]), torch.tensor([[0.01]]))
    search = GridSearchCV(
        BayesianRegressor(slope_only, method="smc", n_draws=200, random_state=0),
        {"latent_prior": [{"slope": dist.Normal(-9.0, 0.1)}, near, None]},
        cv=2,
    ).fit(X[:4], 3.0 + X[:4, 0])
    assert search.best_params_["latent_prior"] is near
    assert search.best_estimator_.posterior_.mean["slope"].item() == pytest.approx(1.0, abs=0.2)


def test_estimators_pickle_with_their_prior():
    estimator = BayesianRegressor(slope_only, latent_prior=ELSEWHERE).fit(X[:6], Y[:6])
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_allclose(again.predict(X), estimator.predict(X))
    assert again.set_prior(None).posterior_.mean["slope"] > estimator.posterior_.mean["slope"] + 1


def test_a_prior_that_does_not_fit_changes_nothing():
    estimator = BayesianRegressor(slope_only, latent_prior=ELSEWHERE).fit(X, Y)
    before = estimator.posterior_
    with pytest.raises(ValueError, match="to name latents of the program"):
        estimator.set_prior({"steepness": dist.Normal(0.0, 1.0)})
    assert estimator.latent_prior is ELSEWHERE and estimator.posterior_ is before


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
    "new class": (
        lambda: BayesianClassifier(method="laplace").fit(X, Y > 3).partial_fit(X, Y // 3),
        "classes among",
    ),
    "missing class": (
        lambda: BayesianClassifier().fit(X, np.where(Y > 3, None, "a")),
        "Expected a class for every row; got None for row",
    ),
    "classes of two kinds": (
        lambda: BayesianClassifier().fit(X, np.where(Y > 3, "a", np.full(40, 1, dtype=object))),
        "all text or all whole numbers; got int, str",
    ),
    "classes to come of two kinds": (
        lambda: BayesianClassifier().partial_fit(X, Y > 3, classes=np.array([1, "a"], object)),
        "all text or all whole numbers; got int, str",
    ),
    "huge X": (lambda: BayesianRegressor().fit(X * 1e200, Y), "at most 1e\\+150 in X"),
    "huge y": (lambda: BayesianRegressor().fit(X, Y * 1e200), "at most 1e\\+150 in y"),
    "huge X of classes": (
        lambda: BayesianClassifier().fit(X * 1e200, Y > 3),
        "at most 1e\\+150 in X",
    ),
    "not fitted": (lambda: BayesianRegressor().set_prior(None), "not fitted"),
    "quantile": (lambda: BayesianRegressor().fit(X, Y).predict_quantiles(X, 1.5), "levels"),
    "model": (lambda: BayesianRegressor(model=3, method="smc").fit(X, Y), "a Pyro program"),
}


@pytest.mark.filterwarnings("ignore:These draws are in doubt")
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
