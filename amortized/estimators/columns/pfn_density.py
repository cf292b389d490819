"""The joint distribution of a table's rows by pretrained PFNs: outliers and synthetic rows."""

from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.utils import Tags, check_random_state
from sklearn.utils.validation import check_is_fitted

from amortized.estimators.tabular.column_chain import ColumnChain
from amortized.estimators.tabular.pfn_classifier import PFNClassifier
from amortized.estimators.tabular.pfn_regressor import PFNRegressor
from amortized.tables.cells import objects_of, text_of
from amortized.tables.encoding import TableEncoder, validated_columns, with_tables
from amortized.validation import whole_number

Numbers = NDArray[np.float64]


@dataclass(eq=False, repr=False, kw_only=True)
class PFNDensity(DensityMixin, BaseEstimator):
    r"""Joint density of the rows of a table, by predicting each column from those before it.

    .. math:: p(x) = \frac{1}{R} \sum_r \prod_j p(x_{r_j} \mid x_{r_1}, \ldots, x_{r_{j-1}})

    over R orders r of the columns: the table's own and random ones. Each factor is the predictive
    of a `PFNRegressor` for numbers, or of a `PFNClassifier` for categories and for numbers of at
    most ten different values; of the latter the density is a probability. A factor is learned when
    it is first asked for. Cells may be missing: the density is then that of the other cells.

    A row of low density is an outlier. One that the estimator was fitted to explains itself, as
    with a kernel density estimate: score the fitted rows by `score_held_out`.

    Parameters:
        n_orders: orders of the columns that are averaged over; cost grows with it.
        n_estimators: views of the table for each factor, as of `PFNClassifier`.
        precision: as of `PFNClassifier`.
        device: where the networks run.
        random_state: orders the columns, as of `PFNClassifier`, and draws.

    Attributes:
        encoder_: how the table is read.
        table_: the fitted table, categories as text and all else as numbers (times as days),
            ``(n, n_features)``.
        orders_: the orders of the columns.
        n_features_in_: number of columns.
        feature_names_in_: their names, if they are strings.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(60, 1))
        >>> density = PFNDensity(n_orders=1).fit(np.hstack((x, 2 * x)))
        >>> near, far = density.score_samples([[1.0, 2.0], [1.0, -2.0]])
        >>> bool(near > far + 3)
        True
    """

    n_orders: int = 2
    n_estimators: int | None = 1
    precision: str = "auto"
    device: str = "cpu"
    random_state: int | np.random.RandomState | None = 0

    def __sklearn_tags__(self) -> Tags:
        return with_tables(super().__sklearn_tags__())

    def fit(self, X: ArrayLike, y: Any = None) -> "PFNDensity":
        """Keep the table whose rows will be learned from.

        Args:
            X: the table, ``(n, n_features)``.
            y: not read.

        Raises:
            ValueError: if the table is empty or holds infinite numbers, or a parameter is out of
                range.
        """
        whole_number("n_orders", self.n_orders)
        columns = validated_columns(self, X, reset=True)
        self.encoder_ = TableEncoder()
        self.table_ = self.encoder_.plain(self.encoder_.read(columns))
        random = check_random_state(self.random_state)
        self._seed = random.randint(2**31 - 1)
        n = len(columns)
        shuffled = [random.permutation(n) for _ in range(int(self.n_orders) - 1)]
        distinct = {tuple(order): order for order in (np.arange(n), *shuffled)}
        self.orders_ = list(distinct.values())
        self.__dict__.pop("_chains", None)
        return self

    @cached_property
    def _chains(self) -> list[ColumnChain]:
        return self._chains_of(self.table_)

    def _chains_of(self, table: NDArray[Any]) -> list[ColumnChain]:
        return [
            ColumnChain(table[:, o], 0, self._regressor, self._classifier) for o in self.orders_
        ]

    def _regressor(self) -> PFNRegressor:
        return PFNRegressor(**self._parameters())

    def _classifier(self) -> PFNClassifier:
        return PFNClassifier(**self._parameters())

    def _parameters(self) -> dict[str, Any]:
        wanted = self.get_params(deep=False)
        del wanted["n_orders"]
        return wanted | {"random_state": self._seed}

    def score_samples(self, X: ArrayLike) -> Numbers:
        """Log density of rows, ``(m,)``, in nats; the lower, the more unusual.

        Args:
            X: the rows, ``(m, n_features)``.
        """
        check_is_fitted(self)
        columns = validated_columns(self, X, reset=False)
        return self._log_density(self._chains, self._table(columns))

    def _table(self, columns: list[Any]) -> NDArray[Any]:
        """Rows as those of ``table_``, with new categories, which are known and not missing."""
        numbers = self.encoder_.numbers(columns)
        table = self.encoder_.plain(numbers)
        for j, known in enumerate(self.encoder_.categories):
            if known is None:
                continue
            cells = objects_of(columns[j])
            new = [
                i for i, cell in enumerate(cells) if cell is not None and np.isnan(numbers[i, j])
            ]
            if new and self.encoder_.ordered[j]:
                raise ValueError(
                    f"Expected the ordered categories {known} in column {j}; got "
                    f"{cells[new[0]]!r}, which has no place among them."
                )
            for i in new:
                table[i, j] = text_of(cells[i])
        return table

    def _log_density(self, chains: list[ColumnChain], table: NDArray[Any]) -> Numbers:
        by_order = [
            chain.log_density(table[:, order])
            for chain, order in zip(chains, self.orders_, strict=True)
        ]
        found: Numbers = logsumexp(by_order, axis=0) - np.log(len(by_order))
        return found

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log density of rows, in nats.

        Args:
            X: the rows, ``(m, n_features)``.
            y: not read.
        """
        return float(self.score_samples(X).mean())

    def score_held_out(self, n_folds: int = 5) -> Numbers:
        """Log density of each fitted row given the other folds' rows, ``(n,)``, in nats.

        Args:
            n_folds: parts of the table, each of which is scored by the others, 2 to n.

        Raises:
            ValueError: if there cannot be so many.
        """
        check_is_fitted(self)
        n = len(self.table_)
        if not isinstance(n_folds, Integral) or not 2 <= n_folds <= n:
            raise ValueError(f"Expected n_folds to be an integer from 2 to {n}; got {n_folds!r}.")
        found, order = np.empty(n), np.random.RandomState(self._seed).permutation(n)
        for rows in np.array_split(order, n_folds):
            chains = self._chains_of(np.delete(self.table_, rows, axis=0))
            found[rows] = self._log_density(chains, self.table_[rows])
        return found

    def sample(
        self, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0
    ) -> NDArray[Any]:
        """Draw synthetic rows, ``(n_samples, n_features)``, without missing cells.

        Args:
            n_samples: number of rows.
            random_state: as in scikit-learn.

        Returns:
            Floats, or objects where a column holds categories or times. Whole numbers stay whole.
        """
        check_is_fitted(self)
        n, random = whole_number("n_samples", n_samples), check_random_state(random_state)
        drawn = np.empty((n, self.table_.shape[1]), dtype=self.table_.dtype)
        which = random.randint(len(self._chains), size=n)
        for number, (chain, order) in enumerate(zip(self._chains, self.orders_, strict=True)):
            rows = np.flatnonzero(which == number)
            if len(rows):
                empty = np.empty((len(rows), 0), dtype=self.table_.dtype)
                drawn[np.ix_(rows, order)] = chain.sample(empty, random)
        return self.encoder_.named(drawn)

    def __getstate__(self) -> dict[str, Any]:
        """Without what was learned of the columns, which is large and quickly learned again."""
        state = super().__getstate__().copy()
        state.pop("_chains", None)
        return state
