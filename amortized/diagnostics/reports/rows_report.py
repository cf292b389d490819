"""The report of any estimator with scikit-learn's interface, by cross-validation on given rows."""

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone, is_classifier
from sklearn.utils import check_X_y
from torch.distributions import Distribution, Normal

from amortized.diagnostics.data.held_out_classes import classes_section, held_out_classes
from amortized.diagnostics.data.held_out_targets import held_out_targets, targets_section
from amortized.diagnostics.data.quantile_predictive import LEVELS, QuantilePredictive
from amortized.diagnostics.reports.page import Report, Section


def report_of_rows(estimator: Any, x: ArrayLike | None, y: ArrayLike | None, seed: int) -> Report:
    """Calibration and accuracy of an estimator in five-fold cross-validation.

    Args:
        estimator: has ``predict_proba``, ``predict_distribution``, quantiles ``(rows, levels)`` by
            ``predict_quantiles(X, q)`` or ``predict(X, quantiles=...)``, or, interpreted as a
            normal predictive, ``predict(X, return_std=True)``.
        x: inputs, ``(rows, features)``.
        y: targets or classes, ``(rows,)``.
        seed: seed of the folds.
    """
    if x is None or y is None:
        raise ValueError(
            f"Expected rows to evaluate a {type(estimator).__name__}: report(estimator, X, y)."
        )
    rows, targets = check_X_y(
        x, y, y_numeric=not is_classifier(estimator), ensure_all_finite="allow-nan"
    )
    if is_classifier(estimator):
        found = _of_classes(estimator, rows, targets, seed)
    else:
        found = _of_targets(estimator, rows, targets.astype(np.float64), seed)
    asked = Section("Subject", {"rows": len(rows), "features": rows.shape[1]})
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
        return _predictive(fitted, x[out])

    return targets_section(held_out_targets(answer, x, y, seed))


def _predictive(fitted: Any, x: NDArray[Any]) -> Distribution:
    """The predictive of an estimator, by the first of the ways that it has."""
    if hasattr(fitted, "predict_distribution"):
        predictive: Distribution = fitted.predict_distribution(x)
        return predictive
    if hasattr(fitted, "predict_quantiles"):
        return QuantilePredictive(torch.as_tensor(fitted.predict_quantiles(x, list(LEVELS))))
    arguments = inspect.signature(fitted.predict).parameters
    if "quantiles" in arguments:
        return QuantilePredictive(torch.as_tensor(fitted.predict(x, quantiles=list(LEVELS))))
    if "return_std" in arguments:
        mean, std = fitted.predict(x, return_std=True)
        return Normal(torch.as_tensor(mean), torch.as_tensor(std), validate_args=False)
    raise TypeError(
        "Expected an estimator with predict_proba, predict_distribution, predict_quantiles(X, q), "
        "predict(X, quantiles=...) or predict(X, return_std=True); got a "
        f"{type(fitted).__name__}, whose uncertainty is not known."
    )
