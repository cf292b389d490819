"""Regression with a pretrained PFN: fitting encodes the data, predicting reads the encoding.

Two kinds of network serve: those over rows read standardised numbers, those over cells read tables.
"""

import warnings
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from amortized.distributions import BarDistribution
from amortized.estimators.fitted_file import FittedFile
from amortized.estimators.reporting import NetworkReport
from amortized.estimators.table_views import EncodedViews, draw_views
from amortized.estimators.tables import (
    MAX_COLUMNS,
    TableEncoder,
    strongest_columns,
    validated_columns,
)
from amortized.networks import PFN, TabularPFN
from amortized.pretrained import kind_of, load

# Queries are decoded in chunks of one size, the last one filled up: one shape, one order of
# summation, and so one answer for a row, however the query was split.
QUERY_CHUNK = 64
# Beyond this many standard deviations of the training data a query is as far as can be.
FAR = 1e4
# The square of a larger number, or of a smaller scale, is none.
LARGEST = 1e150
# Bars about a mean this many scales away would be less than its rounding apart.
RESOLUTION = 1e-12


class PFNRegressor(NetworkReport, FittedFile, RegressorMixin, BaseEstimator):
    """Bayesian regression in a single forward pass of a pretrained network.

    The answer is the posterior predictive of the prior that the network was trained on, given
    the data after features and target were standardised.

    ``model="tabular-regressor"`` reads tables as ``PFNClassifier`` does: DataFrames or arrays with
    numbers, datetimes, categories, strings and missing values; of more than a hundred columns the
    hundred that depend most on the target are taken, one at a time; of more rows than the network
    was trained for each of the ``n_estimators`` views takes its own.

    Parameters:
        model: name of a pretrained network, folder of a saved one, a ``PFN`` or a ``TabularPFN``.
        n_estimators: views of a table, with shuffled columns, whose answers are averaged; networks
            over rows make one.
        device: where the network runs, such as "cpu" or "cuda".
        random_state: picks the rows that are kept where there are more than the network can
            take.

    Attributes:
        network_: the network.
        X_train_: the kept rows, standardised, ``(n, n_features_in_)``.
        y_train_: their targets, standardised, ``(n,)``.
        n_features_in_: number of features.

    References:
        | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510

    Example:
        >>> import numpy as np
        >>> X = np.linspace(0, 1, 20)[:, None]
        >>> y = np.sin(4 * X[:, 0])
        >>> estimator = PFNRegressor(model="gp-1d").fit(X, y)
        >>> mean, std = estimator.predict([[0.5]], return_std=True)
        >>> bool(abs(mean - np.sin(2)) < 0.1)
        True
    """

    def __init__(
        self,
        model: str | PFN | TabularPFN = "gp",
        *,
        n_estimators: int = 4,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.model = model
        self.n_estimators = n_estimators
        self.device = device
        self.random_state = random_state

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        named = isinstance(self.model, str) and kind_of(self.model) == "tabular-pfn"
        reads_tables = named or isinstance(self.model, TabularPFN)
        tags.input_tags.allow_nan = reads_tables
        tags.input_tags.categorical = reads_tables
        tags.input_tags.string = reads_tables
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike | None) -> "PFNRegressor":
        """Encode the data.

        Args:
            X: inputs, ``(n, n_features)``, finite numbers.
            y: targets, ``(n,)``, finite numbers.

        Raises:
            ValueError: if the data are not finite numbers, or have more features than the network
                was trained for.

        Warns:
            UserWarning: if there are more rows than the network was trained for (a random part
                is kept), or the target does not vary.
        """
        self.network_: Any = self._network().to(self.device).eval()
        self._views_seed = 0
        if isinstance(self.network_, TabularPFN):
            return self._fit_table(X, y)
        x, target = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        target = target.astype(np.float64)
        _refuse_extremes(x, "X")
        config = self.network_.config
        if x.shape[1] > config.n_features:
            raise ValueError(
                f"Expected at most {config.n_features} features, which model={self.model!r} was "
                f"trained for; got {x.shape[1]}. Select features, or use another model."
            )
        rows = self._rows(len(x), config.max_context)
        x, target = x[rows], target[rows]
        self._x_mean, self._x_scale = _location_and_scale(x)
        self.X_train_: NDArray[np.floating] = (x - self._x_mean) / self._x_scale
        self._standardise(target)
        self._encode()
        return self

    def _network(self) -> Any:
        network = self.model if isinstance(self.model, PFN | TabularPFN) else load(self.model)
        if not isinstance(network, PFN | TabularPFN):
            raise ValueError(
                f"Expected a network for regression; model={self.model!r} is a "
                f"{type(network).__name__}."
            )
        return network

    def _fit_table(self, X: ArrayLike, y: ArrayLike | None) -> "PFNRegressor":
        if self.network_.config.target != "regression":
            raise ValueError(
                f"Expected a network for regression; model={self.model!r} is one for "
                "classification. Take 'tabular-regressor', or PFNClassifier."
            )
        if not isinstance(self.n_estimators, Integral) or self.n_estimators < 1:
            raise ValueError(
                f"Expected n_estimators to be an integer >= 1; got {self.n_estimators!r}."
            )
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        columns = validated_columns(self, X, reset=True)
        target = check_array(
            column_or_1d(y, warn=True), ensure_2d=False, dtype=np.float64, input_name="y"
        )
        check_consistent_length(columns[0], target)
        self.encoder_: TableEncoder = TableEncoder()
        self.X_train_ = self.encoder_.fit_transform(columns).astype(np.float32)
        self._standardise(target)
        # Drawn once, so that an estimator that was stored makes the same views again.
        self._views_seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._encode()
        return self

    def _standardise(self, y: NDArray[np.float64]) -> None:
        _refuse_extremes(y, "y")
        self._y_mean, self._y_scale = _location_and_scale(y)
        self._y_scale = max(self._y_scale, RESOLUTION * abs(self._y_mean))
        if np.ptp(y) == 0:
            warnings.warn(
                "The target does not vary; the scale of the answer is a guess.", stacklevel=3
            )
        self.y_train_ = (y - self._y_mean) / self._y_scale

    def _encode(self) -> None:
        """Encode the training data with the network, whichever kind it is."""
        if not isinstance(self.network_, TabularPFN):
            with torch.inference_mode():
                self._context: Any = self.network_.encode(
                    self._tensor(self.X_train_), self._tensor(self.y_train_)
                )
            return
        columns = strongest_columns(self.X_train_, self.y_train_[:, None], MAX_COLUMNS)
        strata = np.zeros(len(self.y_train_), dtype=np.intp)
        most, random_state = self.network_.config.max_context, np.random.RandomState
        views = draw_views(self.n_estimators, strata, columns, most, random_state(self._views_seed))
        self._context = EncodedViews(self.network_, self.X_train_, self.y_train_, views)

    def _rows(self, n: int, most: int) -> NDArray[np.intp]:
        if n <= most:
            return np.arange(n)
        warnings.warn(
            f"Expected at most {most} rows, which model={self.model!r} was trained for; got {n}. "
            f"A random {most} of them are used: choose them yourself, or use another model.",
            stacklevel=3,
        )
        return check_random_state(self.random_state).choice(n, most, replace=False)

    def _tensor(self, values: NDArray[np.floating]) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.device).unsqueeze(0)

    def predict_distribution(self, X: ArrayLike) -> BarDistribution:
        """The posterior predictive of each row's target, in the target's units.

        Args:
            X: inputs, ``(m, n_features)``.

        Returns:
            A distribution of batch shape ``(m,)`` in float64.
        """
        check_is_fitted(self)
        if isinstance(self.network_, TabularPFN):
            columns = validated_columns(self, X, reset=False)
            masses = self._context.mean_masses(self.encoder_.transform(columns))
            logits = torch.as_tensor(masses).clamp_min(torch.finfo(torch.float64).tiny).log()
        else:
            logits = self._row_logits(X)
        borders = self.network_.borders.double() * float(self._y_scale) + float(self._y_mean)
        return BarDistribution(logits.cpu(), borders.cpu(), validate_args=False)

    def _row_logits(self, X: ArrayLike) -> torch.Tensor:
        x = validate_data(self, X, dtype=np.float64, reset=False)
        with np.errstate(over="ignore"):
            x = np.clip((x - self._x_mean) / self._x_scale, -FAR, FAR)
        padded = np.pad(x, ((0, -len(x) % QUERY_CHUNK), (0, 0)))
        with torch.inference_mode():
            return torch.cat(
                [
                    self.network_.decode(self._context, self._tensor(chunk)).logits[0]
                    for chunk in np.split(padded, len(padded) // QUERY_CHUNK)
                ]
            )[: len(x)].double()

    def predict(
        self, X: ArrayLike, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior predictive, and its standard deviation if asked for.

        Args:
            X: inputs, ``(m, n_features)``.
            return_std: whether to return the standard deviation as well.
        """
        predictive = self.predict_distribution(X)
        mean = predictive.mean.numpy()
        return (mean, predictive.stddev.numpy()) if return_std else mean

    def predict_quantiles(
        self, X: ArrayLike, q: ArrayLike = (0.1, 0.5, 0.9)
    ) -> NDArray[np.float64]:
        """Quantiles of the posterior predictive, ``(m, len(q))``.

        Args:
            X: inputs, ``(m, n_features)``.
            q: levels, each strictly between 0 and 1.

        Raises:
            ValueError: if a level is out of range.
        """
        levels = torch.as_tensor(np.atleast_1d(np.asarray(q, dtype=np.float64)))
        if levels.ndim != 1 or not bool(((levels > 0) & (levels < 1)).all()):
            raise ValueError(f"Expected a list of levels strictly between 0 and 1; got {q!r}.")
        return self.predict_distribution(X).icdf(levels[:, None]).T.numpy()

    def sample_y(
        self,
        X: ArrayLike,
        n_samples: int = 1,
        random_state: int | np.random.RandomState | None = 0,
    ) -> NDArray[np.float64]:
        """Independent draws of each row's target, ``(m, n_samples)``.

        Args:
            X: inputs, ``(m, n_features)``.
            n_samples: draws for each row.
            random_state: as in scikit-learn.
        """
        if not isinstance(n_samples, Integral) or n_samples < 1:
            raise ValueError(f"Expected n_samples to be an integer >= 1; got {n_samples!r}.")
        predictive = self.predict_distribution(X)
        shape = (int(n_samples), *predictive.batch_shape)
        levels = check_random_state(random_state).uniform(size=shape)
        return predictive.icdf(torch.as_tensor(levels)).T.numpy()

    def __getstate__(self) -> dict[str, Any]:
        """Without the encoded context, which is large and quickly made again."""
        state = super().__getstate__().copy()
        state.pop("_context", None)
        if not isinstance(self.model, PFN | TabularPFN):
            state.pop("network_", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "X_train_"):
            if not hasattr(self, "network_"):
                self.network_ = self._network().to(self.device).eval()
            self._encode()


def _refuse_extremes(values: NDArray[np.float64], name: str) -> None:
    largest = np.abs(values).max()
    if largest > LARGEST:
        raise ValueError(
            f"Expected numbers of at most {LARGEST} in {name}; got {largest}. Change its units."
        )


def _location_and_scale(values: NDArray[np.float64]) -> tuple[Any, Any]:
    """Mean and standard deviation over rows; where nothing varies, 1 or more than rounding."""
    mean = values.mean(axis=0)
    scale = values.std(axis=0)
    # What rounding leaves of a constant is no variation.
    rounding = 10 * np.finfo(np.float64).eps * np.abs(mean)
    varies = scale > np.maximum(rounding, 1 / LARGEST)
    return mean, np.where(varies, scale, np.maximum(rounding, 1.0))
