r"""Estimating equations, with sandwich covariances that allow for design weights.

The estimate solves :math:`\sum_i m_i(\beta) = 0`. Its covariance is
:math:`J^{-1} (\sum_i m_i m_i^\top) J^{-\top}` with J the Jacobian of the sum.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import expit

_N_STEPS = 100
_SINGULAR = 1e14  # condition number of the information of standardised columns


class Solution(NamedTuple):
    """An estimate and its covariance."""

    estimate: Float[np.ndarray, " p"]
    covariance: Float[np.ndarray, "p p"]


def solve_regression(
    x: Float[np.ndarray, "n p"],
    y: Float[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    link: str,
) -> Solution:
    r"""Solves :math:`\sum_i w_i x_i (y_i - \mu(x_i^\top \beta)) = 0`.

    Args:
        x: design matrix; its first column is the intercept.
        y: labels, or pseudo-labels of any value.
        weights: weights of the rows.
        link: "linear" or "logistic".

    Raises:
        ValueError: if there is no solution, for example for separable classes.
    """
    z, own_units = _standardised(x)
    beta = np.zeros(x.shape[1])
    for _ in range(_N_STEPS):
        mean = expit(z @ beta) if link == "logistic" else z @ beta
        slope = mean * (1 - mean) if link == "logistic" else np.ones(len(z))
        score = z.T @ (weights * (y - mean))
        information = (z * (weights * slope)[:, None]).T @ z
        if not np.linalg.cond(information) < _SINGULAR:
            raise ValueError(_NO_SOLUTION)
        step = np.linalg.solve(information, score)
        if link == "linear":  # one step is the solution, whatever the unit of y
            beta = step
            break
        beta = beta + step / max(1.0, np.abs(step).max() / 5)
        if np.abs(step).max() < 1e-10:
            break
    mean = expit(z @ beta) if link == "logistic" else z @ beta
    slope = mean * (1 - mean) if link == "logistic" else np.ones(len(z))
    information = (z * (weights * slope)[:, None]).T @ z
    if link == "logistic" and np.abs(z.T @ (weights * (y - mean))).max() > 1e-6 * len(z):
        raise ValueError(_NO_SOLUTION)
    moments = z * (weights * (y - mean))[:, None]
    root = moments @ np.linalg.inv(information).T @ own_units.T
    return Solution(own_units @ beta, root.T @ root)


def _standardised(
    x: Float[np.ndarray, "n p"],
) -> tuple[Float[np.ndarray, "n p"], Float[np.ndarray, "p p"]]:
    """The design with columns of mean 0 and spread 1, and what maps its coefficients to those of x.

    Columns of another unit, or far from zero, would make the equations singular up to rounding.
    """
    centre, spread = x[:, 1:].mean(0), x[:, 1:].std(0)
    if not (spread > 1e-12 * np.abs(centre)).all():
        raise ValueError(_NO_SOLUTION)
    own_units = np.diag(np.concatenate(([1.0], 1 / spread)))
    own_units[0, 1:] = -centre / spread
    return np.column_stack((x[:, 0], (x[:, 1:] - centre) / spread)), own_units


_NO_SOLUTION = (
    "Expected an estimating equation with one solution; found none: columns of X may be collinear, "
    "or the gold labels separable. Leave out columns, or add gold labels."
)


def solve_quantile(
    level: float, y: Float[np.ndarray, " n"], at_most: Callable[[float], Float[np.ndarray, " n"]]
) -> Solution:
    r"""Solves :math:`\sum_i (\hat F_i(t) - q) = 0` for t in the range of y.

    Args:
        level: q.
        y: values whose range contains the quantile.
        at_most: an unbiased estimate, for each row, of the indicator that its label is at most t.
    """
    values = np.unique(y)
    found = _crossing(values, at_most, level)
    indicator = at_most(found)
    error = indicator.std(ddof=1) / np.sqrt(len(indicator))
    # Woodruff's interval: the interval of the level, mapped by the inverse distribution function.
    reach = [_crossing(values, at_most, level + sign * 1.96 * error) for sign in (-1, 1)]
    return Solution(np.array([found]), np.array([[((reach[1] - reach[0]) / 3.92) ** 2]]))


def _crossing(values: np.ndarray, at_most: Callable[[float], np.ndarray], level: float) -> float:
    """The smallest value at which the average reaches the level; it increases up to noise."""
    low, high = 0, len(values) - 1
    while low < high:
        middle = (low + high) // 2
        above = at_most(values[middle]).mean() >= level
        low, high = (low, middle) if above else (middle + 1, high)
    return float(values[low])
