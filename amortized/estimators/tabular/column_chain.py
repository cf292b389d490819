r"""The joint distribution of the columns of a table by the chain rule, each given those before it.

.. math:: p(x_1, \ldots, x_k \mid z) = \prod_j p(x_j \mid z, x_1, \ldots, x_{j-1})

Every factor is the predictive of a PFN estimator that learned column j from the columns before it,
so densities are normalised and draws are joint. A network reads missing cells: the factor of a
missing cell is left out, and what comes after it is conditioned on the other cells. That integrates
the cell out where it is the last column, and approximately elsewhere.
"""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Table = NDArray[Any]  # of floats or of objects; missing cells are NaN or None
# Numbers of at most so many different values are told apart as classes are.
FEW_LEVELS = 10
ROWS_AT_ONCE = 4096


class ColumnChain:
    """Learns each column of a table from those before it, when it is first asked for.

    Args:
        table: ``(rows, columns)``; the first columns are only conditioned on.
        n_given: how many these are.
        regressor: makes an estimator of a column of numbers.
        classifier: makes an estimator of a column of categories or few numbers; None has all others
            taken for numbers on a continuous scale.
        weight: of the rows, ``(rows,)``; None is once each.
    """

    def __init__(
        self,
        table: Table,
        n_given: int,
        regressor: Callable[[], Any],
        classifier: Callable[[], Any] | None = None,
        weight: Numbers | None = None,
    ) -> None:
        self.table, self.n_given, self.weight = table, n_given, weight
        self._regressor, self._classifier = regressor, classifier
        self._links: dict[int, _NumberLink | _LevelLink] = {}

    def link(self, j: int) -> "_NumberLink | _LevelLink":
        """What answers column j given those before it."""
        if j not in self._links:
            known = ~is_missing(self.table[:, j])
            x, target = before(self.table[known], j), self.table[known, j]
            weight = None if self.weight is None else self.weight[known]
            levels = None if self._classifier is None else levels_of(target)
            with warnings.catch_warnings():  # the user sees only the warnings of the whole table
                warnings.simplefilter("ignore", UserWarning)
                if levels is None:
                    target = target.astype(np.float64)
                    fitted = self._regressor().fit(x, target, weight)
                    whole = self._classifier is not None and is_of_integers(target)
                    self._links[j] = _NumberLink(fitted, whole)
                else:
                    codes = [levels.index(value) for value in target.tolist()]
                    assert self._classifier is not None
                    self._links[j] = _LevelLink(self._classifier().fit(x, codes, weight), levels)
        return self._links[j]

    def log_density(self, table: Table) -> Numbers:
        """Log density, or probability, of the known cells of rows, ``(rows,)``, in nats.

        Args:
            table: ``(rows, columns)``.
        """
        total = np.zeros(len(table))
        for j in range(self.n_given, table.shape[1]):
            known = np.flatnonzero(~is_missing(table[:, j]))
            for rows in np.split(known, range(ROWS_AT_ONCE, len(known), ROWS_AT_ONCE)):
                if len(rows):
                    total[rows] += self.link(j).log_density(before(table[rows], j), table[rows, j])
        return total

    def sample(self, given: Table, random: np.random.RandomState) -> Table:
        """One joint draw of the other columns for each row, ``(rows, columns)``.

        Args:
            given: the first columns, ``(rows, n_given)``.
            random: draws.
        """
        drawn = np.empty((len(given), self.table.shape[1]), dtype=self.table.dtype)
        drawn[:, : self.n_given] = given
        for j in range(self.n_given, drawn.shape[1]):
            for start in range(0, len(drawn), ROWS_AT_ONCE):
                rows = slice(start, start + ROWS_AT_ONCE)
                level = random.uniform(size=len(drawn[rows]))
                drawn[rows, j] = self.link(j).quantile(before(drawn[rows], j), level)
        return drawn


class _NumberLink:
    """A column of numbers; of whole numbers draws are whole as well."""

    def __init__(self, estimator: Any, is_whole: bool) -> None:
        self.estimator, self._is_whole = estimator, is_whole

    def log_density(self, x: Table, value: Table) -> Numbers:
        asked = torch.as_tensor(value.astype(np.float64))
        found: Numbers = self.estimator.predict_distribution(x).log_prob(asked).numpy()
        return found

    def quantile(self, x: Table, level: Numbers) -> Numbers:
        found = self.estimator.predict_distribution(x).icdf(torch.as_tensor(level)).numpy()
        rounded: Numbers = np.round(found) if self._is_whole else found
        return rounded


class _LevelLink:
    """A column of categories, or of few numbers. A level that was not seen has Laplace's share."""

    def __init__(self, estimator: Any, levels: list[Any]) -> None:
        self.estimator, self._code = estimator, {level: k for k, level in enumerate(levels)}
        self._levels = np.array(levels, dtype=object)
        self._unseen = 1 / (len(estimator.X_train_) + len(levels) + 1)

    def log_density(self, x: Table, value: Table) -> Numbers:
        codes = np.array([self._code.get(one, -1) for one in value.tolist()])
        proba = self.estimator.predict_proba(x) * (1 - self._unseen)
        seen = np.maximum(proba[np.arange(len(x)), codes], np.finfo(np.float64).tiny)
        return np.log(np.where(codes < 0, self._unseen, seen))

    def quantile(self, x: Table, level: Numbers) -> Table:
        below = self.estimator.predict_proba(x).cumsum(1)
        codes = (below < level[:, None] * below[:, -1:]).sum(1)
        drawn: Table = self._levels[codes]
        return drawn


def levels_of(values: Table) -> list[Any] | None:
    """The different values of a column of categories or few numbers, sorted; None of many numbers.

    Args:
        values: known ones, ``(rows,)``.

    Example:
        >>> levels_of(np.array([2.0, 1.0, 2.0])), levels_of(np.arange(20.0))
        ([1.0, 2.0], None)
    """
    levels = set(values.tolist())
    if any(isinstance(level, str) for level in levels) or len(levels) <= FEW_LEVELS:
        return sorted(levels)
    return None


def is_of_integers(values: Numbers) -> bool:
    """Whether a column has whole numbers only."""
    return bool((values == np.round(values)).all())


def is_missing(cells: Table) -> NDArray[np.bool_]:
    """Which of these are NaN or None."""
    if cells.dtype != object:
        return np.isnan(cells)
    return np.array([cell is None or cell != cell for cell in cells.flat], dtype=bool).reshape(
        cells.shape
    )


def before(table: Table, j: int) -> Table:
    """The columns before the j-th; a column of zeros where there are none."""
    return table[:, :j] if j else np.zeros((len(table), 1))
