"""Regression with a pretrained PFN."""

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from amortized.arrays import check_array, validate_data
from amortized.distributions.bar_distribution import BarDistribution
from amortized.estimators.all_or_nothing import all_or_nothing
from amortized.estimators.fitted_file import FittedFile
from amortized.estimators.reporting import RegressorReport, warn_of_doubts, warn_of_misfit
from amortized.estimators.tabular.encoded_rows import EncodedRows, outside
from amortized.estimators.tabular.joint_outputs import JointOutputs
from amortized.estimators.tabular.regression_data import RegressionData
from amortized.estimators.tabular.seen_rows import check_forget
from amortized.networks import PFN, TabularPFN
from amortized.pretrained import kind_of, load
from amortized.tables.encoding import MAX_COLUMNS, TableEncoder, validated_columns, with_tables
from amortized.tables.screening import strongest_columns
from amortized.tables.target_transforms import check_transforms
from amortized.tables.target_views import TargetViews
from amortized.tables.views import EncodedViews, check_precision, number_of_views, ready, rows_read
from amortized.validation import quantile_levels, whole_number

# Rows predicted together, which bounds the memory of about 2,000 bars per row.
ROWS_AT_ONCE = 4096


@dataclass(eq=False, repr=False)
class PFNRegressor(RegressionData, RegressorReport, FittedFile, RegressorMixin, BaseEstimator):
    """Bayesian regression in a single forward pass of a pretrained network.

    The default network reads any table, like `PFNClassifier`: DataFrames, arrays or sparse matrices
    with numbers, datetimes, categories, strings and missing values. Of more columns than the
    network supports (a hundred), those associated with the target beyond chance are used. Of more
    rows than it reads (2,000), each of the ``n_estimators`` views uses its own random rows, with a
    warning. Half of the views use an alternative representation of correlated columns and
    categories, as in `PFNClassifier`. The predictives of the views are averaged (`target_views`).

    Other networks can be given by name. Networks over rows are for up to a few hundred rows of
    finite numbers; predictions are the posterior predictive under their training prior, in the
    units ``network_.config.units``. For a network in "standardised" units, such as "gp", features
    and target are standardised, so that their units do not matter. A network in "raw" units, such
    as "gp-1d" or one trained on your own prior in natural units, receives the numbers unchanged:
    for "gp-1d", x lies in (-2, 2), y has a standard deviation of 0.1 to 1 around zero and noise of
    0.02. Data outside of the range of such a prior cause a warning.

    ``sample_weight`` is the number of times that each row was observed: rows with weight zero are
    left out, integer weights repeat rows, and for other weights each view draws its rows in
    proportion (systematic resampling, with the same number of rows). The order of rows does not
    matter.

    With several outputs, y ``(n, outputs)``, each has its own mean and quantiles given the inputs;
    draws and log densities are joint, each output given those before it (``joint_outputs``).

    Parameters:
        network: name of a pretrained network, folder of a saved one, a ``PFN`` or a ``TabularPFN``.
        n_estimators: number of views of a table, with shuffled columns, that are averaged; None as
            in `PFNClassifier`; networks over rows have one.
        target_transforms: transformations of a table's target, used by the views in turn: 'none',
            'power' (Yeo and Johnson's, or the logarithm if it fits better) and 'quantile' (maps
            quantiles to those of the normal); not for networks over rows.
        forget: which rows `partial_fit` discards: "random" keeps a random sample of 10,000 of all
            rows seen; "oldest" keeps the latest rows, as many as the network reads.
        precision: for networks over tables: "auto" uses bfloat16 on CPUs that support it, which is
            faster and rounds to three digits; "float32" is used everywhere otherwise.
        device: device of the network, such as "cpu" or "cuda".
        random_state: random state of the views, and of the choice of rows if there are more than
            the network reads or if they are weighted.

    Attributes:
        network_: the network.
        X_train_: the rows in the network's representation and units, sorted, ``(n, columns)``.
        y_train_: their targets, in the network's units, ``(n,)``.
        n_samples_seen_: number of rows seen by `fit` and `partial_fit`.
        n_features_in_: number of features.
        feature_names_in_: their names, if they are strings.

    References:
        | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510

    Example:
        >>> import numpy as np
        >>> X = np.linspace(0, 10, 20)[:, None]
        >>> y = 300 + 50 * np.sin(X[:, 0] / 2)
        >>> estimator = PFNRegressor().fit(X, y)
        >>> mean, std = estimator.predict([[5.0]], return_std=True)
        >>> bool(abs(mean - 300 - 50 * np.sin(2.5)) < 5)
        True
    """

    network: str | Path | PFN | TabularPFN = "tabular-regressor"
    _: KW_ONLY
    n_estimators: int | None = None
    target_transforms: Sequence[str] = ("none", "power")
    forget: str = "random"
    precision: str = "auto"
    device: str = "cpu"
    random_state: int | np.random.RandomState | None = 0

    _MADE = ("_context", "_outputs")

    def __sklearn_tags__(self) -> Tags:
        named = isinstance(self.network, str | Path) and kind_of(self.network) == "tabular-pfn"
        reads_tables = named or isinstance(self.network, TabularPFN)
        tags = with_tables(super().__sklearn_tags__(), reads_tables)
        tags.target_tags.multi_output = True
        return tags

    def fit(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None = None
    ) -> "PFNRegressor":
        """Encodes the data.

        Args:
            X: inputs, ``(n, n_features)``; finite numbers for a network over rows.
            y: targets, ``(n,)``, or several outputs, ``(n, outputs)``; finite numbers.
            sample_weight: number of observations of each row, ``(n,)``; None is one.

        Raises:
            ValueError: if the network does not support the data, or a weight or a parameter is out
                of range.

        Warns:
            UserWarning: if there are more rows or features than the network supports, of which a
                part is used; if data are outside of the range of a prior in raw units; if a target
                to be standardised is constant; or if intervals are far too narrow for held-out
                rows.
        """
        with all_or_nothing(self):
            self._prepare(X, y, sample_weight)
            if self._n_outputs > 1:
                self._outputs  # noqa: B018
            elif isinstance(self._context, TargetViews):
                self._context.encode()
        warn_of_doubts(self.network_)
        warn_of_misfit(self)
        return self

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None = None
    ) -> "PFNRegressor":
        """Adds rows to the training rows, as `PFNClassifier.partial_fit` does.

        Args:
            X: inputs of the new rows, ``(n, n_features)``.
            y: targets of the new rows, ``(n,)``.
            sample_weight: number of observations of each row, ``(n,)``; None is one.

        Raises:
            ValueError: as for ``fit``; if the type of a column of a table has changed, or an
                ordered category is new. No rows are added then.
        """
        further = hasattr(self, "X_train_")
        with all_or_nothing(self):
            self._prepare(X, y, sample_weight, further=further)
        if not further:
            warn_of_doubts(self.network_)
        return self

    def _prepare(
        self, X: Any, y: Any, sample_weight: Any = None, *, further: bool = False
    ) -> "PFNRegressor":
        """The part of ``fit`` before the network is used."""
        check_forget(self.forget)
        if not further:
            self.network_: Any = ready(self._network(), self.device)
            # Drawn once, so that a stored estimator has the same views.
            self._views_seed = check_random_state(self.random_state).randint(2**31 - 1)
        if isinstance(self.network_, TabularPFN):
            self._check_parameters()
            encoder, rows = self._read_table(X, y, sample_weight, further)
            self._hold(rows, rows_read(self.network_), further=further)
            self.encoder_: TableEncoder = encoder
            learn = self._learn_table
        else:
            rows = self._read_rows(X, y, sample_weight, further)
            self._hold(rows, self.network_.config.max_context, further=further)
            learn = partial(self._learn_rows, further)
        (self._learn_outputs if self._n_outputs > 1 else learn)()
        if np.ptp(self.y_train_) == 0 and self._is_standardised and not further:
            warnings.warn(
                "The target does not vary; the scale of predictions is arbitrary.", stacklevel=3
            )
        self._drop_views()
        return self

    def _network(self) -> Any:
        network = self.network if isinstance(self.network, PFN | TabularPFN) else load(self.network)
        if not isinstance(network, PFN | TabularPFN):
            raise ValueError(
                f"Expected a network for regression; network={self.network!r} is a "
                f"{type(network).__name__}."
            )
        return network

    def _check_parameters(self) -> None:
        if self.network_.config.target != "regression":
            raise ValueError(
                f"Expected a network for regression; network={self.network!r} is for "
                "classification. Use 'tabular-regressor', or PFNClassifier."
            )
        number_of_views(self.n_estimators, 1, 1, 1)
        check_precision(self.precision)
        check_transforms(self.target_transforms)

    def _make_views(self) -> None:
        """Creates the views of a table, or encodes the rows."""
        self._drop_views()
        if self._n_outputs == 1:
            self._context  # noqa: B018

    @cached_property
    def _context(self) -> Any:
        """The views of a table, or the encoded rows, created on demand."""
        y_mean, y_scale = float(self._y_mean), float(self._y_scale)
        if not isinstance(self.network_, TabularPFN):
            return EncodedRows(
                self.network_,
                self.X_train_,
                self.y_train_,
                x_mean=self._x_mean,
                x_scale=self._x_scale,
                y_mean=y_mean,
                y_scale=y_scale,
            )
        columns = strongest_columns(self.X_train_, self.y_train_[:, None], MAX_COLUMNS)
        n_rows, most = len(self.X_train_), rows_read(self.network_)
        return TargetViews(
            self.network_,
            self.X_train_,
            self.y_train_,
            y_mean=y_mean,
            y_scale=y_scale,
            columns=columns,
            unordered=self.encoder_.unordered,
            n_views=number_of_views(self.n_estimators, n_rows, len(columns), most),
            transforms=self.target_transforms,
            random_state=np.random.RandomState(self._views_seed),
            weight=self._row_weights,
            precision=self.precision,
        )

    @cached_property
    def _outputs(self) -> JointOutputs:
        """The estimators of several outputs; made when they are first asked for."""
        single = self.get_params(deep=False) | {"network": self.network_}
        single["random_state"] = self._views_seed
        x, y, weight = self._held()
        return JointOutputs(lambda: type(self)(**single), self._plain(x), y, weight)

    def _numbers(self, X: ArrayLike) -> NDArray[np.float64]:
        """Queries in the representation of the encoded context."""
        check_is_fitted(self)
        if isinstance(self.network_, TabularPFN):
            return self.encoder_.transform(validated_columns(self, X, reset=False))
        x = validate_data(self, X, dtype=np.float64, reset=False)[:, self._columns]
        for message in outside(self.network_, x, None, self.network):
            warnings.warn(message, stacklevel=4)
        return x

    def _point(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Predicted means for encoded queries."""
        means: NDArray[np.float64] = self._context.predictive(numbers).mean.numpy()
        return means

    def _views(self) -> EncodedViews | None:
        """All inputs of a network over tables."""
        if self._n_outputs > 1 or not isinstance(self._context, TargetViews):
            return None
        return self._context.views

    def _answered(self, masses: Sequence[Tensor], method: str) -> Any:
        """The result of a method, from the masses of `_views`."""
        predictive = self._context.of_bars(self._context.by_bar(masses))
        return predictive.mean.numpy() if method == "predict" else predictive

    def _predictives(self, X: ArrayLike) -> Iterator[BarDistribution]:
        """Predictives of successive chunks of rows, to limit memory."""
        numbers = self._numbers(X)  # before iteration, so that errors in X are raised immediately
        parts = (numbers[i : i + ROWS_AT_ONCE] for i in range(0, len(numbers), ROWS_AT_ONCE))
        return map(self._context.predictive, parts)

    def predict_distribution(self, X: ArrayLike) -> BarDistribution:
        """The posterior predictive of each row's target, in the target's units.

        Args:
            X: inputs, ``(m, n_features)``.

        Returns:
            A distribution of batch shape ``(m,)`` in float64, with a few kilobytes per row.

        Raises:
            ValueError: if there are several outputs.
        """
        check_is_fitted(self)
        if self._n_outputs > 1:
            raise ValueError(
                f"Expected one output; got {self._n_outputs}, whose predictives have bars of their "
                "own. Take predict, predict_quantiles, sample_y or log_density."
            )
        return self._context.predictive(self._numbers(X))

    def predict(
        self, X: ArrayLike, return_std: bool = False
    ) -> NDArray[np.float64] | tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean of the posterior predictive, and its standard deviation if requested.

        Args:
            X: inputs, ``(m, n_features)``.
            return_std: whether to return the standard deviation as well.

        Returns:
            Each ``(m,)``, or ``(m, outputs)`` where there are several.
        """
        check_is_fitted(self)
        if self._n_outputs > 1:
            return self._outputs.predict(self._inputs(X), return_std)
        if not return_std:
            return torch.cat([part.mean for part in self._predictives(X)]).numpy()
        moments = [torch.stack((part.mean, part.stddev)) for part in self._predictives(X)]
        mean, std = torch.cat(moments, dim=1).numpy()
        return mean, std

    def predict_quantiles(
        self, X: ArrayLike, q: ArrayLike = (0.1, 0.5, 0.9)
    ) -> NDArray[np.float64]:
        """Quantiles of the posterior predictive, ``(m, len(q))`` or ``(m, outputs, len(q))``.

        Args:
            X: inputs, ``(m, n_features)``.
            q: levels, each strictly between 0 and 1.

        Raises:
            ValueError: if a level is out of range.
        """
        check_is_fitted(self)
        levels = quantile_levels(q)
        if self._n_outputs > 1:
            return self._outputs.stacked("predict_quantiles", self._inputs(X), levels.numpy())
        parts = [part.icdf(levels[:, None]) for part in self._predictives(X)]
        return torch.cat(parts, dim=1).T.numpy()

    def sample_y(
        self, X: ArrayLike, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0
    ) -> NDArray[np.float64]:
        """Draws of each row's target, ``(m, n_samples)``, or of all outputs jointly.

        Rows are drawn independently of each other. Several outputs of a row are drawn one given the
        other, ``(m, outputs, n_samples)``.

        Args:
            X: inputs, ``(m, n_features)``.
            n_samples: draws for each row.
            random_state: as in scikit-learn.
        """
        check_is_fitted(self)
        n_samples, random = whole_number("n_samples", n_samples), check_random_state(random_state)
        if self._n_outputs > 1:
            return self._outputs.sample(self._inputs(X), n_samples, random)
        parts = []
        for part in self._predictives(X):
            levels = random.uniform(size=(n_samples, *part.batch_shape))
            parts.append(part.icdf(torch.as_tensor(levels)))
        return torch.cat(parts, dim=1).T.numpy()

    def log_density(self, X: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Log density of each row's target, of several outputs the joint one, ``(m,)``, in nats.

        Args:
            X: inputs, ``(m, n_features)``.
            y: targets, ``(m,)`` or ``(m, outputs)``.
        """
        check_is_fitted(self)
        target = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if target.shape[1:] != ((self._n_outputs,) if self._n_outputs > 1 else ()):
            raise ValueError(
                f"Expected y with {self._n_outputs} outputs, as in fitting; got shape "
                f"{target.shape}."
            )
        if self._n_outputs > 1:
            inputs = self._inputs(X)
            check_consistent_length(inputs, target)
            return self._outputs.log_density(inputs, target)
        check_consistent_length(X, target)
        predictives, asked = self._predictives(X), torch.as_tensor(target).split(ROWS_AT_ONCE)
        return torch.cat([p.log_prob(y) for p, y in zip(predictives, asked, strict=True)]).numpy()
