r"""Conformal calibration: prediction intervals with guaranteed coverage for any regressor.

Some rows are held out from the estimator. Its intervals are widened (or narrowed) by the
:math:`\lceil (1 + n) \alpha \rceil`-th smallest of :math:`\max(l_i - y_i, y_i - u_i)` over the n
held-out rows. If rows are exchangeable, a new one then lies inside its interval with probability at
least :math:`\alpha`, whatever the estimator and the true distribution. If narrowing makes an
interval empty, it is replaced by its midpoint, which cannot reduce the coverage.

References:
    Romano, Patterson and Candes, Conformalized quantile regression (2019), arXiv 1905.03222.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, MetaEstimatorMixin, RegressorMixin, clone
from sklearn.model_selection import train_test_split
from sklearn.utils import column_or_1d, indexable
from sklearn.utils.validation import check_is_fitted

from amortized.arrays import check_array, refuse_nan, without_mask
from amortized.validation import number_between


@dataclass(eq=False, repr=False)
class ConformalRegressor(MetaEstimatorMixin, RegressorMixin, BaseEstimator):
    """Adds calibrated prediction intervals to a regressor.

    Args:
        estimator: a regressor; its own intervals are corrected if it has ``predict_quantiles``,
            otherwise intervals of constant width are placed around ``predict``.
        level: nominal coverage of new rows.
        calibration_share: share of the rows held out from the estimator.
        random_state: seed of the split.

    Attributes:
        estimator_: the estimator fitted to the other rows.
        level_: nominal level of the corrected intervals.
        correction_: amount added at both ends, in units of y; infinite if too few rows were held
            out for the level.

    Example:
        >>> from sklearn.linear_model import LinearRegression
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(5000, 1))
        >>> y = X[:, 0] + rng.normal(size=5000)
        >>> intervals = ConformalRegressor(LinearRegression(), random_state=0).fit(X, y)
        >>> intervals.predict_interval([[0.0]]).round().tolist()
        [[-2.0, 2.0]]
    """

    estimator: Any
    _: KW_ONLY
    level: float = 0.9
    calibration_share: float = 0.3
    random_state: int | np.random.RandomState | None = None

    def fit(self, X: ArrayLike, y: ArrayLike) -> "ConformalRegressor":
        """Fits the estimator to one part of the rows and calibrates its intervals on the other."""
        number_between("level", self.level, 0, 1)
        number_between("calibration_share", self.calibration_share, 0, 1)
        y = check_array(without_mask(y), ensure_2d=False, dtype=np.float64, input_name="y")
        X, y = indexable(without_mask(X), column_or_1d(y))
        n = len(np.asarray(y))
        if n < 2:
            raise ValueError(f"Expected at least 2 rows, one of them to calibrate; got {n}.")
        fitted, kept, y_fitted, y_kept = train_test_split(
            X, y, test_size=self.calibration_share, random_state=self.random_state
        )
        self.estimator_, self.level_ = clone(self.estimator).fit(fitted, y_fitted), self.level
        low, high = self._ends(kept).T
        misses = np.sort(np.maximum(low - y_kept, y_kept - high))
        rank = math.ceil((1 + len(misses)) * self.level)
        self.correction_ = float(misses[rank - 1]) if rank <= len(misses) else np.inf
        return self

    def _ends(self, X: ArrayLike) -> NDArray[np.float64]:
        """The estimator's own interval of each row, with the ends in ascending order."""
        if hasattr(self.estimator_, "predict_quantiles"):
            levels = [(1 - self.level_) / 2, (1 + self.level_) / 2]
            ends = np.asarray(self.estimator_.predict_quantiles(X, levels))
        else:
            mean = np.asarray(self.estimator_.predict(X))
            ends = np.stack([mean, mean], -1)
        refuse_nan("the estimator's predictions", ends)
        return np.sort(ends, axis=-1)

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """The predictions of the estimator."""
        check_is_fitted(self)
        return np.asarray(self.estimator_.predict(X))

    def predict_interval(self, X: ArrayLike) -> NDArray[np.float64]:
        """Lower and upper end for each row, ``(m, 2)``; the lower end never exceeds the upper."""
        check_is_fitted(self)
        ends = self._ends(X)
        middle = ends[:, 0] + (ends[:, 1] - ends[:, 0]) / 2
        low = np.minimum(ends[:, 0] - self.correction_, middle)
        return np.stack([low, np.maximum(ends[:, 1] + self.correction_, middle)], -1)
