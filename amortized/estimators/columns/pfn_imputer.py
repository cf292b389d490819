"""Imputation of missing cells by a pretrained PFN, given the other cells of the row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from amortized.estimators.tabular.pfn_classifier import PFNClassifier
from amortized.estimators.tabular.pfn_regressor import PFNRegressor
from amortized.tables.cells import objects_of
from amortized.tables.encoding import TableEncoder, validated_columns, with_tables


@dataclass(eq=False, repr=False, kw_only=True)
class PFNImputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Imputes missing cells of a table by predictions from the other columns.

    A missing number is replaced by the mean of its posterior predictive given the row's other
    cells, and a missing category by the most probable one. Networks accept missing cells, so one
    pass without iterations is enough. A column's model is fitted when a cell of it is missing for
    the first time.

    Parameters:
        n_estimators: number of views of the table, as for `PFNClassifier`.
        precision: as for `PFNClassifier`.
        device: device of the networks.
        random_state: as for `PFNClassifier`.

    Attributes:
        encoder_: the fitted encoder, which determines the types of columns.
        table_: the training table as objects, with None for missing cells, ``(n, n_features)``.
        n_features_in_: number of columns.
        feature_names_in_: their names, if they are strings.

    Example:
        >>> x = np.linspace(0, 1, 30)
        >>> X = np.stack((x, 2 * x), axis=1)
        >>> X[7, 1] = np.nan
        >>> filled = PFNImputer(n_estimators=1).fit_transform(X)
        >>> bool(abs(filled[7, 1] - 2 * x[7]) < 0.1)
        True
    """

    n_estimators: int | None = None
    precision: str = "auto"
    device: str = "cpu"
    random_state: int | np.random.RandomState | None = 0

    def __sklearn_tags__(self) -> Tags:
        return with_tables(super().__sklearn_tags__())

    def fit(self, X: ArrayLike, y: Any = None) -> "PFNImputer":
        """Stores the training table.

        Args:
            X: the table, ``(n, n_features)``.
            y: ignored.
        """
        columns = validated_columns(self, X, reset=True)
        self.encoder_ = TableEncoder()
        self.encoder_.fit_transform(columns)
        self.table_ = np.stack([objects_of(column) for column in columns], axis=1)
        self._estimators: dict[int, PFNClassifier | PFNRegressor] = {}
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Imputes the missing cells of a table, ``(m, n_features)``.

        Args:
            X: the training table or another one.

        Returns:
            Floats, or objects if a column is not numeric.

        Raises:
            ValueError: if a cell is missing in a column of times, or in a column without any value
                in the training table.
        """
        check_is_fitted(self)
        columns = validated_columns(self, X, reset=False)
        table = np.stack([objects_of(column) for column in columns], axis=1)
        missing, filled = _missing(table), table.copy()
        for j in np.flatnonzero(missing.any(0)).tolist():
            rows = missing[:, j]
            asked = _without(table[rows], j)
            filled[rows, j] = self._estimator(j).predict(asked)
        is_number = [names is None for names in self.encoder_.categories]
        numbers = all(is_number) and not any(self.encoder_.times)
        return filled.astype(np.float64) if numbers else filled

    def _estimator(self, j: int) -> PFNClassifier | PFNRegressor:
        """The estimator of column j from the others."""
        if j not in self._estimators:
            known = ~_missing(self.table_[:, j])
            if self.encoder_.times[j] or not known.any():
                found = "times" if self.encoder_.times[j] else "missing cells only"
                raise ValueError(
                    f"Expected numbers or categories in column {j}, which has a missing cell; got "
                    f"{found}. Leave it out, or impute it yourself."
                )
            is_number = self.encoder_.categories[j] is None
            estimator = (PFNRegressor if is_number else PFNClassifier)(**self.get_params())
            target = self.table_[known, j]
            target = target.astype(np.float64) if is_number else target
            self._estimators[j] = estimator.fit(_without(self.table_[known], j), target)
        return self._estimators[j]


def _without(table: NDArray[Any], j: int) -> NDArray[Any]:
    """The other columns, or a column of zeros if there are none."""
    others = np.delete(table, j, axis=1)
    return others if others.shape[1] else np.zeros((len(table), 1))


def _missing(cells: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each object is None."""
    return np.array([cell is None for cell in cells.flat], dtype=bool).reshape(cells.shape)
