r"""Attribution of predictions to columns: Shapley values with other columns marked as missing.

The value v(S) of a set of columns S is the prediction for a row whose other cells are missing,
which a network over tables handles without retraining. The Shapley value of column j among p,

.. math:: \phi_j = \sum_{S \not\ni j} \frac{|S|! (p - |S| - 1)!}{p!} (v(S \cup j) - v(S)),

is the average contribution of j over all orders in which the columns become known. The values add
up to the prediction minus that for a row without any known cell.
"""

from math import factorial
from numbers import Integral
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from amortized.estimators.tabular.pfn_classifier import PFNClassifier
from amortized.estimators.tabular.pfn_regressor import PFNRegressor
from amortized.networks.tabular_pfn import TabularPFN

Numbers = NDArray[np.float64]
_ROWS_AT_ONCE = 4096


class ShapleyValues(NamedTuple):
    """Contributions to predictions; ``values.sum(1) + base`` are the predictions.

    ``shap.Explanation(values, base_values, X)`` converts them for the plots of ``shap``.

    Attributes:
        values: contribution of each column, ``(m, n_features)``, or ``(m, n_features, classes)``.
        base: the prediction for a row without any known cell, a number or ``(classes,)``.
    """

    values: Numbers
    base: Numbers


def shapley_values(
    estimator: PFNClassifier | PFNRegressor,
    X: ArrayLike,
    *,
    n_permutations: int = 128,
    random_state: int | np.random.RandomState | None = 0,
) -> ShapleyValues:
    """Attributes predicted means, or probabilities, of rows to the columns.

    The values are exact if enumerating all sets of columns costs no more than the permutations, by
    default for up to 9 columns. Otherwise they are averages over random orders and their reverses.

    Args:
        estimator: fitted estimator with a network over tables.
        X: the rows, ``(m, n_features)``.
        n_permutations: number of orders of the columns, which must be even; each takes one
            prediction per column for every row.
        random_state: random state of the orders.

    References:
        | A Value for n-Person Games (Shapley, 1953)
        | Sampling Permutations for Shapley Value Estimation (Mitchell et al., 2022), JMLR 23:
        | orders with their reverses.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(30, 2))
        >>> estimator = PFNRegressor(n_estimators=1).fit(X, X[:, 0])
        >>> values, base = shapley_values(estimator, X[:3])
        >>> bool(np.abs(values.sum(1) + base - estimator.predict(X[:3])).max() < 1e-5)
        True
    """
    check_is_fitted(estimator)
    if not isinstance(estimator.network_, TabularPFN):
        raise ValueError(
            "Expected a network over tables, which reads missing cells; got a "
            f"{type(estimator.network_).__name__}. Take network='tabular-regressor'."
        )
    if isinstance(estimator, PFNRegressor) and estimator.y_train_.ndim == 2:
        raise ValueError("Expected an estimator of one output; got several. Fit one to each.")
    if not isinstance(n_permutations, Integral) or n_permutations < 2 or n_permutations % 2:
        raise ValueError(
            f"Expected n_permutations to be an even integer >= 2; got {n_permutations!r}."
        )
    numbers, kept = estimator._numbers(X), estimator.encoder_.kept
    sets, weights = _sets(len(kept), int(n_permutations), check_random_state(random_state))
    values = []
    for row in numbers:
        answers = _answers(estimator, np.where(sets, row, np.nan))
        base = answers[0]
        values.append(np.tensordot(weights, answers, 1))
    found = np.zeros((len(numbers), estimator.n_features_in_, *base.shape))
    found[:, kept] = np.stack(values)[:, : len(kept)]
    return ShapleyValues(found, base)


def _answers(estimator: PFNClassifier | PFNRegressor, numbers: Numbers) -> Numbers:
    """Predicted means, or probabilities, of encoded rows."""
    parts = np.split(numbers, range(_ROWS_AT_ONCE, len(numbers), _ROWS_AT_ONCE))
    return np.concatenate([estimator._point(part) for part in parts])


def _sets(
    n_columns: int, n_permutations: int, random: np.random.RandomState
) -> tuple[NDArray[np.bool_], Numbers]:
    """Sets of columns, beginning with the empty one, and their weights in each Shapley value."""
    if n_columns == 0:  # constant columns only, which are encoded as one column
        return np.zeros((1, 1), dtype=bool), np.zeros((1, 1))
    if 2**n_columns <= n_permutations * n_columns:
        return _all_sets(n_columns)
    number = {bytes(n_columns): 0}
    added = []
    for order in [random.permutation(n_columns) for _ in range(n_permutations // 2)]:
        for columns in (order, order[::-1]):
            one, before = np.zeros(n_columns, dtype=bool), 0
            for column in columns:
                one[column] = True
                after = number.setdefault(one.tobytes(), len(number))
                added.append((column, before, after))
                before = after
    weights = np.zeros((n_columns, len(number)))
    column, before, after = np.array(added).T
    np.add.at(weights, (column, after), 1 / n_permutations)
    np.add.at(weights, (column, before), -1 / n_permutations)
    sets = np.frombuffer(b"".join(number), dtype=bool).reshape(-1, n_columns)
    return sets, weights


def _all_sets(n_columns: int) -> tuple[NDArray[np.bool_], Numbers]:
    codes = np.arange(2**n_columns)
    sets = (codes[:, None] >> np.arange(n_columns) & 1).astype(bool)
    of_size = [
        factorial(k) * factorial(n_columns - k - 1) / factorial(n_columns) for k in range(n_columns)
    ]
    weights = np.zeros((n_columns, len(sets)))
    for column in range(n_columns):
        without = np.flatnonzero(~sets[:, column])
        share = np.array(of_size)[sets[without].sum(1)]
        weights[column, without] = -share
        weights[column, without | 1 << column] = share
    return sets, weights
