"""Cross-fitted predictions of the gold label from the surrogate and the covariates."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.base import clone
from sklearn.model_selection import KFold


def cross_fitted(
    model: Any,
    features: Float[np.ndarray, "n columns"],
    gold: Float[np.ndarray, " n"],
    sampled: Bool[np.ndarray, " n"],
    n_folds: int,
    seed: int,
) -> tuple[Float[np.ndarray, " n"], list[tuple[np.ndarray, np.ndarray]]]:
    """Predictions for all rows, each from the gold labels of the other folds.

    A classifier predicts the probability of label 1.

    Returns:
        the predictions, and for each fold its rows and the training errors of its model.

    Raises:
        ValueError: if there are too few gold labels, or only one class, outside of a fold.
    """
    if len(features) < n_folds:
        raise ValueError(f"Expected at least {n_folds} rows, one a fold; got {len(features)}.")
    predicted, folds = np.zeros(len(gold)), []
    for others, rows in KFold(n_folds, shuffle=True, random_state=seed).split(features):
        train = others[sampled[others]]
        labels = gold[train]
        classifies = hasattr(model, "predict_proba")
        if len(train) < 5 or (classifies and len(np.unique(labels)) < 2):
            raise ValueError(
                "Expected at least five gold labels, of both classes, outside of each of "
                f"{n_folds} folds; got {len(train)}. Give more gold labels."
            )
        fitted = clone(model).fit(features[train], labels.astype(int) if classifies else labels)
        predicted[rows] = _predict(fitted, features[rows])
        folds.append((rows, labels - _predict(fitted, features[train])))
    return predicted, folds


def _predict(model: Any, features: np.ndarray) -> np.ndarray:
    if hasattr(model, "predict_proba"):
        return np.asarray(model.predict_proba(features))[:, 1]
    return np.asarray(model.predict(features), dtype=float)
