r"""Design-based supervised learning: surrogate labels everywhere, gold labels on a random sample.

A cross-fitted prediction g of the label from the surrogate and the covariates is corrected by the
gold labels, which are known for rows with :math:`R_i = 1`, sampled with known probability
:math:`\pi_i`:

.. math:: \tilde y_i = g_i + \frac{R_i}{\pi_i} (y_i - g_i), \qquad
    \sum_i m(\tilde y_i, x_i; \beta) = 0.

The pseudo-labels are unbiased for the labels whatever g is. Estimates are therefore consistent, and
intervals valid, even if surrogate and prediction are poor; better predictions give narrower
intervals.

References:
    | Using imperfect surrogates for downstream inference: design-based supervised learning for
    | social science applications of large language models (Egami, Hinck, Stewart and Wei, 2023)
    | Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan and Zrnic, 2023)
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.base import BaseEstimator

from amortized.arrays import as_tensor
from amortized.debiased.moments import Solution, solve_quantile, solve_regression
from amortized.debiased.nuisance import cross_fitted
from amortized.estimators import PFNClassifier, PFNRegressor
from amortized.validation import number_between, whole_number

KINDS = ("mean", "linear", "logistic", "quantile")


@dataclass(frozen=True)
class Estimate:
    """Coefficients with standard errors and intervals, each ``(n_coefficients,)``."""

    estimate: Float[np.ndarray, " p"]
    error: Float[np.ndarray, " p"]
    low: Float[np.ndarray, " p"]
    high: Float[np.ndarray, " p"]


@dataclass(frozen=True, repr=False)
class DebiasedEstimates:
    """Three estimates of the same coefficients.

    Attributes:
        names: names of the coefficients.
        debiased: estimate from surrogates and gold labels, valid whatever the surrogates' errors.
        classical: estimate from gold labels only, weighted by inverse sampling probabilities.
        naive: estimate from the surrogates as if they were gold labels; its interval ignores their
            errors.
        n_gold: number of gold labels.
        level: level of the intervals.
    """

    names: tuple[str, ...]
    debiased: Estimate
    classical: Estimate
    naive: Estimate
    n_gold: int
    level: float

    @property
    def effective_gold(self) -> Float[np.ndarray, " p"]:
        """Number of gold labels with which the classical estimate would be as precise."""
        return self.n_gold * (self.classical.error / self.debiased.error) ** 2

    def verdict(self) -> list[str]:
        """One sentence per coefficient: bias of the naive estimate, and gain in precision."""
        lines = []
        for i, name in enumerate(self.names):
            off = self.naive.estimate[i] - self.debiased.estimate[i]
            outside = not self.debiased.low[i] <= self.naive.estimate[i] <= self.debiased.high[i]
            side, where = "above" if off > 0 else "below", "outside" if outside else "inside"
            lines.append(
                f"{name}: the naive estimate is {abs(off):.3g} {side} the debiased one, "
                f"{where} its interval; the surrogates are as informative as "
                f"{max(0.0, self.effective_gold[i] - self.n_gold):.0f} more gold labels."
            )
        return lines

    def __repr__(self) -> str:
        lines = [f"DebiasedEstimates({self.n_gold} gold labels, {self.level:.0%} intervals)"]
        lines.append(f"{'':>12}" + "".join(f"{n:>30}" for n in ("debiased", "classical", "naive")))
        for i, name in enumerate(self.names):
            cells = [
                f"{e.estimate[i]:.4g} [{e.low[i]:.4g}, {e.high[i]:.4g}]"
                for e in (self.debiased, self.classical, self.naive)
            ]
            lines.append(f"{name:>12}" + "".join(f"{cell:>30}" for cell in cells))
        return "\n".join([*lines, *self.verdict()])


def debiased_regression(
    X: ArrayLike | None,
    surrogate: ArrayLike,
    gold: ArrayLike,
    sampled: ArrayLike,
    probability: ArrayLike | float,
    *,
    kind: str = "linear",
    q: float = 0.5,
    nuisance: BaseEstimator | None = None,
    n_folds: int = 5,
    level: float = 0.95,
    random_state: int = 0,
) -> DebiasedEstimates:
    """Regression on surrogate labels without their bias, using a few gold labels.

    Args:
        X: covariates ``(n, n_features)``, without an intercept, which is added. For "mean" and
            "quantile" they only help to predict the labels, and may be None.
        surrogate: label of each row from a model or an inexpensive rater, ``(n,)``.
        gold: gold-standard labels ``(n,)``; values of rows that are not sampled are ignored.
        sampled: whether a row was sampled, so that its gold label is known.
        probability: sampling probability, one number or one per row; it must be known, not
            estimated.
        kind: "mean", "linear", "logistic" for gold labels 0 and 1, or "quantile".
        q: level of the quantile.
        nuisance: model of the gold label given the surrogate and ``X``: any estimator of
            scikit-learn, a classifier with ``predict_proba`` for "logistic". None uses
            `PFNClassifier` for "logistic" and `PFNRegressor` otherwise.
        n_folds: number of folds of cross-fitting.
        level: level of the intervals.
        random_state: seed of the folds.

    Raises:
        ValueError: if the data are inconsistent, or an estimate does not exist.

    Example:
        >>> import numpy as np
        >>> from sklearn.linear_model import LinearRegression
        >>> rng = np.random.default_rng(0)
        >>> y = rng.normal(2.0, 1.0, 2000)
        >>> surrogate = y + 0.5 + 0.3 * rng.normal(size=2000)
        >>> sampled = rng.uniform(size=2000) < 0.1
        >>> found = debiased_regression(
        ...     None, surrogate, y, sampled, 0.1, kind="mean", nuisance=LinearRegression()
        ... )
        >>> bool(found.debiased.low[0] < 2.0 < found.debiased.high[0] < found.naive.low[0])
        True
        >>> bool(found.debiased.error[0] < 0.6 * found.classical.error[0])
        True
    """
    _check_options(kind, q, n_folds, level)
    columns, s, y, known, p = _check_data(X, surrogate, gold, sampled, probability, kind)
    if nuisance is None:
        nuisance = PFNClassifier() if kind == "logistic" else PFNRegressor()
    features = np.column_stack((s, columns))
    g, folds = cross_fitted(nuisance, features, y, known, int(n_folds), random_state)
    weights = known / p
    if kind == "quantile":
        solved = _quantiles(q, g, folds, s, y, known, weights)
        names: tuple[str, ...] = (f"quantile {q:g}",)
    else:
        design = np.column_stack((np.ones(len(s)), columns[:, : 0 if kind == "mean" else None]))
        link, ones = "logistic" if kind == "logistic" else "linear", np.ones(len(s))
        solved = (
            solve_regression(design, g + weights * (y - g), ones, link),
            solve_regression(design, y, weights, link),
            solve_regression(design, s, ones, link),
        )
        slopes = [f"x{i}" for i in range(design.shape[1] - 1)]
        names = ("mean",) if kind == "mean" else ("intercept", *slopes)
    n_gold = int(known.sum())
    sizes = n_gold, n_gold, len(s)
    debiased, classical, naive = (
        _with_interval(each, n, level) for each, n in zip(solved, sizes, strict=True)
    )
    return DebiasedEstimates(names, debiased, classical, naive, n_gold, level)


def _quantiles(
    q: float,
    g: np.ndarray,
    folds: list[tuple[np.ndarray, np.ndarray]],
    s: np.ndarray,
    y: np.ndarray,
    known: np.ndarray,
    weights: np.ndarray,
) -> tuple[Solution, Solution, Solution]:
    """Quantiles; the label's distribution is the prediction plus errors in the other folds."""
    ordered = [(rows, np.sort(errors)) for rows, errors in folds]

    def debiased(t: float) -> np.ndarray:
        below = np.zeros(len(g))
        for rows, errors in ordered:
            below[rows] = np.searchsorted(errors, t - g[rows], side="right") / len(errors)
        return below + weights * ((y <= t) - below)

    share = weights / weights.mean()
    return (
        solve_quantile(q, np.concatenate((y[known], g)), debiased),
        solve_quantile(q, y[known], lambda t: q + share * ((y <= t) - q)),
        solve_quantile(q, s, lambda t: (s <= t).astype(float)),
    )


def _with_interval(solution: Solution, n_labels: int, level: float) -> Estimate:
    """The interval of Student's t distribution with the residual degrees of freedom."""
    estimate = solution.estimate
    if not (np.isfinite(estimate).all() and np.isfinite(solution.covariance).all()):
        raise ValueError(
            "Expected an estimate and an error that are finite; they are not. Give more gold "
            "labels, or numbers in other units."
        )
    free = max(1, n_labels - len(estimate))
    error = np.sqrt(np.diag(solution.covariance) * n_labels / free)
    reach = stats.t.ppf((1 + level) / 2, free) * error
    return Estimate(estimate, error, estimate - reach, estimate + reach)


def _check_options(kind: str, q: float, n_folds: int, level: float) -> None:
    if kind not in KINDS:
        raise ValueError(f"Expected kind among {KINDS}; got {kind!r}.")
    number_between("q", q, 0, 1)
    number_between("level", level, 0, 1)
    whole_number("n_folds", n_folds, 2)


def _check_data(
    X: ArrayLike | None,
    surrogate: ArrayLike,
    gold: ArrayLike,
    sampled: ArrayLike,
    probability: ArrayLike | float,
    kind: str,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Covariates, surrogates, gold labels (0 if unknown), whether known, and probabilities."""
    if X is None and kind in ("linear", "logistic"):
        raise ValueError(f"Expected X for kind={kind!r}; got None.")
    s = as_tensor(surrogate, "surrogate").numpy()
    known = as_tensor(sampled, "sampled").numpy()
    y = as_tensor(gold, "gold", allow_nan=True).numpy()
    x = np.zeros((len(s), 0)) if X is None else as_tensor(X, "X").numpy()
    p = as_tensor(probability, "probability").numpy()
    if p.shape not in ((), s.shape):
        raise ValueError(
            f"Expected probability as one number, or of shape {s.shape}, one a row; got {p.shape}."
        )
    p = np.broadcast_to(p, s.shape)
    flat = s.ndim == y.ndim == known.ndim == 1
    if not flat or x.ndim != 2 or not len(s) == len(x) == len(y) == len(known):
        raise ValueError(
            "Expected X of shape (n, n_features), and surrogate, gold and sampled of shape (n,); "
            f"got {x.shape}, {s.shape}, {y.shape} and {known.shape}."
        )
    if not np.isin(known, (0, 1)).all():
        raise ValueError("Expected sampled to be True or False, or 1 or 0, for every row.")
    known = known.astype(bool)
    if not np.isfinite(y[known]).all():
        raise ValueError("Expected finite gold labels of the sampled rows.")
    if not ((p > 0) & (p <= 1)).all():
        raise ValueError("Expected sampling probabilities above 0 and at most 1, for every row.")
    if kind == "logistic" and not np.isin(y[known], (0, 1)).all():
        raise ValueError("Expected gold labels 0 and 1 for kind='logistic'.")
    return x, s, np.where(known, y, 0.0), known, p
