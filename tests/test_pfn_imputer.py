"""Missing cells filled in: all of them, nothing else, and better than by the usual imputers."""

import numpy as np
import pandas as pd
import pytest
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized.estimators import PFNImputer


def curved(n=120):
    """Three columns on a curve, a tenth of the cells missing."""
    rng = np.random.default_rng(0)
    u = rng.uniform(-2, 2, size=n)
    whole = np.stack((u, u**2, np.sin(2 * u)), axis=1) + 0.05 * rng.normal(size=(n, 3))
    return whole, np.where(rng.random((n, 3)) < 0.1, np.nan, whole)


def test_what_is_missing_is_predicted_from_the_rest_of_the_row():
    whole, X = curved()
    missing = np.isnan(X)
    error = {}
    for imputer in (PFNImputer(n_estimators=1), IterativeImputer(random_state=0), SimpleImputer()):
        filled = imputer.fit_transform(X)
        np.testing.assert_array_equal(filled[~missing], X[~missing])
        error[type(imputer).__name__] = np.square(filled - whole)[missing].mean()
    assert error["PFNImputer"] < 0.6 * min(error["IterativeImputer"], error["SimpleImputer"])


def test_categories_and_other_rows():
    rng = np.random.default_rng(0)
    size = rng.normal(size=60)
    table = pd.DataFrame({"size": size, "kind": np.where(size > 0, "large", "small")})
    imputer = PFNImputer(n_estimators=1).set_output(transform="pandas").fit(table)
    asked = pd.DataFrame({"size": [2.0, -2.0, np.nan], "kind": [None, pd.NA, "small"]})
    filled = imputer.transform(asked)
    assert filled["kind"].tolist() == ["large", "small", "small"]
    assert list(filled.columns) == ["size", "kind"] and filled["size"][2] < 0
    assert asked["kind"].isna().sum() == 2  # what is given stays as it is


CANNOT = {
    "times": (pd.DataFrame({"t": pd.to_datetime(["2020-01-01", None]), "x": [1, 2]}), "got times"),
    "no value": (np.array([[np.nan, 1.0], [np.nan, 2.0]]), "got missing cells only"),
}


@pytest.mark.parametrize(("table", "message"), CANNOT.values(), ids=CANNOT)
def test_columns_that_cannot_be_filled_in(table, message, no_shape_checks):
    with pytest.raises(ValueError, match=message):
        PFNImputer().fit_transform(table)


@parametrize_with_checks([PFNImputer(n_estimators=1)])
def test_scikit_learn_checks_of_the_imputer(estimator, check, no_shape_checks):
    check(estimator)
