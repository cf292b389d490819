"""Debiased estimates: closed forms where all labels are gold, coverage, and what is gained."""

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from amortized.debiased import debiased_regression

N = 400


def rows(seed, n=N):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = 0.3 + x @ [1.0, -0.5] + rng.normal(size=n) * (1 + 0.3 * np.abs(x[:, 0]))
    return rng, x, y


def test_with_all_labels_gold_linear_is_least_squares_with_its_robust_errors():
    _, x, y = rows(0)
    found = debiased_regression(x, 0 * y, y, np.ones(N), 1.0, nuisance=LinearRegression())
    design = np.column_stack((np.ones(N), x))
    beta = np.linalg.lstsq(design, y, rcond=None)[0]
    inverse = np.linalg.inv(design.T @ design)
    residual = (y - design @ beta)[:, None]
    covariance = inverse @ ((design * residual).T @ (design * residual)) @ inverse
    for answer in (found.debiased, found.classical):
        np.testing.assert_allclose(answer.estimate, beta, atol=1e-10)
        np.testing.assert_allclose(
            answer.error, np.sqrt(np.diag(covariance) * N / (N - 3)), rtol=1e-8
        )
    reach = stats.t.ppf(0.975, N - 3) * found.debiased.error
    np.testing.assert_allclose(found.debiased.high - found.debiased.estimate, reach)


def test_with_all_labels_gold_logistic_is_maximum_likelihood():
    rng, x, y = rows(1)
    y = (y > 0).astype(float)
    nuisance = LogisticRegression()
    found = debiased_regression(x, y, y, np.ones(N), 1.0, kind="logistic", nuisance=nuisance)
    fit = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x, y)
    expected = [*fit.intercept_, *fit.coef_[0]]
    np.testing.assert_allclose(found.debiased.estimate, expected, atol=1e-4)
    np.testing.assert_allclose(found.naive.estimate, expected, atol=1e-4)


def test_with_all_labels_gold_mean_and_quantile_are_those_of_the_sample():
    _, _, y = rows(2)
    given = (None, 0 * y, y, np.ones(N), 1.0)
    mean = debiased_regression(*given, kind="mean", nuisance=LinearRegression())
    assert mean.debiased.estimate[0] == pytest.approx(y.mean())
    assert mean.debiased.error[0] == pytest.approx(y.std(ddof=1) / np.sqrt(N))
    found = debiased_regression(*given, kind="quantile", q=0.3, nuisance=LinearRegression())
    assert found.debiased.estimate[0] == np.quantile(y, 0.3, method="inverted_cdf")
    assert found.names == ("quantile 0.3",)


@pytest.mark.parametrize(("unit", "origin"), [(1e8, 0.0), (1e-8, 0.0), (1.0, 1.7e9)])
@pytest.mark.parametrize("kind", ["mean", "linear", "logistic"])
def test_estimates_follow_the_units_of_labels_and_covariates(kind, unit, origin):
    # A mean above 5 was answered by 5.
    rng, x, y = rows(3)
    given = rng.uniform(size=N) < 0.4, 0.4
    learner = LogisticRegression() if kind == "logistic" else LinearRegression()
    options = {"kind": kind, "nuisance": make_pipeline(StandardScaler(), learner)}
    level = 0.0 if kind == "logistic" else origin
    size = 1.0 if kind == "logistic" else unit
    if kind == "logistic":
        y = (y > 0).astype(float)
    wrong = 1 - y if kind == "logistic" else y + 0.5
    s = np.where(rng.uniform(size=N) < 0.2, wrong, y)
    own = debiased_regression(x, s, y, *given, **options)
    other = debiased_regression(
        unit * x + origin, size * s + level, size * y + level, *given, **options
    )
    for name in ("debiased", "classical", "naive"):
        a, b = getattr(own, name), getattr(other, name)
        shift = level if kind == "mean" else 0.0
        at = slice(0 if kind == "mean" else 1, None)  # the intercept is at the origin of x
        factor = unit if kind == "mean" else size / unit
        tolerance = 1e-3 * a.error[at]
        assert (np.abs((b.estimate[at] - shift) / factor - a.estimate[at]) < tolerance).all()
        np.testing.assert_allclose(b.error[at] / factor, a.error[at], rtol=1e-3)


@pytest.mark.parametrize("kind", ["linear", "logistic"])
def test_collinear_columns_have_no_estimate(kind):
    _, x, y = rows(4)
    y = (y > 0).astype(float)
    x = np.column_stack((x, x[:, 0] - 2 * x[:, 1]))
    with pytest.raises(ValueError, match="collinear"):
        debiased_regression(x, y, y, np.ones(N), 1.0, kind=kind, nuisance=LogisticRegression())


@pytest.mark.parametrize("kind", ["mean", "linear", "quantile"])
@pytest.mark.parametrize("good", [True, False])
def test_intervals_cover_and_good_surrogates_narrow_them(kind, good):
    inside, errors, n_runs = [], [], 120
    for seed in range(n_runs):
        rng, x, y = rows(seed, 1500)
        # Rows are sampled with known probabilities that depend on a column.
        p = np.where(x[:, 0] > 0, 0.25, 0.15)
        sampled = rng.uniform(size=len(y)) < p
        s = y + 0.3 * rng.normal(size=len(y)) + 0.5 * x[:, 0] if good else rng.normal(size=len(y))
        gold = np.where(sampled, y, np.nan)
        found = debiased_regression(x, s, gold, sampled, p, kind=kind, nuisance=LinearRegression())
        at, value = (1, 1.0) if kind == "linear" else (0, 0.3)
        inside.append(found.debiased.low[at] <= value <= found.debiased.high[at])
        errors.append((found.debiased.error[at], found.classical.error[at]))
    assert np.mean(inside) > 0.95 - 4 * np.sqrt(0.05 * 0.95 / n_runs)
    debiased, classical = np.mean(errors, 0)
    assert debiased < (0.7 if good else 1.1) * classical


def test_the_naive_answer_is_biased_and_the_verdict_says_so():
    rng, x, y = rows(3, 2000)
    sampled = rng.uniform(size=2000) < 0.2
    found = debiased_regression(
        x, y + 0.5 * x[:, 0], y, sampled, 0.2, nuisance=LinearRegression(), random_state=1
    )
    line = found.verdict()[1]
    assert line.startswith("x0: the naive estimate is 0.")
    assert "above the debiased one, outside its interval" in line
    assert found.effective_gold[1] > 1.5 * found.n_gold
    assert "debiased" in repr(found)


def test_labels_of_rows_that_are_not_sampled_are_not_read():
    rng, x, y = rows(4)
    sampled = rng.uniform(size=N) < 0.5
    one, other = (
        debiased_regression(
            x, y, np.where(sampled, y, hidden), sampled, 0.5, nuisance=LinearRegression()
        )
        for hidden in (np.nan, 1e9)
    )
    np.testing.assert_array_equal(one.debiased.estimate, other.debiased.estimate)


def test_pretrained_networks_predict_where_no_nuisance_is_given():
    rng, x, y = rows(5, 120)
    sampled = rng.uniform(size=120) < 0.5
    found = debiased_regression(x, y + 0.1, y, sampled, 0.5, kind="mean", n_folds=2)
    assert found.debiased.error[0] < found.classical.error[0]


X, S = np.zeros((20, 1)), np.zeros(20)
ONES, LINE = np.ones(20), LinearRegression()
WRONG = {
    "kind": (lambda: debiased_regression(X, S, S, ONES, 0.5, kind="probit"), "kind among"),
    "q": (lambda: debiased_regression(X, S, S, ONES, 0.5, kind="quantile", q=50), "q in"),
    "folds": (lambda: debiased_regression(X, S, S, ONES, 0.5, n_folds=1), "n_folds"),
    "no X": (lambda: debiased_regression(None, S, S, ONES, 0.5), "X for kind"),
    "shapes": (lambda: debiased_regression(X[:3], S, S, ONES, 0.5), "shape"),
    "NaN": (lambda: debiased_regression(X, S, S + np.nan, ONES, 0.5), "finite"),
    "mask": (
        lambda: debiased_regression(X, np.ma.array(S, mask=ONES), S, ONES, 0.5),
        "surrogate to be finite",
    ),
    "complex": (lambda: debiased_regression(X + 1j, S, S, ONES, 0.5), "X to be an array of"),
    "sampled": (lambda: debiased_regression(X, S, S, 0.5 * ONES, 0.5), "sampled to be True"),
    "probability": (lambda: debiased_regression(X, S, S, ONES, 0.0), "probabilities above 0"),
    "labels": (lambda: debiased_regression(X, S, S + 2, ONES, 0.5, kind="logistic"), "0 and 1"),
    "few": (lambda: debiased_regression(X, S, S, X[:, 0], 0.5, nuisance=LINE), "five gold"),
    "collinear": (lambda: debiased_regression(X, S, S, ONES, 1.0, nuisance=LINE), "one solution"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
