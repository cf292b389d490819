"""Principal directions of a table's numbers: small differences of columns, as large as the rest.

A missing value is filled in by its mean given the row's other values under a normal distribution
of all columns: the mean of its column alone would lie far off in the directions that are small.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
# Components of a smaller share of the largest one's variance are rounding.
_LEAST_SHARE = 1e-9
_ROUNDS, _RIDGE = 5, 1e-6


class Directions:
    """Principal components of standardised columns, learned from some rows.

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

    def __init__(self, x: Numbers) -> None:
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

    def _filled(self, z: Numbers) -> Numbers:
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

    def __call__(self, x: Numbers) -> Numbers:
        """Other rows by their directions, ``(rows, directions)``."""
        return self._filled((x - self._mean) / self._scale) @ self._axes
