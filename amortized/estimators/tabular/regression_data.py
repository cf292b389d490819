"""Training data of a regression: validated, stored and converted to the network's units."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted

from amortized.arrays import check_array, number_of_outputs, validate_data, without_mask
from amortized.estimators.reporting import observed_rows
from amortized.estimators.tabular.encoded_rows import outside
from amortized.estimators.tabular.seen_rows import HoldsRows, SeenRows
from amortized.networks import TabularPFN
from amortized.tables.encoding import (
    Numbers,
    TableEncoder,
    in_canonical_order,
    location_and_scale,
    refuse_extremes,
    validated_columns,
)
from amortized.tables.sample_weights import counted, repeated
from amortized.tables.screening import strongest_columns
from amortized.tables.views import draw_views, warn_of_unread_rows

RESOLUTION = 1e-12  # smallest scale relative to the mean at which bars are distinct numbers


class RegressionData(HoldsRows):
    """Validates the rows of a regression, and determines the units of the network's inputs."""

    network: Any
    network_: Any
    X_train_: NDArray[Any]
    y_train_: NDArray[np.float64]

    def _read_rows(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: Any, further: bool
    ) -> SeenRows:
        checks: Any = {"dtype": np.float64, "y_numeric": True, "multi_output": True}
        x, target = validate_data(self, X, y, reset=not further, **checks)
        target = self._outputs_of(target, further)
        refuse_extremes(x, "X")
        refuse_extremes(target, "y")
        columns, target, weight = counted(list(x.T), target.astype(np.float64), sample_weight)
        x = np.stack(columns, axis=1)
        if not further:
            return SeenRows(x, target, weight)
        before = self._held()
        return before.added(np.concatenate((before.x, x)), target, weight)

    def _outputs_of(self, y: Any, further: bool) -> Any:
        """One output as ``(rows,)``, several as they are; as many as so far."""
        n_outputs = number_of_outputs(y)
        if further and n_outputs != self._n_outputs:
            raise ValueError(
                f"Expected y with {self._n_outputs} outputs, as so far; got {n_outputs}."
            )
        return y if n_outputs > 1 else column_or_1d(y, warn=True)

    def _learn_outputs(self) -> None:
        """Put inputs and several outputs into units, in the order in which they came."""
        x, y, _ = self._held()
        table = isinstance(self.network_, TabularPFN)
        self.X_train_ = self.encoder_.fit_numbers(x).astype(np.float32) if table else x
        self._y_mean, self._y_scale = location_and_scale(y)
        self.y_train_ = (y - self._y_mean) / self._y_scale

    def _plain(self, x: Numbers) -> NDArray[Any]:
        """Inputs as an estimator of one output reads them."""
        return self.encoder_.plain(x) if isinstance(self.network_, TabularPFN) else x

    def _inputs(self, X: ArrayLike) -> NDArray[Any]:
        """Queries as the estimators of several outputs read them."""
        check_is_fitted(self)
        if isinstance(self.network_, TabularPFN):
            columns = validated_columns(self, X, reset=False)
            return self._plain(self.encoder_.numbers(columns))
        inputs: NDArray[Any] = validate_data(self, X, dtype=np.float64, reset=False)
        return inputs

    def _learn_rows(self, further: bool) -> None:
        rows, target, weight = repeated(*self._held())
        number = np.arange(len(target), dtype=np.float64)
        order = np.asarray(in_canonical_order(rows, target, number)[2])
        x, target, weight = in_canonical_order(rows, target, weight)
        most, n_rows = self.network_.config.n_features, self.network_.config.max_context
        for name, found, limit in (("features", x.shape[1], most), ("rows", len(x), n_rows)):
            if found > limit and not further:
                warnings.warn(
                    f"Expected at most {limit} {name}, which network={self.network!r} was trained "
                    f"for; got {found}. {'A random' if name == 'rows' else 'The strongest'} "
                    f"{limit} of them are used: choose them yourself, or use another network.",
                    stacklevel=4,
                )
        self._columns = strongest_columns(x, target[:, None], most)
        random_state = np.random.RandomState(self._views_seed)
        strata = np.zeros(len(x), dtype=np.intp)
        view = draw_views(1, strata, self._columns, n_rows, random_state, weight)[0]
        x, target = x[np.ix_(view.rows, self._columns)], target[view.rows]
        self._observed = observed_rows(x, target, order, view.rows, self._weighted)
        self._x_mean, self._x_scale = np.zeros(x.shape[1]), np.ones(x.shape[1])
        if self._is_standardised:
            self._x_mean, self._x_scale = location_and_scale(x)
            self._standardise(target)
        else:
            self.y_train_, self._y_mean, self._y_scale = target, 0.0, 1.0
        for message in outside(self.network_, x, target, self.network):
            warnings.warn(message, stacklevel=4)
        self.X_train_ = (x - self._x_mean) / self._x_scale

    def _read_table(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: Any, further: bool
    ) -> tuple[TableEncoder, SeenRows]:
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        columns = validated_columns(self, X, reset=not further)
        y = self._outputs_of(without_mask(y), further)
        target = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        check_consistent_length(columns[0], target)
        refuse_extremes(target, "y")
        columns, target, weight = counted(columns, target, sample_weight)
        if not further:
            warn_of_unread_rows(self.network_, len(target), stacklevel=5)
        return self._read_columns(columns, target, weight, further=further)

    def _learn_table(self) -> None:
        x, target, weight = repeated(*self._held())
        numbers = self.encoder_.fit_numbers(x).astype(np.float32)
        self.X_train_, target, self._row_weights = in_canonical_order(numbers, target, weight)
        self._standardise(target)

    def _standardise(self, y: NDArray[np.float64]) -> None:
        self._y_mean, self._y_scale = location_and_scale(y)
        self._y_scale = max(self._y_scale, RESOLUTION * abs(self._y_mean))
        self.y_train_ = (y - self._y_mean) / self._y_scale

    @property
    def _is_standardised(self) -> bool:
        return bool(self.network_.config.units == "standardised")
