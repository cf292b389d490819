r"""Representations of a table's numbers in a view: unchanged, or an alternative representation.

Codes of unordered categories are arbitrary, but a network may see a pattern in them, so alternative
views permute the codes randomly. For a category with many levels, the mean target of each level is
added (target encoding, cross-fitted in five folds), because a network sees few rows per level. For
strongly correlated columns, information in their differences is hard to see, so they are replaced
by their *directions*, the principal components of the standardised columns; the network
standardises them again, so that small differences have the same scale as the common trend.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
# Directions are used if two columns have at least this correlation; otherwise they do not help.
CORRELATED = 0.6
# Categories with more levels get target encoding.
MANY_LEVELS = 8
# Components with a smaller fraction of the largest variance are rounding errors.
_LEAST_SHARE = 1e-9
_ROUNDS, _RIDGE = 5, 1e-6


class Kind(NamedTuple):
    """Which parts of a table a view represents differently: codes, directions, level means."""

    renamed: bool = False
    turned: bool = False
    means: bool = False


PLAIN = Kind()
KINDS: tuple[Kind, ...] = (PLAIN, Kind(True, True, True))
"""The kinds, used by the views in turn."""


class Directions:
    """Principal components of standardised columns, fitted to some rows.

    A missing value is imputed by its conditional mean under a joint normal distribution of all
    columns, because the column mean would be an outlier in directions of small variance.

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
        # Complete rows, if there are enough, give the best estimate of small variances.
        first = filled[whole] if whole.sum() > 2 * x.shape[1] else filled
        self._covariance = first.T @ first / len(first)
        for _ in range(0 if known.all() else _ROUNDS):
            filled = self._filled(missing)
            # The mean of observed values differs from that of the imputed column.
            shift = filled.mean(0)
            self._mean = self._mean + shift * self._scale
            filled, missing = filled - shift, missing - shift
            self._covariance = filled.T @ filled / len(x)
        spread = np.sqrt(np.maximum(np.diag(self._covariance), 1e-12))
        correlation = np.abs(self._covariance) / np.outer(spread, spread)
        np.fill_diagonal(correlation, 0.0)
        self.correlation = float(correlation.max())
        # The number of directions is at most the smaller dimension of the matrix.
        _, size, axes = np.linalg.svd(filled, full_matrices=False)
        self._axes = axes[np.square(size) > _LEAST_SHARE * np.square(size[0])].T

    def _filled(self, z: NDArray[np.float64]) -> NDArray[np.float64]:
        """Standardised rows with missing values imputed, pattern by pattern."""
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
        """Directions of other rows, ``(rows, directions)``."""
        return self._filled((x - self._mean) / self._scale) @ self._axes


class LevelMeans:
    """Mean targets by the level of one column, shrunk as if one more row had the overall mean.

    Args:
        column: codes of the column, ``(rows,)``; missing values get the overall mean.
        target: targets, or class indicators, ``(rows, outputs)``.
        folds: fold of each row; its mean is over rows of other folds.

    Attributes:
        context: values for the rows themselves, ``(rows, outputs)``; one output for two classes.

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
        """Index of each value's level; the last index is for other values."""
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
        """Mean targets for other rows, ``(rows, outputs)``."""
        return self._means[self._places(column)]


class Reading:
    """The representation of numbers in one view, fitted to its rows.

    Args:
        x: the rows as numbers, ``(rows, columns)``; missing values are NaN.
        target: targets, or class indicators, ``(rows, outputs)``.
        columns: the columns to be used, in their order.
        unordered: whether each column is categorical without an order.
        kind: the parts that are represented differently.
        random_state: random state for codes and folds.

    Attributes:
        context: the rows in this representation.
        is_plain: whether the representation is unchanged, apart from permuted codes.

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
        """Other rows in this representation, ``(rows, represented columns)``."""
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
    """The kind of each view: ``KINDS`` in turn, crossed with another cyclic property of the views.

    Args:
        n_views: number of views.
        n_turns: period of the other property.

    Example:
        >>> [kind.turned for kind in reading_kinds(4)]
        [False, True, False, True]
        >>> [kind.turned for kind in reading_kinds(4, n_turns=2)]
        [False, True, True, False]
    """
    shift = 0 if n_turns == 1 else 1
    return [KINDS[(view + shift * (view // n_turns)) % len(KINDS)] for view in range(n_views)]
