"""The mean answer of each level of a category: in the context, of the level's other rows."""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]


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
