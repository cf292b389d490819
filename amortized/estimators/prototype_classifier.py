r"""Classification by normals with a common covariance, updated in closed form.

With prototypes :math:`\mu_c` and rows x of class c,

.. math::
    \Sigma \sim \mathrm{IW}(d + 1, \tau^2 I), \qquad
    \mu_c \mid \Sigma \sim N(0, \Sigma / \kappa_0), \qquad
    x \mid c \sim N(\mu_c, \Sigma), \qquad c \sim \pi, \quad \pi \sim \mathrm{Dirichlet}(1).

The posterior is conjugate, and the density of a new row of class c is Student's t with n + 2
degrees of freedom. With :math:`\kappa_c = \kappa_0 + n_c` it has the mean
:math:`m_c = \sum x / \kappa_c` and the scale matrix
:math:`(\tau^2 I + \sum x x^T - \sum_c \kappa_c m_c m_c^T) (1 + 1 / \kappa_c) / (n + 2)`.

All that is kept of the data are counts, sums and one matrix of squares, so that rows and classes
may come in any order, batch after batch, and nothing is forgotten.

References:
    Kessler et al., On sequential Bayesian inference for continual learning (2023), arXiv
    2301.01828, section 6.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_triangular
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from amortized.validation import number_between

_KAPPA = 1e-4  # rows that the prior of a prototype is worth


class PrototypeClassifier(ClassifierMixin, BaseEstimator):
    r"""Bayesian classification by one prototype a class, for data that come in parts.

    The posterior is exact after every `partial_fit`, and the same as after one `fit` of all rows.
    New classes may appear at any time. It sees what is linear in the columns: give embeddings for
    images or text.

    Args:
        scale: :math:`\tau`, the prior scale of a column within a class. The prior of a prototype
            is centred at zero; standardise columns that are far from it beside their spread. A
            warning says where the prior widens the classes beyond the spread of all rows.

    Attributes:
        classes_: the classes seen or named so far.
        n_rows_: number of rows of each class.

    Example:
        >>> import numpy as np
        >>> first = PrototypeClassifier().partial_fit([[0.0], [0.4], [5.0], [5.3]], [0, 0, 1, 1])
        >>> later = first.partial_fit([[-5.0], [-5.2]], [2, 2])
        >>> later.predict([[0.1], [5.1], [-4.9]]).tolist()
        [0, 1, 2]
    """

    classes_: NDArray[Any]
    n_rows_: NDArray[np.float64]

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, X: ArrayLike, y: ArrayLike) -> "PrototypeClassifier":
        """Learns from these rows alone."""
        return self._update(X, y, None, reset=True)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None = None
    ) -> "PrototypeClassifier":
        """Learns from further rows.

        Args:
            X: ``(n, n_features)``.
            y: classes, ``(n,)``; new ones are added.
            classes: classes that are possible though none of their rows was seen.
        """
        return self._update(X, y, classes, reset=not hasattr(self, "n_rows_"))

    def _update(
        self, X: ArrayLike, y: ArrayLike, classes: ArrayLike | None, *, reset: bool
    ) -> "PrototypeClassifier":
        number_between("scale", self.scale, 0, np.inf)
        rows, labels = validate_data(self, X, y, reset=reset, dtype=np.float64)
        check_classification_targets(labels)
        if reset:
            self.classes_ = np.unique(labels)[:0]
            self.n_rows_, self._sums = np.zeros(0), np.zeros((0, rows.shape[1]))
            self._squares = np.zeros((rows.shape[1], rows.shape[1]))
        self._add_classes(labels if classes is None else np.append(classes, labels))
        member = labels[:, None] == self.classes_
        self.n_rows_ = self.n_rows_ + member.sum(0)
        self._sums = self._sums + member.T.astype(float) @ rows
        self._squares = self._squares + rows.T @ rows
        self._warn_of_distance()
        return self

    def _warn_of_distance(self) -> None:
        """The prior adds the squared distance of each class from zero to the squares within it."""
        means = self._sums / np.maximum(self.n_rows_, 1.0)[:, None]
        by_prior = (_KAPPA * self.n_rows_ / (_KAPPA + self.n_rows_)) @ means**2
        total = self._sums.sum(0) ** 2 / self.n_rows_.sum()
        spread = (np.diag(self._squares) - total).clip(min=0.0)
        far = np.flatnonzero(by_prior > self.scale**2 + spread)
        if len(far):
            warnings.warn(
                f"Column {far[0]} lies far from zero beside its spread, so that the prior "
                "blurs the classes. Standardise the columns.",
                UserWarning,
                stacklevel=3,
            )

    def _add_classes(self, labels: NDArray[Any]) -> None:
        """Makes room for the classes that were not seen before."""
        known = np.unique(np.append(self.classes_, labels) if len(self.classes_) else labels)
        at = np.searchsorted(known, self.classes_)
        n_rows, sums = np.zeros(len(known)), np.zeros((len(known), self._sums.shape[1]))
        n_rows[at], sums[at] = self.n_rows_, self._sums
        self.classes_, self.n_rows_, self._sums = known, n_rows, sums

    def _logits(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log density of each row with each class up to a constant, ``(n, n_classes)``."""
        check_is_fitted(self)
        rows = validate_data(self, X, reset=False, dtype=np.float64)
        dim = rows.shape[1]
        kappa = _KAPPA + self.n_rows_
        means = self._sums / kappa[:, None]
        within = self._squares - (means * kappa[:, None]).T @ means
        df = 2 + self.n_rows_.sum()
        factor = np.linalg.cholesky((self.scale**2 * np.eye(dim) + within) / df)
        white_rows, white_means = (solve_triangular(factor, v.T, lower=True) for v in (rows, means))
        away = ((white_rows[:, :, None] - white_means[:, None]) ** 2).sum(0)
        wider = (kappa + 1) / kappa
        density = -(df + dim) / 2 * np.log1p(away / wider / df) - dim / 2 * np.log(wider)
        return density + np.log1p(self.n_rows_)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Posterior predictive probability of each class, ``(n, n_classes)``."""
        logits = self._logits(X)
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        return odds / odds.sum(-1, keepdims=True)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable class of each row."""
        best = self._logits(X).argmax(-1)
        return self.classes_[best]
