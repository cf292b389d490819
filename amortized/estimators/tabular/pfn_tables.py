"""Predictions for many tables in one call, with one forward pass for tables of equal shape."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from numpy.typing import ArrayLike
from sklearn.utils.parallel import Parallel, delayed

from amortized.estimators.tabular.pfn_classifier import PFNClassifier
from amortized.estimators.tabular.pfn_regressor import PFNRegressor
from amortized.progress import with_progress
from amortized.tables.views import masses_together

Estimator = PFNClassifier | PFNRegressor
METHODS = {
    PFNClassifier: ("predict", "predict_proba"),
    PFNRegressor: ("predict", "predict_distribution"),
}
_TOGETHER = 64  # number of tables in memory at a time, for each job


def predict_tables(
    estimator: Estimator,
    tables: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    method: str = "predict",
    n_jobs: int | None = None,
) -> list[Any]:
    """Fits an estimator to each of many tables and predicts its queries.

    The result equals that of ``getattr(estimator.fit(X, y), method)(X_query)`` for each table, up
    to rounding, but tables of equal shape are passed through the network together. For thousands of
    small tables use ``n_estimators=1`` or 2: by default a small table has eight views, which cost
    eight times as much.

    Args:
        estimator: estimator with the parameters for all tables; it is not fitted itself.
        tables: ``(X, y, X_query)`` of each table, of any shapes.
        method: "predict" or "predict_proba" of a classifier, "predict" or "predict_distribution"
            of a regressor.
        n_jobs: number of processes, as in scikit-learn; with ``joblib.parallel_config`` another
            backend, such as Dask, distributes them over machines.

    Returns:
        the results of the method, in the order of the tables.

    Raises:
        TypeError: if the estimator is neither a PFNClassifier nor a PFNRegressor.
        ValueError: if the method is unknown, or a table is invalid.

    Example:
        >>> import numpy as np
        >>> X = np.random.default_rng(0).normal(size=(3, 30, 2))
        >>> tables = [(x[:20], x[:20, 0] > 0, x[20:]) for x in X]
        >>> found = predict_tables(PFNClassifier(n_estimators=1), tables, method="predict_proba")
        >>> [proba.shape for proba in found]
        [(10, 2), (10, 2), (10, 2)]
    """
    if n_jobs is not None and not isinstance(n_jobs, Integral):
        raise TypeError(f"Expected n_jobs to be an integer or None; got {n_jobs!r}.")
    if not isinstance(estimator, Estimator):
        raise TypeError(
            "Expected a PFNClassifier or a PFNRegressor; got "
            f"{type(estimator).__name__}. Fit other estimators one by one."
        )
    known = next(names for kind, names in METHODS.items() if isinstance(estimator, kind))
    if method not in known:
        raise ValueError(f"Expected method to be one of {known}; got {method!r}.")
    wrong = [number for number, table in enumerate(tables) if len(table) != 3]
    if wrong:
        raise ValueError(
            f"Expected tables as (X, y, X_query); got {len(tables[wrong[0]])} members in table "
            f"{wrong[0]}."
        )
    # Tables of equal shape are made adjacent.
    order = sorted(range(len(tables)), key=lambda number: [_shape(x) for x in tables[number]])
    parts = [order[start : start + _TOGETHER] for start in range(0, len(order), _TOGETHER)]
    jobs = [delayed(_answers)(estimator, [tables[i] for i in part], method) for part in parts]
    found = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    found = with_progress(found, "predicting", f"{_TOGETHER} tables", len(parts))
    by_number = dict(zip(order, (answer for part in found for answer in part), strict=True))
    return [by_number[number] for number in range(len(tables))]


def _shape(x: Any) -> tuple[int, ...]:
    shape: tuple[int, ...] = getattr(x, "shape", None) or (len(x),)
    return shape


def _answers(estimator: Estimator, tables: list[Any], method: str) -> list[Any]:
    """Predictions for a chunk of tables."""
    # All estimators share one network, so that tables can be passed through it together.
    parameters = estimator.get_params(deep=False) | {"network": estimator._network()}
    prepared = [type(estimator)(**parameters)._prepare(X, y) for X, y, _ in tables]
    answers: list[Any] = [None] * len(tables)
    asked, numbers = [], []
    for number, (one, (_, _, query)) in enumerate(zip(prepared, tables, strict=True)):
        views = one._views()
        if views is None:  # a tree of classes, or a network over rows
            answers[number] = getattr(one, method)(query)
        else:
            asked.append((views, one._numbers(query)))
            numbers.append(number)
    for number, masses in zip(numbers, masses_together(asked), strict=True):
        answers[number] = prepared[number]._answered(masses, method)
    return answers
