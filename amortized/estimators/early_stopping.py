"""Stops a training whose learning curve is unlikely to beat the best result so far."""

import math
from typing import Any, SupportsFloat

import numpy as np
from sklearn.base import clone

from amortized.arrays import as_values
from amortized.estimators.learning_curve_regressor import LearningCurveRegressor


class EarlyStopping:
    """Watches one training, value by value, and says when it is not worth going on.

    After each value the curve is extrapolated to the horizon. The training should stop when the
    chance that its metric ends above the best so far, by ``min_delta`` or more, falls below a
    threshold; the best so far is that of other trainings, if it is given, or of this one itself,
    whichever is better.

    Args:
        estimator: not fitted; knows the metric's bounds and direction and the horizon. None is a
            metric from 0 to 1, the higher the better, over 100 steps.
        best: best result of other trainings; None for none.
        threshold: chance to beat the best below which the training stops.
        min_delta: how much better than the best it must become; less is not worth its time.
        fewest: number of values before which no training is stopped.
        own: whether the training must also beat the best value that it had itself: with a
            ``min_delta`` above 0 it then stops, too, when it has become as good as it will be.

    Attributes:
        chance: chance to beat the best at the last update; NaN before there were enough values.
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
        if not 0 < threshold < 1:
            raise ValueError(f"Expected threshold between 0 and 1; got {threshold!r}.")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"Expected min_delta >= 0; got {min_delta!r}.")
        if int(fewest) != fewest or fewest < 1:
            raise ValueError(f"Expected fewest to be an integer >= 1; got {fewest!r}.")
        if best is not None and not math.isfinite(best):
            raise ValueError(f"Expected best to be a finite number or None; got {best!r}.")
        if best is None and not own:
            raise ValueError("Expected best, or own=True; got nothing that is to be beaten.")
        # A copy: what the user gave stays unfitted.
        self.estimator = clone(LearningCurveRegressor() if estimator is None else estimator)
        self.best, self.threshold, self.min_delta = best, threshold, min_delta
        self.fewest, self.own = int(fewest), own
        self.steps: list[float] = []
        self.values: list[float] = []
        self.chance, self.stopped = math.nan, False

    def update(self, value: SupportsFloat, step: float | None = None) -> bool:
        """Take the next value of the metric; tell whether the training should stop.

        Args:
            value: the metric; NaN, of a training that has diverged, stops it.
            step: when it was measured; None is the step after the last one.
        """
        if step is None:
            step = self.steps[-1] + 1 if self.steps else float(self.estimator.first_step)
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
        # Kept once they are known to be a curve: what is refused leaves the one before.
        self.steps.append(float(step))
        self.values.append(number)
        if math.isnan(number):
            self.stopped = True
        elif len(self.values) >= self.fewest and not math.isnan(chance):
            self.chance = chance
            self.stopped = self.stopped or chance < self.threshold
        return self.stopped

    def _chance(self, steps: list[float], values: list[float]) -> float:
        """The chance that this curve ends better than the best so far."""
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
    """One round of successive halving: the runs whose extrapolation ends best.

    Runs are ranked by the expected metric at the horizon, not by their last values, so that slow
    starters are not cut for being slow.

    Args:
        estimator: not fitted; knows the metric and the horizon.
        curves: values of all runs so far, as for ``LearningCurveRegressor.fit``.
        share: of the runs that go on; at least one does.
        steps: of the values; None counts 1, 2, 3, ...

    Returns:
        numbers of the runs that go on, the best first.

    Example:
        >>> from amortized.networks import PFN, PFNConfig
        >>> untrained = PFN(PFNConfig(n_features=1, max_context=100, d_model=16, n_layers=1))
        >>> len(survivors(LearningCurveRegressor(untrained), [[0.1], [0.2], [0.3], [0.4]]))
        2
    """
    if not 0 < share <= 1:
        raise ValueError(f"Expected share in (0, 1]; got {share!r}.")
    fitted = clone(estimator).fit(steps, curves)
    ends = np.ravel(fitted.predict([float(estimator.horizon)]))
    order = np.argsort(ends if estimator.minimize else -ends, kind="stable")
    return order[: max(1, round(share * len(order)))]
