r"""Bayesian autoregression with model averaging over sets of lags.

Given the set s of k lags, coefficients and noise have Zellner's prior with g = n rows, for which
the evidence has a closed form,

.. math:: 2 \log p(y \mid s) = -k \log (1 + n) - (n - 1) \log (1 - \tfrac{n}{1 + n} R_s^2),

up to a constant. All numbers of lags have equal prior probability. The sets are explored by a jump
process that changes one lag at a time, from s to s' at the rate
:math:`\sqrt{p(s' | y) / p(s | y)}`. It satisfies detailed balance with respect to
:math:`p(s | y)` and needs no rejections; each visited set is weighted by its expected holding time,
the inverse of its total rate.

References:
    AR-Net: a simple auto-regressive neural network for time-series (Triebe et al., 2019).
    On assessing prior distributions and Bayesian regression analysis with g-prior distributions
    (Zellner, 1986).
    Informed proposals for local MCMC in discrete spaces (Zanella, 2020).
"""

from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from amortized.arrays import as_tensor
from amortized.forecasting.lag_regression import LagRegression
from amortized.validation import whole_number

Array = NDArray[np.float64]


@dataclass(eq=False, repr=False)
class Autoregression(BaseEstimator):
    """Bayesian autoregression of one series, in time linear in the order.

    Parameters:
        order: number of candidate lags.
        sparse: whether results are averaged over sets of lags; False uses all lags with a flat
            prior, which is ordinary least squares.
        n_jumps: number of jumps between sets of lags.
        random_state: seed of the jumps.

    Attributes:
        coef_: posterior mean coefficients of lags 1, 2, ..., ``(order,)``.
        intercept_: the intercept.
        inclusion_: posterior probability of each lag, ``(order,)``.
        noise_: standard deviation of the noise.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> y = np.zeros(400)
        >>> for t in range(3, 400):
        ...     y[t] = 0.8 * y[t - 3] + rng.normal()
        >>> model = Autoregression(order=10).fit(y)
        >>> np.flatnonzero(model.inclusion_ > 0.5) + 1
        array([3])
    """

    order: int = 10
    _: KW_ONLY
    sparse: bool = True
    n_jumps: int = 2000
    random_state: int | np.random.RandomState | None = 0

    def fit(self, y: ArrayLike) -> "Autoregression":
        """Fits the model to one series of evenly spaced values, ``(n,)``, in order of time.

        Raises:
            ValueError: if the series is too short for the order, is not finite, or has linearly
                dependent lags.
        """
        return self._fitted(as_tensor(y, "y").numpy())

    def _fitted(self, y: Array) -> "Autoregression":
        order = whole_number("order", self.order, 1)
        whole_number("n_jumps", self.n_jumps, 1)
        if y.ndim != 1:
            raise ValueError(f"Expected y of shape (n,); got {y.shape}.")
        if len(y) < 2 * order + 2:
            raise ValueError(
                f"Expected at least {2 * order + 2} values for {order} lags; got {len(y)}. Choose "
                "a lower order."
            )
        lags = LagRegression.of(y, order)
        if not lags.total > 1e-24 * float(np.abs(y).max()) ** 2 * len(y):
            raise ValueError("Expected a series that varies; got a constant one.")
        self._lags, self._random = lags, check_random_state(self.random_state)
        if self.sparse:
            self._choose(lags)
        else:
            self.coef_ = lags.least_squares()
            self.inclusion_ = np.ones(len(self.coef_))
            left, n_free = np.square(lags.residuals(self.coef_)).sum(), lags.n_rows - order - 1
            self.noise_ = float(np.sqrt(left / n_free))
        self.intercept_ = float(
            y.mean() * (1 - self.coef_.sum()) + lags.means[0] - lags.means[1:] @ self.coef_
        )
        self._mean = float(y.mean())
        self._last = y[-order:][::-1].copy()
        return self

    def predict(self, h: int) -> Array:
        """Forecasts the next h values with the posterior mean coefficients."""
        check_is_fitted(self)
        h = whole_number("h", h, 1)
        return self._continued(np.zeros((1, h)), self.coef_[None], np.array([self.intercept_]))[0]

    def sample_paths(self, h: int, n: int = 100) -> Array:
        """Joint draws of the next h values, ``(n, h)``, each with its own lags and noise."""
        check_is_fitted(self)
        if not self.sparse:
            raise ValueError("Expected sparse=True; a flat prior gives a point estimate only.")
        h, n = whole_number("h", h, 1), whole_number("n", n, 1)
        coef, level, sd = self._draw(n)
        return self._continued(sd[:, None] * self._random.normal(size=(n, h)), coef, level)

    def _choose(self, lags: LagRegression) -> None:
        """Averages over sets of lags."""
        state = _Set(lags, np.zeros(len(lags.cross), dtype=bool))
        known = {state.chosen.tobytes(): state}
        visited: list[tuple[float, _Set]] = []
        for jump in range(int(self.n_jumps)):
            ratios = state.log_ratios
            log_total = np.logaddexp.reduce(ratios / 2)
            if jump >= self.n_jumps // 5:
                visited.append((-log_total, state))
            which = self._random.choice(len(ratios), p=np.exp(ratios / 2 - log_total))
            chosen = state.chosen.copy()
            chosen[which] ^= True
            key = chosen.tobytes()
            if key not in known:
                known[key] = _Set(lags, chosen)
            state = known[key]
        log_time = np.array([time for time, _ in visited])
        weight = np.exp(log_time - np.logaddexp.reduce(log_time))
        self._visited = [each for _, each in visited], weight
        self.coef_ = sum(w * each.mean for w, (_, each) in zip(weight, visited, strict=True))
        self.inclusion_ = sum(w * each.chosen for w, (_, each) in zip(weight, visited, strict=True))
        left = sum(w * each.left for w, (_, each) in zip(weight, visited, strict=True))
        self.noise_ = float(np.sqrt(left / (lags.n_rows - 1)))

    def _draw(self, n: int) -> tuple[Array, Array, Array]:
        """Coefficients, intercepts and noise of n draws."""
        sets, weight = self._visited
        lags, rows = self._lags, self._lags.n_rows
        coef, sd = np.zeros((n, len(lags.cross))), np.empty(n)
        for i, which in enumerate(self._random.choice(len(sets), size=n, p=weight)):
            each = sets[which]
            sd[i] = np.sqrt(each.left / self._random.chisquare(rows - 1))
            index = np.flatnonzero(each.chosen)
            coef[i] = each.mean
            if len(index):
                factor = np.linalg.cholesky(lags.gram[np.ix_(index, index)])
                white = self._random.normal(size=len(index)) * np.sqrt(rows / (rows + 1))
                coef[i, index] += sd[i] * np.linalg.solve(factor.T, white)
        level = self._mean * (1 - coef.sum(1)) + lags.means[0] - coef @ lags.means[1:]
        return coef, level + sd * self._random.normal(size=n) / np.sqrt(rows), sd

    def _continued(self, shocks: Array, coef: Array, level: Array) -> Array:
        """Continues the series with each row of coefficients and its innovations."""
        n, h = shocks.shape
        p = coef.shape[1]
        path = np.empty((n, p + h))
        path[:, :p] = self._last[::-1]
        for t in range(h):
            past = path[:, t : t + p][:, ::-1]
            path[:, p + t] = level + (past * coef).sum(1) + shocks[:, t]
        return path[:, p:]


@dataclass
class _Set:
    """A set of lags with its coefficients and evidence, and the evidence of its neighbours."""

    lags: LagRegression
    chosen: NDArray[Any]

    def __post_init__(self) -> None:
        lags, self.index = self.lags, np.flatnonzero(self.chosen)
        gram = lags.gram[np.ix_(self.index, self.index)]
        # A ridge of the size of rounding errors regularises linearly dependent lags.
        self.inverse = np.linalg.inv(gram + 1e-12 * np.diag(np.diagonal(gram)))
        self.shrink = lags.n_rows / (lags.n_rows + 1)
        self.estimate = self.inverse @ lags.cross[self.index]
        self.explained = float(lags.cross[self.index] @ self.estimate)
        self.mean = np.zeros(len(lags.cross))
        self.mean[self.index] = self.shrink * self.estimate
        self.left = lags.total - self.shrink * self.explained

    @cached_property
    def log_ratios(self) -> Array:
        """Log posterior probability of every neighbour, relative to this set's, ``(p,)``."""
        lags, k = self.lags, len(self.index)
        across = lags.gram[:, self.index]
        apart = lags.cross - across @ self.estimate
        free = np.diagonal(lags.gram) - np.einsum("ij,jk,ik->i", across, self.inverse, across)
        change = apart**2 / free.clip(1e-12 * np.diagonal(lags.gram))
        change[self.index] = -(self.estimate**2) / np.diagonal(self.inverse)
        size = np.where(self.chosen, k - 1, k + 1)
        left = (lags.total - self.shrink * (self.explained + change)).clip(1e-300)
        evidence = (k - size) * np.log(1 + lags.n_rows) / 2
        evidence += (lags.n_rows - 1) / 2 * np.log(self.left / left)
        p = len(self.chosen)
        return evidence + betaln(size + 1, p - size + 1) - betaln(k + 1, p - k + 1)
