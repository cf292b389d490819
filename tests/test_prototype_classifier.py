"""Prototypes: Student's t in closed form, the same in parts, and classes one after another."""

import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized.estimators import PrototypeClassifier

RNG = np.random.default_rng(0)
Y = np.array([0, 1, 2, 1, 0, 0, 2, 1])
X = RNG.normal(size=(8, 2)) + 2.0 * np.eye(3, 2)[Y]
NEW = RNG.normal(size=(5, 2))


@parametrize_with_checks([PrototypeClassifier()])
def test_scikit_learn_checks(estimator, check, no_shape_checks):
    check(estimator)


def by_evidence(x, scale=1.0, kappa=1e-4):
    """Classes of a new row by ratios of evidences, each an integral over all unknowns."""

    def log_evidence(rows, labels):
        n, dim = rows.shape
        matrix, total = scale**2 * np.eye(dim), 0.0
        for c in range(3):
            own = rows[labels == c]
            mean = own.sum(0) / (kappa + len(own))
            matrix = matrix + own.T @ own - (kappa + len(own)) * np.outer(mean, mean)
            total += dim / 2 * np.log(kappa / (kappa + len(own)))
        return total - (dim + 1 + n) / 2 * np.linalg.slogdet(matrix)[1]

    logits = [
        log_evidence(np.vstack([X, x]), np.append(Y, c)) + np.log1p((Y == c).sum())
        for c in range(3)
    ]
    return np.exp(logits - np.logaddexp.reduce(logits))


def test_probabilities_are_ratios_of_evidences():
    found = PrototypeClassifier().fit(X, Y).predict_proba(NEW)
    np.testing.assert_allclose(found, [by_evidence(x) for x in NEW], atol=1e-12)


def test_one_class_known_from_one_row_is_student_t():
    """Two classes with one row each: the quotient of two multivariate t densities."""
    found = PrototypeClassifier(scale=2.0).fit([[0.0, 1.0], [1.0, -1.0]], [0, 1])
    rows = np.array([[0.0, 1.0], [1.0, -1.0]])
    means = rows / 1.0001
    matrix = 4 * np.eye(2) + rows.T @ rows - 1.0001 * means.T @ means
    laws = [stats.multivariate_t(m, matrix * (2.0001 / 1.0001) / 4, df=4) for m in means]
    first, second = (law.pdf(NEW) for law in laws)
    np.testing.assert_allclose(found.predict_proba(NEW)[:, 0], first / (first + second))


def test_parts_in_any_order_are_one_fit():
    whole = PrototypeClassifier().fit(X, Y)
    order = np.argsort(Y, kind="stable")[::-1]
    parts = PrototypeClassifier()
    for part in np.array_split(order, 4):
        parts.partial_fit(X[part], Y[part])
    np.testing.assert_array_equal(parts.classes_, whole.classes_)
    np.testing.assert_allclose(parts.predict_proba(NEW), whole.predict_proba(NEW), atol=1e-12)
    named = PrototypeClassifier().partial_fit(X, Y, classes=[0, 1, 2, 7])
    assert named.predict_proba(NEW).shape == (5, 4) and named.n_rows_[-1] == 0


def test_ten_digits_in_five_parts_are_remembered():
    images, digits = load_digits(return_X_y=True)
    features = PCA(30, whiten=True, random_state=0).fit_transform(images)
    train = np.arange(len(digits)) % 3 > 0
    learner = PrototypeClassifier()
    for first in range(0, 10, 2):
        part = train & ((digits == first) | (digits == first + 1))
        learner.partial_fit(features[part], digits[part])
    assert learner.score(features[~train], digits[~train]) > 0.9
    joint = PrototypeClassifier().fit(features[train], digits[train])
    np.testing.assert_array_equal(
        joint.predict(features[~train]), learner.predict(features[~train])
    )


def test_a_scale_is_positive():
    with pytest.raises(ValueError, match="Expected scale > 0; got 0"):
        PrototypeClassifier(scale=0.0).fit(X, Y)


def test_columns_far_from_zero_are_told_to_be_standardised():
    """Time stamps a second apart within a class, an hour between classes."""
    X = 1.6e9 + np.array([0.0, 1.0, 2.0, 3600.0, 3601.0, 3602.0])[:, None]
    y = [0, 0, 0, 1, 1, 1]
    with pytest.warns(UserWarning, match="Column 0 lies far from zero.*Standardise"):
        PrototypeClassifier().fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted = PrototypeClassifier().fit(X - X.mean(), y)
    assert fitted.predict(X - X.mean()).tolist() == y
