"""Sets of learning curves of different lengths, with missing values."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from amortized.arrays import without_mask

Numbers = NDArray[np.float64]


class CurveSet(NamedTuple):
    """Learning curves, padded with NaN.

    Attributes:
        steps: ascending steps, ``(curves, n)``.
        values: values of the metric, ``(curves, n)``.
        many: whether a set of curves was given, instead of a single one.
    """

    steps: Numbers
    values: Numbers
    many: bool


class StepScale(NamedTuple):
    """An invertible map from the steps of a training to those of a prior over curves.

    Attributes:
        first: first step of the training.
        last: last step of the training.
        kind: "linear" or "log".

    Example:
        >>> StepScale(1.0, 50.0, "linear").to_prior(np.array([1.0, 2.0]), 100)
        array([1., 2.])
        >>> StepScale(16.0, 1024.0, "log").to_prior(np.array([16.0, 128.0, 1024.0]), 101)
        array([ 1.,  8., 64.])
    """

    first: float
    last: float
    kind: str

    def check(self) -> None:
        """Raises a ValueError for an invalid scale."""
        if self.kind not in ("linear", "log"):
            raise ValueError(f"Expected step_scale 'linear' or 'log'; got {self.kind!r}.")
        if not -math.inf < self.first < self.last < math.inf:
            raise ValueError(f"Expected first_step < horizon; got {self.first} and {self.last}.")
        if self.kind == "log" and not self.first > 0:
            raise ValueError(f"Expected first_step > 0 on a log scale; got {self.first}.")

    def check_steps(self, steps: Numbers, name: str) -> None:
        """Raises a ValueError if a step is out of range."""
        slack = 1e-9 * (self.last - self.first)  # 3 * 0.1 is above 0.3
        wrong = steps[(steps < self.first - slack) | (steps > self.last + slack)]
        if len(wrong):
            raise ValueError(
                f"Expected steps from first_step={self.first:g} to horizon={self.last:g} in "
                f"{name}; got {wrong[0]:g}. Set them when the estimator is made."
            )

    def to_prior(self, steps: Numbers, n_steps: int) -> Numbers:
        """Maps steps to the range from 1 to ``n_steps``; shorter trainings keep their unit.

        Steps of longer trainings are divided by a factor. On a log scale their logarithms are, so
        that power laws remain power laws.
        """
        if self.kind == "linear":
            return 1 + (steps - self.first) * min(1.0, (n_steps - 1) / (self.last - self.first))
        power = min(1.0, math.log(n_steps) / math.log(self.last / self.first))
        # Clipped, because rounding may exceed n_steps, the limit of networks.
        return np.minimum((steps / self.first) ** power, n_steps)


def rows_of(values: Any, name: str) -> tuple[list[Numbers], bool]:
    """Splits numbers into rows; also returns whether they were given as a set of rows.

    Args:
        values: a vector, which is one row, a matrix, or a list of vectors of any lengths.
        name: name in messages.

    Raises:
        ValueError: if the values are not numbers, or empty.
    """
    values = without_mask(values)
    if getattr(getattr(values, "dtype", None), "kind", "") in tuple("mM"):
        raise ValueError(f"Expected {name} as numbers; got times, {values.dtype}. Convert them.")
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        try:
            rows = [np.asarray(row, dtype=np.float64) for row in values]
        except (TypeError, ValueError, OverflowError) as reason:
            raise ValueError(
                f"Expected {name} as numbers: (n,) for one curve, (curves, n) or a list of vectors "
                f"for many; got {reason}."
            ) from reason
        shapes = {row.shape for row in rows if row.ndim != 1}
        if shapes:
            raise ValueError(
                f"Expected every curve in {name} as a vector; got shapes {shapes}."
            ) from None
        return rows, True
    if array.ndim not in (1, 2) or array.size == 0:
        raise ValueError(
            f"Expected {name} of shape (n,) for one curve or (curves, n) for many, and not empty; "
            f"got shape {array.shape}."
        )
    return list(np.atleast_2d(array)), array.ndim == 2


def steps_of(X: ArrayLike, n_curves: int, many: bool) -> list[Numbers]:
    """The steps of every curve; a vector or a column applies to all curves.

    Args:
        X: steps, ``(n,)`` or ``(n, 1)``, or one row per curve.
        n_curves: number of curves.
        many: whether a set of curves was given.

    Raises:
        ValueError: if the steps are not finite numbers, or the number of rows is wrong.
    """
    rows, matrix = rows_of(X, "X")
    if matrix and (not many or len(rows) != n_curves) and all(len(row) == 1 for row in rows):
        rows, matrix = [np.concatenate(rows)], False
    if not matrix:
        rows = rows * n_curves
    elif not many or len(rows) != n_curves:
        raise ValueError(
            f"Expected X as steps for all {n_curves} curve(s) alike, (n,), or one row for "
            f"each; got {len(rows)} rows."
        )
    if not all(np.isfinite(row).all() for row in rows):
        raise ValueError("Expected finite steps in X; got NaN or infinity.")
    return rows


def curves_of(X: ArrayLike | None, y: ArrayLike) -> CurveSet:
    """Combines steps and values to a set of curves, without missing values.

    Args:
        X: steps, as for ``steps_of``; None uses 1, 2, 3, ...
        y: values, ``(n,)``, ``(curves, n)`` or a list of vectors; NaN marks missing values.

    Raises:
        ValueError: if steps and values do not match, or a curve has no value.

    Example:
        >>> curves_of(None, [[0.1, np.nan, 0.3], [0.5]]).steps
        array([[ 1.,  3.],
               [ 1., nan]])
    """
    values, many = rows_of(y, "y")
    if X is None:
        steps = [np.arange(1.0, len(row) + 1) for row in values]
    else:
        steps = steps_of(X, len(values), many)
        if all(len(at) == 1 for at in steps) and any(len(row) > 1 for row in values):
            steps = [np.concatenate(steps)] * len(
                values
            )  # a column of as many steps as there are curves
    pairs = []
    for number, (at, row) in enumerate(zip(steps, values, strict=True)):
        if len(at) != len(row):
            raise ValueError(
                f"Expected as many steps as values; curve {number} has {len(at)} and {len(row)}."
            )
        if np.isinf(row).any():
            raise ValueError(f"Expected finite values or NaN in y; curve {number} has infinity.")
        known = ~np.isnan(row)
        if not known.any():
            raise ValueError(
                f"Expected at least one value in every curve; curve {number} has none."
            )
        order = np.argsort(at[known], kind="stable")
        pairs.append((at[known][order], row[known][order]))
    width = max(len(at) for at, _ in pairs)
    padded = np.full((2, len(pairs), width), np.nan)
    for number, pair in enumerate(pairs):
        padded[:, number, : len(pair[0])] = pair
    return CurveSet(padded[0], padded[1], many)


def thinned(curves: CurveSet, most: int) -> CurveSet:
    """Keeps at most a given number of evenly spaced values of each curve, including both ends."""
    if curves.steps.shape[1] <= most:
        return curves
    picked = np.full((2, len(curves.steps), most), np.nan)
    for number, (at, row) in enumerate(zip(curves.steps, curves.values, strict=True)):
        n = int((~np.isnan(row)).sum())
        index = np.linspace(0, n - 1, most).round().astype(int) if n > most else np.arange(n)
        picked[:, number, : len(index)] = at[index], row[index]
    return CurveSet(picked[0], picked[1], curves.many)
