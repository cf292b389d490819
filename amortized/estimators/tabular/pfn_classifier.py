"""Classification of tables with a pretrained PFN."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from amortized.estimators.all_or_nothing import all_or_nothing
from amortized.estimators.fitted_file import FittedFile
from amortized.estimators.reporting import ClassifierReport, warn_of_doubts
from amortized.estimators.tabular.seen_rows import HoldsRows, check_forget
from amortized.networks.tabular_pfn import TabularPFN
from amortized.pretrained import load
from amortized.tables.class_labels import all_classes, class_labels
from amortized.tables.class_tree import ClassTree
from amortized.tables.encoding import (
    MAX_COLUMNS,
    in_canonical_order,
    validated_columns,
    with_tables,
)
from amortized.tables.sample_weights import counted, repeated
from amortized.tables.screening import strongest_columns
from amortized.tables.views import (
    EncodedViews,
    check_precision,
    number_of_views,
    ready,
    rows_read,
    warn_of_unread_rows,
)
from amortized.validation import number_between


@dataclass(eq=False, repr=False)
class PFNClassifier(HoldsRows, ClassifierReport, FittedFile, ClassifierMixin, BaseEstimator):
    """Bayesian classification of small tables in forward passes of a pretrained network.

    Predictions are the posterior predictive under the training prior of the network, averaged over
    views of the table. If there are more classes than the network supports in one pass, there is
    one task for each class against the rest, and their probabilities are combined. Renaming or
    reordering up to ten classes only permutes the probabilities. The order of the rows does not
    matter.

    Tables may be DataFrames, arrays or sparse matrices, with numbers, booleans, datetimes,
    categories, strings and missing values; categories not seen in training count as missing.
    Tables that exceed the training range of the network are handled as follows:
        many classes    more than ten are clustered into groups of similar classes, in a tree
        many rows       each of the ``n_estimators`` views uses its own random rows, at most twice
                        the network's ``max_context``, from all classes; with a warning
        many columns    of more than a hundred, those associated with the target beyond chance,
                        alone or in pairs

    Half of the views use an alternative representation: principal components for correlated
    columns, target encoding for categories with many levels, and permuted codes of categories.
    Their weight is determined on held-out rows.

    ``sample_weight`` is the number of times that each row was observed: rows with weight zero are
    left out, integer weights repeat rows, and for other weights each view draws its rows in
    proportion (systematic resampling, with the same number of rows and all classes).

    A suitable ``temperature`` can be found by cross-validation, with scikit-learn 1.8 or later:
    ``CalibratedClassifierCV(PFNClassifier(), method="temperature", ensemble=False)``. Avoid this if
    classes are nearly separable: a few dozen rows without an error hardly determine the
    temperature, and the log-loss can increase several times.

    Parameters:
        network: name of a pretrained network, folder of a saved one, or a ``TabularPFN``.
        n_estimators: number of views of the table, with shuffled columns, that are averaged; cost
            and memory are proportional to it. None uses as many as have 40,000 cells in total, from
            two to eight: two for 1,000 rows of 20 columns. They are divided among the tasks of
            classes.
        temperature: probabilities are raised to the power of its inverse and normalised; values
            above 1 flatten them.
        class_weight: factor of the probability of each class before normalisation, which corrects
            for different class frequencies; a dictionary, or "balanced" for equal frequencies.
        forget: which rows `partial_fit` discards: "random" keeps a random sample of 10,000 of all
            rows seen; "oldest" keeps the latest rows, as many as the network reads.
        precision: "auto" uses bfloat16 on CPUs that support it, which is faster and rounds to three
            digits; "float32" is used everywhere otherwise.
        device: device of the network, such as "cpu" or "cuda".
        random_state: random state of the views.

    Attributes:
        network_: the network.
        classes_: the classes, sorted.
        class_weight_: the weight of each class.
        encoder_: the fitted encoder of the table.
        X_train_: the table as numbers, with sorted rows, ``(n, columns that vary)``.
        y_train_: class index of each row, ``(n,)``.
        n_samples_seen_: number of rows seen by `fit` and `partial_fit`.
        n_features_in_: number of columns.
        feature_names_in_: their names, if they are strings.

    References:
        | Accurate predictions on small data with a tabular foundation model
        | (Hollmann et al., 2025), Nature 637
    """

    network: str | Path | TabularPFN = "tabular-classifier"
    _: KW_ONLY
    n_estimators: int | None = None
    temperature: float = 1.0
    class_weight: dict[Any, float] | str | None = None
    forget: str = "random"
    precision: str = "auto"
    device: str = "cpu"
    random_state: int | np.random.RandomState | None = 0

    _MADE = ("_tree",)

    def __sklearn_tags__(self) -> Tags:
        return with_tables(super().__sklearn_tags__())

    def fit(
        self, X: ArrayLike, y: ArrayLike | None, sample_weight: ArrayLike | None = None
    ) -> "PFNClassifier":
        """Encodes the table.

        Args:
            X: the table, ``(n, n_features)``.
            y: classes, ``(n,)``: numbers, strings or booleans.
            sample_weight: number of observations of each row, ``(n,)``; None is one.

        Raises:
            ValueError: if the table is empty or contains infinite numbers, the class labels are
                invalid, or a weight or a parameter is out of range.
        """
        with all_or_nothing(self):
            self._prepare(X, y, sample_weight)
            self._tree.encode()
        warn_of_doubts(self.network_)
        warn_of_unread_rows(self.network_, len(self.X_train_))
        return self

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike | None,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> "PFNClassifier":
        """Adds rows to the training rows.

        Predictions are those of a single ``fit`` to all stored rows (see ``forget``). Because all
        context rows attend to each other, new rows change the encoding of all, which is computed
        again at the next prediction, once for any number of calls. A class of ``classes_`` without
        a stored row gets the probability 1 / (rows + classes), by Laplace's rule of succession.

        Args:
            X: new rows, ``(n, n_features)``.
            y: classes of the new rows, ``(n,)``.
            classes: all possible classes, required in the first call unless ``fit`` was called.
            sample_weight: number of observations of each row, ``(n,)``; None is one.

        Raises:
            ValueError: as for ``fit``; if a class is not in ``classes_``; if the type of a column
                has changed, or an ordered category is new. No rows are added then.
        """
        further = hasattr(self, "X_train_")
        if not further and classes is None:
            raise ValueError(
                "Expected all classes in the first call of partial_fit; got none. Give them: "
                "partial_fit(X, y, classes)."
            )
        with all_or_nothing(self):
            self._prepare(X, y, sample_weight, further=further, classes=classes)
        if not further:
            warn_of_doubts(self.network_)
        return self

    def _prepare(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        further: bool = False,
        classes: Any = None,
    ) -> "PFNClassifier":
        """The part of ``fit`` before the network is used."""
        self._check_parameters()
        if y is None:
            raise ValueError("This estimator requires y to be passed, but the target y is None.")
        columns = validated_columns(self, X, reset=not further)
        target = class_labels(y)
        check_consistent_length(columns[0], target)
        columns, target, weight = counted(columns, target, sample_weight)
        with np.errstate(invalid="ignore"):  # huge numbers cannot be converted to integers
            check_classification_targets(target)
        known = all_classes(target, classes, self.classes_ if further else None)
        codes = np.searchsorted(known, target)
        encoder, rows = self._read_columns(columns, codes, weight, further=further)
        if not further:
            self.network_: TabularPFN = ready(self._network(), self.device)
            # Drawn once, so that a stored estimator has the same views.
            self._views_seed = check_random_state(self.random_state).randint(2**31 - 1)
        self._hold(rows, rows_read(self.network_), further=further)
        self.classes_, self.encoder_ = known, encoder
        x, target, weight = repeated(*self._held())
        codes = target.astype(np.intp)
        self.class_weight_ = _class_weights(self.class_weight, known, codes)
        numbers = encoder.fit_numbers(x).astype(np.float32)
        self.X_train_, self.y_train_, self._row_weights = in_canonical_order(numbers, codes, weight)
        self._drop_views()
        return self

    def _check_parameters(self) -> None:
        number_of_views(self.n_estimators, 1, 1, 1)
        check_precision(self.precision)
        check_forget(self.forget)
        number_between("temperature", self.temperature, 0, np.inf)

    def _network(self) -> TabularPFN:
        network = self.network if isinstance(self.network, TabularPFN) else load(self.network)
        if not isinstance(network, TabularPFN) or network.config.target != "classification":
            raise ValueError(
                f"Expected a network for the classification of tables; network={self.network!r} "
                "is none. Take 'tabular-classifier'."
            )
        return network

    def _make_views(self) -> None:
        """Creates the views of the table."""
        self._drop_views()
        self._tree  # noqa: B018

    @cached_property
    def _tree(self) -> ClassTree:
        """The views of the table, created on demand."""
        present, labels = np.unique(self.y_train_, return_inverse=True)
        members = np.eye(len(present))[labels]
        columns = strongest_columns(self.X_train_, members, MAX_COLUMNS)
        most = rows_read(self.network_)
        return ClassTree(
            self.network_,
            self.X_train_,
            labels,
            columns=columns,
            unordered=self.encoder_.unordered,
            n_views=number_of_views(self.n_estimators, len(members), len(columns), most),
            random_state=np.random.RandomState(self._views_seed),
            weight=self._row_weights,
            precision=self.precision,
        )

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class, ``(m, classes)``, in the order of ``classes_``.

        Args:
            X: the rows to be classified, ``(m, n_features)``.
        """
        return self._point(self._numbers(X))

    def _numbers(self, X: ArrayLike) -> NDArray[np.float64]:
        """Encoded queries."""
        check_is_fitted(self)
        return self.encoder_.transform(validated_columns(self, X, reset=False))

    def _point(self, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities for encoded queries."""
        return self._weighed(self._of_all(self._tree.predict_proba(numbers)))

    def _views(self) -> EncodedViews | None:
        """All inputs of the network, or None if there is a tree of several tables."""
        return self._tree.views if self._tree.is_one_split else None

    def _answered(self, masses: Sequence[Tensor], method: str) -> NDArray[Any]:
        """The result of a method, from the masses of `_views`."""
        proba = self._weighed(self._of_all(self._tree.by_group(masses)))
        return self.classes_[proba.argmax(1)] if method == "predict" else proba

    def _of_all(self, proba: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of all classes, including those without a stored row."""
        present = np.unique(self.y_train_)
        if len(present) == len(self.classes_):
            return proba
        unseen = 1 / (len(self.y_train_) + len(self.classes_))
        whole = np.full((len(proba), len(self.classes_)), unseen)
        whole[:, present] = proba * (1 - unseen * (len(self.classes_) - len(present)))
        return whole

    def _weighed(self, proba: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities after temperature and class weights."""
        if self.temperature != 1:
            logits = np.log(np.maximum(proba, np.finfo(np.float64).tiny)) / self.temperature
            proba = np.exp(logits - logits.max(1, keepdims=True))
        proba = proba / proba.sum(1, keepdims=True) * self.class_weight_
        return proba / proba.sum(1, keepdims=True)

    def predict_log_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Logarithm of ``predict_proba``; a probability of 0 counts as the smallest float.

        Args:
            X: the rows to be classified, ``(m, n_features)``.
        """
        return np.log(np.maximum(self.predict_proba(X), np.finfo(np.float64).tiny))

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row, ``(m,)``.

        Args:
            X: the rows to be classified, ``(m, n_features)``.
        """
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(1)]


def _class_weights(
    wanted: dict[Any, float] | str | None, classes: NDArray[Any], codes: NDArray[np.intp]
) -> NDArray[np.float64]:
    """The weight of each class; for "balanced", 1 for classes without rows."""
    weights = np.ones(len(classes))
    present = np.unique(codes) if isinstance(wanted, str) else np.arange(len(classes))
    weights[present] = compute_class_weight(wanted, classes=classes[present], y=classes[codes])
    return weights
