r"""Moments of a series and its own lags, computed in time linear in the order.

Row :math:`t = p, ..., n - 1` of the regression has the target :math:`y_t` and the regressors
:math:`y_{t-1}, ..., y_{t-p}` and 1. Sums and cross products of consecutive lags differ only in
their first and last terms, so the matrix of :math:`p^2` cross products needs only the np products
of its first row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LagRegression:
    """Centred sums of squares and cross products of a series and its lags.

    Attributes:
        y: the centred series, ``(n,)``.
        gram: cross products of the lags, ``(p, p)``.
        cross: cross products of the lags with the series, ``(p,)``.
        total: sum of squares of the series over the rows of the regression.
        means: means of the series and of every lag over these rows, ``(p + 1,)``.
        n_rows: number of rows of the regression.
    """

    y: Array
    gram: Array
    cross: Array
    total: float
    means: Array
    n_rows: int

    @classmethod
    def of(cls, y: Array, order: int) -> "LagRegression":
        """Computes the sums of a series."""
        y = y - y.mean()
        n, p = len(y), order
        rows = n - p
        full = np.empty((p + 1, p + 1))  # lag 0 is the series itself
        full[0] = np.correlate(y, y[p:], "valid")[::-1]
        full[:, 0] = full[0]
        first, last = y[p - np.arange(1, p + 1)], y[n - np.arange(1, p + 1)]
        for i in range(p):  # each row follows from the previous one by two terms
            full[i + 1, 1:] = full[i, :-1] + first[i] * first - last[i] * last
        sums = np.empty(p + 1)
        sums[0] = y[p:].sum()
        sums[1:] = sums[0] + np.cumsum(first - last)
        full -= np.outer(sums, sums) / rows
        return cls(y, full[1:, 1:], full[1:, 0], float(full[0, 0]), sums / rows, rows)

    def least_squares(self) -> Array:
        """Ordinary least squares, with one step of iterative refinement."""
        w = np.zeros(len(self.cross))
        scale = 1 / np.sqrt(np.diagonal(self.gram).clip(np.finfo(float).tiny))
        factor = _factor(self.gram * np.outer(scale, scale))
        for _ in range(3):
            pull = np.correlate(self.y[:-1], self.residuals(w), "valid")[::-1]
            w = w + scale * cho_solve(factor, scale * pull)
        return w

    def residuals(self, w: Array) -> Array:
        """Centred residuals of the regression, ``(n_rows,)``."""
        p = len(w)
        fitted = np.convolve(self.y, w)[p - 1 : len(self.y) - 1] if p else np.zeros(self.n_rows)
        residual = self.y[p:] - fitted
        return residual - residual.mean()


def _factor(matrix: Array) -> Any:
    try:
        return cho_factor(matrix)
    except np.linalg.LinAlgError as reason:
        raise ValueError(
            "Expected linearly independent lags; got dependent ones, as of a constant or an "
            "exactly periodic series. Choose a lower order."
        ) from reason
