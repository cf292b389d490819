r"""How a view reads a table's numbers: as they are, or the same told otherwise.

The codes of categories without an order are numbers all the same, and a network may see a pattern
in them; it sees another one where they are renamed at random. Of a category with many levels, the
mean answer of its level says at once what a network has to gather from few rows; in the context it
is that of the other rows of the level, in five folds. Columns that nearly agree hide in their
differences what a network over single columns must find in their last digits; *directions* are the
principal components of the standardised columns, and standardised again by the network they are
whitened: a small difference is as large as a common trend.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
# Directions are read where two columns correlate so much: elsewhere they only mix what differs.
CORRELATED = 0.6
# Categories of more levels have the mean answers of these beside them.
MANY_LEVELS = 8
# Components of a smaller share of the largest one's variance are rounding.
_LEAST_SHARE = 1e-9
_ROUNDS, _RIDGE = 5, 1e-6


class Kind(NamedTuple):
    """What a view reads otherwise than as it is."""

    renamed: bool = False
    turned: bool = False
    means: bool = False


PLAIN = Kind()
KINDS: tuple[Kind, ...] = (PLAIN, Kind(True, True, True))
"""The views take these in turn."""


class Directions:
    """Principal components of standardised columns, learned from some rows.

    A missing value is filled in by its mean given the row's other values under a normal
    distribution of all columns: the mean of its column alone would lie far off in the directions
    that are small.

    Args:
        x: the rows, ``(rows, columns)``; missing values are NaN.

    Attributes:
        correlation: the largest absolute correlation of two columns.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(50, 1)) + np.array([[0.0, 5.0]])
        >>> directions = Directions(x)
        >>> directions(x).shape, round(directions.correlation, 6)
        ((50, 1), 1.0)
    """

    def __init__(self, x: NDArray[np.float64]) -> None:
        known = ~np.isnan(x)
        count = np.maximum(known.sum(0), 1)
        self._mean = np.where(known, x, 0.0).sum(0) / count
        centred = np.where(known, x - self._mean, 0.0)
        scale = np.sqrt(np.square(centred).sum(0) / count)
        self._scale = np.where(scale > 0, scale, 1.0)
        filled = centred / self._scale
        missing = np.where(known, filled, np.nan)
        whole = known.all(1)
        # Complete rows say best how small the differences are, if there are enough of them.
        first = filled[whole] if whole.sum() > 2 * x.shape[1] else filled
        self._covariance = first.T @ first / len(first)
        for _ in range(0 if known.all() else _ROUNDS):
            filled = self._filled(missing)
            # The mean of the values that are there is not that of the column.
            shift = filled.mean(0)
            self._mean = self._mean + shift * self._scale
            filled, missing = filled - shift, missing - shift
            self._covariance = filled.T @ filled / len(x)
        spread = np.sqrt(np.maximum(np.diag(self._covariance), 1e-12))
        correlation = np.abs(self._covariance) / np.outer(spread, spread)
        np.fill_diagonal(correlation, 0.0)
        self.correlation = float(correlation.max())
        # Of the shorter side of the matrix there are fewer directions than rows.
        _, size, axes = np.linalg.svd(filled, full_matrices=False)
        self._axes = axes[np.square(size) > _LEAST_SHARE * np.square(size[0])].T

    def _filled(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised rows with their missing values filled in, one pattern after the other."""
        z = z.copy()
        patterns, which = np.unique(np.isnan(z), axis=0, return_inverse=True)
        for number, missing in enumerate(patterns):
            if missing.any():
                rows = np.flatnonzero(which.ravel() == number)
                seen = self._covariance[np.ix_(~missing, ~missing)]
                across = self._covariance[np.ix_(~missing, missing)]
                weights = np.linalg.solve(seen + _RIDGE * np.eye(len(seen)), across)
                z[np.ix_(rows, missing)] = z[np.ix_(rows, ~missing)] @ weights
        return z

    def __call__(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Other rows by their directions, ``(rows, directions)``."""
        return self._filled((x - self._mean) / self._scale) @ self._axes


class LevelMeans:
    """Mean answers by the level of one column, with one row more that has the mean of all.

    Args:
        column: its codes, ``(rows,)``; a missing value has the mean of all rows.
        target: the answers, or an indicator of each class, ``(rows, outputs)``.
        folds: a number for each row; its mean is over rows of other folds.

    Attributes:
        context: of the rows themselves, ``(rows, outputs)``; of two classes one is enough.

    Example:
        >>> y = np.array([[0.0], [2.0], [5.0], [1.0]])
        >>> means = LevelMeans(np.array([0.0, 0.0, 1.0, np.nan]), y, np.arange(4))
        >>> means.context[:2, 0].tolist()  # (2 + 2) / 2 and (0 + 2) / 2
        [2.0, 1.0]
        >>> means(np.array([1.0, 7.0]))[:, 0].tolist()  # (5 + 2) / 2, and an unknown level
        [3.5, 2.0]
    """

    def __init__(
        self, column: Numbers, target: NDArray[np.float64], folds: NDArray[np.intp]
    ) -> None:
        target = target[:, :1] if target.shape[1] == 2 else target
        self._levels = np.unique(column[~np.isnan(column)])
        self._everywhere = target.mean(0)
        place = self._places(column)
        n_folds = int(folds.max()) + 1
        sums = np.zeros((n_folds, len(self._levels) + 1, target.shape[1]))
        counts = np.zeros((n_folds, len(self._levels) + 1, 1))
        np.add.at(sums, (folds, place), target)
        np.add.at(counts, (folds, place), 1.0)
        self._means = self._averaged(sums.sum(0), counts.sum(0))
        others = self._averaged(sums.sum(0) - sums, counts.sum(0) - counts)
        self.context = others[folds, place]

    def _places(self, column: Numbers) -> NDArray[np.intp]:
        """Number of each value's level; one more for those that are none."""
        column = column.astype(self._levels.dtype)
        at = np.minimum(np.searchsorted(self._levels, column), len(self._levels) - 1)
        return np.where(self._levels[at] == column, at, len(self._levels))

    def _averaged(
        self, sums: NDArray[np.float64], counts: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        means = (sums + self._everywhere) / (counts + 1)
        means[..., -1, :] = self._everywhere
        return means

    def __call__(self, column: Numbers) -> NDArray[np.float64]:
        """Mean answers for other rows, ``(rows, outputs)``."""
        return self._means[self._places(column)]


class Reading:
    """How one view reads numbers, learned from its rows.

    Args:
        x: the rows as numbers, ``(rows, columns)``; missing values are NaN.
        target: their answers, or an indicator of each class, ``(rows, outputs)``.
        columns: those to be read, in their order.
        unordered: which of the table's columns are categories without an order.
        kind: what is read otherwise.
        random_state: renames, and makes folds.

    Attributes:
        context: the rows as the view reads them.
        is_plain: whether there is nothing that the view reads otherwise, but for names.

    Example:
        >>> x, y = np.array([[1.0, 7.0], [2.0, 7.5], [3.0, np.nan]]), np.zeros((3, 1))
        >>> nothing = np.zeros(2, dtype=bool)
        >>> Reading(x, y, np.array([1, 0]), nothing, PLAIN, np.random.RandomState(0))(x[:1])
        array([[7., 1.]])
    """

    def __init__(
        self,
        x: Numbers,
        target: NDArray[np.float64],
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        kind: Kind,
        random_state: np.random.RandomState,
    ) -> None:
        self.columns = columns
        self._names: list[tuple[int, Numbers, Numbers]] = []
        self._means: list[tuple[int, LevelMeans]] = []
        folds = random_state.randint(5, size=len(x))
        for place in np.flatnonzero(unordered[columns]):
            levels = np.unique(x[:, columns[place]])
            levels = levels[~np.isnan(levels)]
            if kind.renamed and len(levels) > 2:
                names = random_state.permutation(len(levels)).astype(np.float64)
                self._names.append((int(place), levels, names))
            if kind.means and len(levels) > MANY_LEVELS:
                column = int(columns[place])
                self._means.append((column, LevelMeans(x[:, column], target, folds)))
        self._measured = np.flatnonzero(~unordered[columns])
        self._directions: Directions | None = None
        if kind.turned and len(self._measured) > 1 and len(x) > 2:
            found = Directions(x[:, columns[self._measured]].astype(np.float64))
            self._directions = found if found.correlation > CORRELATED else None
        self.context = self._read(x, [means.context for _, means in self._means])
        self.is_plain = self._directions is None and not self._means

    def __call__(self, x: Numbers) -> NDArray[np.float64]:
        """Other rows as this view reads them, ``(rows, columns read)``."""
        return self._read(x, [means(x[:, column]) for column, means in self._means])

    def _read(self, x: Numbers, means: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        read = x[:, self.columns].astype(np.float64)
        for place, levels, names in self._names:
            known = ~np.isnan(read[:, place])
            at = np.searchsorted(levels, x[known, self.columns[place]].astype(levels.dtype))
            read[known, place] = names[np.minimum(at, len(levels) - 1)]
        if self._directions is not None:
            turned = self._directions(read[:, self._measured])
            read = np.concatenate((turned, np.delete(read, self._measured, 1)), 1)
        return np.concatenate((read, *means), 1)


def reading_kinds(n_views: int, n_turns: int = 1) -> list[Kind]:
    """The kind of each view: ``KINDS`` in turn, not in step with what else takes turns.

    Args:
        n_views: how many views there are.
        n_turns: of what else the views take in turn.

    Example:
        >>> [kind.turned for kind in reading_kinds(4)]
        [False, True, False, True]
        >>> [kind.turned for kind in reading_kinds(4, n_turns=2)]
        [False, True, True, False]
    """
    shift = 0 if n_turns == 1 else 1
    return [KINDS[(view + shift * (view // n_turns)) % len(KINDS)] for view in range(n_views)]
