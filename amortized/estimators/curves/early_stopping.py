"""Stops a training whose learning curve is unlikely to beat the best result so far."""

import math
from typing import Any, SupportsFloat

import numpy as np
from sklearn.base import clone

from amortized.arrays import as_values
from amortized.estimators.curves.learning_curve_regressor import LearningCurveRegressor
from amortized.validation import number_between, whole_number


class EarlyStopping:
    """Monitors the metric of a training and decides when to stop it.

    After each value the curve is extrapolated to the horizon. The training should stop if the
    probability that its final metric exceeds the best result by at least ``min_delta`` falls below
    a threshold. The best result is that of other trainings or of this one, whichever is better.

    Args:
        estimator: unfitted estimator with the bounds and direction of the metric and the horizon.
            None stands for a metric from 0 to 1, higher is better, over 100 steps.
        best: best result of other trainings, or None.
        threshold: probability of beating the best result below which the training stops.
        min_delta: smallest relevant improvement over the best result.
        fewest: smallest number of values before a training can be stopped.
        own: whether the training must also beat its own best value: with a ``min_delta`` above 0 it
            then also stops if no relevant improvement is expected.

    Attributes:
        chance: probability of beating the best result at the last update; NaN before there were
            enough values.
        stopped: whether the training should have stopped.

    References:
        | Speeding up Automatic Hyperparameter Optimization of Deep Neural Networks by Extrapolation
        | of Learning Curves (Domhan, Springenberg and Hutter, 2015)

    Example:
        >>> from amortized.networks import PFN, PFNConfig
        >>> untrained = PFN(PFNConfig(n_features=1, max_context=100, d_model=16, n_layers=1))
        >>> stopper = EarlyStopping(LearningCurveRegressor(untrained), best=0.99, threshold=0.7)
        >>> [stopper.update(value) for value in (0.1, 0.2, 0.3, 0.35)]
        [False, False, True, True]
    """

    def __init__(
        self,
        estimator: LearningCurveRegressor | None = None,
        *,
        best: float | None = None,
        threshold: float = 0.05,
        min_delta: float = 0.0,
        fewest: int = 3,
        own: bool = True,
    ) -> None:
        threshold = number_between("threshold", threshold, 0, 1)
        min_delta = number_between("min_delta", min_delta, 0, math.inf, least=True)
        if best is not None:
            best = number_between("best", best, -math.inf, math.inf)
        if best is None and not own:
            raise ValueError("Expected best, or own=True; got neither.")
        # A copy, so that the user's estimator remains unfitted.
        self.estimator = clone(LearningCurveRegressor() if estimator is None else estimator)
        self.best, self.threshold, self.min_delta = best, threshold, min_delta
        self.fewest, self.own = whole_number("fewest", fewest), own
        self.steps: list[float] = []
        self.values: list[float] = []
        self.chance, self.stopped = math.nan, False

    def update(self, value: SupportsFloat, step: float | None = None) -> bool:
        """Adds a value of the metric; returns whether the training should stop.

        Args:
            value: the metric; NaN, which indicates divergence, stops the training.
            step: step of the value; None is the step after the last one.
        """
        if step is None:
            step = self.steps[-1] + 1 if self.steps else float(self.estimator.first_step)
        step = number_between("step", step, -math.inf, math.inf)
        if self.steps and step <= self.steps[-1]:
            raise ValueError(f"Expected a step after {self.steps[-1]:g}; got {step:g}.")
        numbers = as_values(value, "value")
        if numbers.numel() != 1:
            raise ValueError(f"Expected value to be one number; got {numbers.numel()} of them.")
        number = float(numbers.item())
        number = number if math.isfinite(number) else math.nan
        chance = math.nan
        if step < self.estimator.horizon:
            chance = self._chance([*self.steps, float(step)], [*self.values, number])
        # Stored after validation, so that an error leaves the previous curve unchanged.
        self.steps.append(float(step))
        self.values.append(number)
        if math.isnan(number):
            self.stopped = True
        elif len(self.values) >= self.fewest and not math.isnan(chance):
            self.chance = chance
            self.stopped = self.stopped or chance < self.threshold
        return self.stopped

    def _chance(self, steps: list[float], values: list[float]) -> float:
        """The probability that the final value of the curve exceeds the best result."""
        known = [value for value in values if not math.isnan(value)]
        if not known:
            return math.nan
        estimator = self.estimator.fit(steps, values)
        rivals = ([] if self.best is None else [self.best]) + (known if self.own else [])
        minimize = estimator.minimize
        mark = min(rivals) - self.min_delta if minimize else max(rivals) + self.min_delta
        above = float(estimator.probability_of_exceeding(mark, at=float(estimator.horizon)))
        return 1 - above if minimize else above


def survivors(
    estimator: LearningCurveRegressor, curves: Any, share: float = 0.5, steps: Any = None
) -> np.ndarray:
    """One round of successive halving: the runs with the best extrapolated results.

    Runs are ranked by the expected metric at the horizon instead of their last values, so that slow
    starters are not eliminated early.

    Args:
        estimator: unfitted estimator with the metric and the horizon.
        curves: values of all runs so far, as for ``LearningCurveRegressor.fit``.
        share: fraction of the runs that are continued, at least one.
        steps: steps of the values; None uses 1, 2, 3, ...

    Returns:
        indices of the runs to be continued, the best first.

    Example:
        >>> from amortized.networks import PFN, PFNConfig
        >>> untrained = PFN(PFNConfig(n_features=1, max_context=100, d_model=16, n_layers=1))
        >>> len(survivors(LearningCurveRegressor(untrained), [[0.1], [0.2], [0.3], [0.4]]))
        2
    """
    share = number_between("share", share, 0, 1, most=True)
    fitted = clone(estimator).fit(steps, curves)
    ends = np.ravel(fitted.predict([float(estimator.horizon)]))
    order = np.argsort(ends if estimator.minimize else -ends, kind="stable")
    return order[: max(1, round(share * len(order)))]
