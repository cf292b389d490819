"""The report of any estimator with the interface of scikit-learn on rows of the user."""

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils import check_X_y
from torch.distributions import Distribution, Normal

from amortized.diagnostics.data.held_out_classes import classes_section, held_out_classes
from amortized.diagnostics.data.held_out_targets import held_out_targets, targets_section
from amortized.diagnostics.reports.page import Report, Section


def report_of_rows(estimator: Any, x: ArrayLike | None, y: ArrayLike | None, seed: int) -> Report:
    """Calibration and accuracy of each row predicted from the others, by clones in five folds.

    Args:
        estimator: with ``predict_proba``, ``predict_distribution`` or, taken for a normal
            predictive, ``predict(X, return_std=True)``.
        x: inputs, ``(rows, features)``.
        y: targets or classes, ``(rows,)``.
        seed: of the folds.
    """
    if x is None or y is None:
        raise ValueError(
            f"Expected rows to judge a {type(estimator).__name__} by: report(estimator, X, y)."
        )
    rows, targets = check_X_y(
        x, y, y_numeric=not is_classifier(estimator), ensure_all_finite="allow-nan"
    )
    if is_classifier(estimator):
        found = _of_classes(estimator, rows, targets, seed)
    else:
        found = _of_targets(estimator, rows, targets.astype(np.float64), seed)
    asked = Section("What was asked", {"rows": len(rows), "features": rows.shape[1]})
    return Report.of(f"{type(estimator).__name__} on {len(rows)} rows", [found, asked])


def _of_classes(estimator: Any, x: NDArray[Any], y: NDArray[Any], seed: int) -> Section:
    classes, numbers = np.unique(y, return_inverse=True)

    def answer(given: NDArray[np.intp], out: NDArray[np.intp]) -> NDArray[np.float64]:
        fitted: Any = clone(estimator).fit(x[given], y[given])
        probs = np.zeros((len(out), len(classes)))
        probs[:, np.searchsorted(classes, fitted.classes_)] = fitted.predict_proba(x[out])
        return probs

    return classes_section(held_out_classes(answer, x, numbers, len(classes), seed), classes, seed)


def _of_targets(estimator: Any, x: NDArray[Any], y: NDArray[Any], seed: int) -> Section:
    def answer(given: NDArray[np.intp], out: NDArray[np.intp]) -> Distribution:
        fitted: Any = clone(estimator).fit(x[given], y[given])
        if hasattr(fitted, "predict_distribution"):
            predictive: Distribution = fitted.predict_distribution(x[out])
            return predictive
        try:
            mean, std = fitted.predict(x[out], return_std=True)
        except TypeError as reason:
            raise TypeError(
                "Expected an estimator with predict_proba, predict_distribution or "
                f"predict(X, return_std=True); got a {type(estimator).__name__}."
            ) from reason
        return Normal(torch.as_tensor(mean), torch.as_tensor(std), validate_args=False)

    return targets_section(held_out_targets(answer, x, y, seed))
