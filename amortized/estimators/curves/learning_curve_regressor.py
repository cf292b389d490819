"""Extrapolation of learning curves in one pass of a pretrained network."""

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from amortized.distributions.bar_distribution import BarDistribution
from amortized.estimators.curves.curve_sets import CurveSet, StepScale, curves_of, steps_of, thinned
from amortized.estimators.curves.metric_scale import MetricScale, usual_size
from amortized.estimators.fitted_file import FittedFile
from amortized.estimators.reporting import CurveReport, warn_of_doubts
from amortized.networks import PFN
from amortized.pretrained import load
from amortized.priors import LearningCurvePrior, Prior, named_prior
from amortized.validation import quantile_levels, whole_number

Numbers = NDArray[np.float64]

# Curves per forward pass: large enough for efficient matrix products, small enough for the cache.
CURVE_CHUNK = 64
# Tolerance for rounding of a bounded metric, as a fraction of its range.
ROUNDING = 1e-6


@dataclass(eq=False, repr=False)
class LearningCurveRegressor(CurveReport, FittedFile, RegressorMixin, BaseEstimator):
    """Extrapolates one or many learning curves from their beginnings.

    A curve is a metric over steps, such as the accuracy after each epoch. Any number of curves can
    be fitted together; each may have its own length, irregular steps and missing values. The metric
    is mapped to [0, 1], where 1 is best, by ``MetricScale``, and the steps to those of the prior, 1
    to 100.

    Parameters:
        network: name of a pretrained network, folder of a saved one, or a ``PFN``, trained on a
            ``LearningCurvePrior`` (with 100 steps, if it has no name). Use
            "learning-curve-discrepancy" for curves that follow a formula only approximately;
            "learning-curve" has the prior of the literature.
        low: lower bound of the metric; -inf for none.
        high: upper bound of the metric; inf for none. A loss has 0 and inf.
        minimize: whether small values are good.
        usual: size of a typical value if one bound is infinite, or half the range of typical
            values around 0 if both are; None estimates it from the fitted curves.
        horizon: the last step that can be predicted. Up to 100 steps keep their unit; longer
            trainings are compressed.
        first_step: the first possible step.
        step_scale: "linear", or "log" for steps that grow by factors, such as sizes of training
            sets; longer trainings are then compressed by a power, which preserves power laws.
        device: device of the network.

    Attributes:
        network_: the network.
        steps_: steps of the fitted curves, ``(curves, n)``, padded with NaN.
        values_: values of the fitted curves, ``(curves, n)``.

    References:
        | Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks
        | (Adriaensen et al., 2023), arXiv:2310.20447

    Example:
        >>> from amortized.networks import PFN, PFNConfig
        >>> untrained = PFN(PFNConfig(n_features=1, max_context=100, d_model=16, n_layers=1))
        >>> accuracy = [[0.3, 0.5, 0.6], [0.2, 0.3, float("nan"), 0.4]]
        >>> estimator = LearningCurveRegressor(untrained).fit(None, accuracy)
        >>> estimator.predict_quantiles([50, 100], [0.1, 0.9]).shape # curves, steps, levels
        (2, 2, 2)
        >>> estimator.probability_of_exceeding(0.8, at=100).shape
        (2,)
    """

    network: str | PFN = "learning-curve-discrepancy"
    _: KW_ONLY
    low: float = 0.0
    high: float = 1.0
    minimize: bool = False
    usual: float | None = None
    horizon: float = 100.0
    first_step: float = 1.0
    step_scale: str = "linear"
    device: str = "cpu"

    def fit(self, X: ArrayLike | None, y: ArrayLike) -> "LearningCurveRegressor":
        """Stores the known parts of the curves.

        Args:
            X: steps, ``(n,)`` or ``(n, 1)`` for all curves, or one row per curve; None uses 1, 2,
                3, ...
            y: values, ``(n,)`` for one curve, ``(curves, n)`` or a list of vectors for many; NaN
                marks missing values. If there are more values than the network can read (100),
                evenly spaced ones are used.

        Raises:
            ValueError: if steps and values do not match, or violate the bounds or the horizon.
        """
        self._check_parameters()
        curves = curves_of(X, y)
        self.network_: Any = self._network()
        warn_of_doubts(self.network_)
        self._step_scale.check_steps(curves.steps[~np.isnan(curves.steps)], "X")
        known = curves.values[~np.isnan(curves.values)]
        slack = ROUNDING * (self.high - self.low) if math.isfinite(self.high - self.low) else 0.0
        wrong = known[(known < self.low - slack) | (known > self.high + slack)]
        if len(wrong):
            raise ValueError(
                f"Expected values in [{self.low}, {self.high}]; got {wrong[0]:g}. Set low and high "
                "to the metric's bounds, -inf or inf where it has none."
            )
        self.usual_ = self._usual_size(curves)
        self.steps_, self.values_, self._many = thinned(curves, self.network_.config.max_context)
        self.n_features_in_ = 1
        return self

    def _check_parameters(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"Expected low < high; got {self.low} and {self.high}.")
        self._step_scale.check()
        if self.usual is not None and not 0 < self.usual < math.inf:
            raise ValueError(f"Expected usual > 0 or None; got {self.usual!r}.")

    def _network(self) -> PFN:
        network = self.network if isinstance(self.network, PFN) else load(self.network)
        prior = _prior_of(network.config.prior) if isinstance(network, PFN) else None
        if not isinstance(prior, LearningCurvePrior):
            raise ValueError(
                f"Expected a network trained on learning curves; network={self.network!r} is none. "
                "Take 'learning-curve-discrepancy'."
            )
        # Traversing all modules unnecessarily takes a tenth of the time of a prediction.
        if network.training:
            network.eval()
        if next(network.parameters()).device != torch.device(self.device):
            network.to(self.device)
        return network

    @property
    def _step_scale(self) -> StepScale:
        return StepScale(self.first_step, self.horizon, self.step_scale)

    def _usual_size(self, curves: CurveSet) -> float:
        """Typical distance of values from the finite bound, or from 0."""
        if self.usual is not None:
            return float(self.usual)
        origin = self.low if math.isfinite(self.low) else self.high
        origin = origin if math.isfinite(origin) else 0.0
        # Curves begin with their worst values, which must not be compressed.
        size = float(np.median([usual_size(row) for row in np.abs(curves.values - origin)]))
        return size if size > 0 else 1.0

    @property
    def _scale(self) -> MetricScale:
        below, above = math.isfinite(self.low), math.isfinite(self.high)
        low, high = self.low, self.high
        if not above:
            high = (low if below else 0.0) + self.usual_
        if not below:
            low = (self.high if above else 0.0) - self.usual_
        return MetricScale(low, high, bounded=(below, above), minimize=self.minimize)

    def _features(self, steps: Numbers) -> torch.Tensor:
        """Inputs of the network."""
        prior: Any = _prior_of(self.network_.config.prior)
        t = torch.as_tensor(self._step_scale.to_prior(steps, prior.n_steps), device=self.device)
        return prior.features(t.float())

    def _answers(self, X: ArrayLike) -> Iterator[BarDistribution]:
        """Predictives of successive chunks of curves, ``(chunk, m)``, in the metric's units."""
        check_is_fitted(self)
        rows = steps_of(X, len(self.steps_), self._many)
        if len({len(row) for row in rows}) != 1:
            raise ValueError("Expected as many steps in X for every curve; got different numbers.")
        asked = np.stack(rows)
        self._step_scale.check_steps(asked.ravel(), "X")
        for begin in range(0, len(asked), CURVE_CHUNK):
            part = slice(begin, begin + CURVE_CHUNK)
            logits = self._logits(self.steps_[part], self.values_[part], asked[part])
            yield self._scale.predictive(logits, self.network_.borders)

    def _logits(self, steps: Numbers, values: Numbers, asked: Numbers) -> torch.Tensor:
        """Output of the network for a chunk of curves, ``(chunk, m, bars)``."""
        exists = ~np.isnan(values)
        width = int(exists.sum(1).max())
        steps, values, exists = steps[:, :width], values[:, :width], exists[:, :width]
        unit = np.where(exists, self._scale.to_unit(values), 0.0)
        x = self._features(np.hstack((np.where(exists, steps, self.first_step), asked)))
        y_context = torch.as_tensor(unit, dtype=torch.float32, device=self.device)
        mask = None if exists.all() else torch.as_tensor(exists, device=self.device)
        with torch.inference_mode():
            answer = self.network_(x[:, :width], y_context, x[:, width:], mask)
        return answer.logits.cpu()

    def predict_distribution(self, X: ArrayLike) -> BarDistribution:
        """The posterior predictive of the metric at any steps, in its own units.

        Args:
            X: steps, ``(m,)`` for all curves or ``(curves, m)``.

        Returns:
            A distribution of batch shape ``(m,)`` for one curve, ``(curves, m)`` for many.
        """
        parts = list(self._answers(X))
        logits = torch.cat([part.logits for part in parts]) if self._many else parts[0].logits[0]
        return BarDistribution(logits, parts[0].borders, validate_args=False)

    def _of_each(self, X: ArrayLike, of: Any) -> Numbers:
        """Applies a function to the predictives chunk by chunk, because they are large."""
        result = np.concatenate([of(part).double().numpy() for part in self._answers(X)])
        return result if self._many else result[0]

    def predict(self, X: ArrayLike, return_std: bool = False) -> Numbers | tuple[Numbers, Numbers]:
        """Mean of the posterior predictive, and its standard deviation if requested.

        Args:
            X: steps, ``(m,)`` or ``(curves, m)``.
            return_std: whether to return the standard deviation as well.
        """
        if not return_std:
            return self._of_each(X, lambda part: part.mean)
        both = self._of_each(X, lambda part: torch.stack((part.mean, part.stddev), -1))
        return both[..., 0], both[..., 1]

    def predict_quantiles(self, X: ArrayLike, q: ArrayLike = (0.1, 0.5, 0.9)) -> Numbers:
        """Quantiles of the posterior predictive, ``(m, len(q))`` or ``(curves, m, len(q))``.

        Args:
            X: steps, ``(m,)`` or ``(curves, m)``.
            q: levels, each strictly between 0 and 1.
        """
        shaped = quantile_levels(q)[:, None, None]
        return self._of_each(X, lambda part: part.icdf(shaped).movedim(0, -1))

    def sample_y(
        self, X: ArrayLike, n_samples: int = 1, random_state: int | np.random.RandomState | None = 0
    ) -> Numbers:
        """Independent draws of the metric at each step, ``(m, n_samples)`` or ``(curves, ...)``.

        Args:
            X: steps, ``(m,)`` or ``(curves, m)``.
            n_samples: draws for each step.
            random_state: as in scikit-learn.
        """
        n_samples, random = whole_number("n_samples", n_samples), check_random_state(random_state)

        def draw(part: BarDistribution) -> torch.Tensor:
            levels = random.uniform(size=(n_samples, *part.batch_shape))
            return part.icdf(torch.as_tensor(levels)).movedim(0, -1)

        return self._of_each(X, draw)

    def probability_of_exceeding(self, value: ArrayLike, at: ArrayLike) -> Any:
        """The probability that the metric exceeds a value at given steps.

        Args:
            value: one value, or one for each curve, ``(curves,)``.
            at: one step, ``(m,)`` steps for all curves, or ``(curves, m)``.

        Returns:
            ``(m,)`` for one curve, ``(curves, m)`` for many; without the last axis for one step.
        """
        check_is_fitted(self)
        values = np.asarray(value, dtype=np.float64)
        if values.shape not in ((), (len(self.steps_),)) or np.isnan(values).any():
            raise ValueError(
                f"Expected one value, or one for each of {len(self.steps_)} curve(s); got shape "
                f"{values.shape}."
            )
        steps = np.atleast_1d(np.asarray(at, dtype=np.float64))
        bounds = torch.as_tensor(np.broadcast_to(values, len(self.steps_)).copy())
        parts = iter(bounds.split(CURVE_CHUNK))

        def chance(part: BarDistribution) -> torch.Tensor:
            return 1 - part.cdf(next(parts)[:, None].expand(part.batch_shape))

        result = self._of_each(steps, chance)
        return result[..., 0] if np.ndim(at) == 0 else result

    def plot(self, X: ArrayLike | None = None, *, n_curves: int = 6) -> Any:
        """The known values of the first curves, and the median and 90% interval of the rest.

        Args:
            X: steps, ``(m,)``; None uses 100 steps from the first step to the horizon.
            n_curves: largest number of curves in the figure.

        Returns:
            A figure of matplotlib.
        """
        from matplotlib.figure import Figure

        check_is_fitted(self)
        spaced = np.geomspace if self.step_scale == "log" else np.linspace
        steps = spaced(self.first_step, self.horizon, 100) if X is None else np.asarray(X)
        bands = self.predict_quantiles(steps, [0.05, 0.5, 0.95])
        bands = bands if self._many else bands[None]
        figure = Figure(figsize=(6, 4), layout="constrained")
        axis = figure.subplots()
        for number, (at, known, band) in enumerate(
            zip(self.steps_[:n_curves], self.values_[:n_curves], bands[:n_curves], strict=True)
        ):
            axis.plot(at, known, ".", color=f"C{number}", markersize=4)
            axis.plot(steps, band[:, 1], color=f"C{number}", label=str(number))
            axis.fill_between(steps, band[:, 0], band[:, 2], color=f"C{number}", alpha=0.15)
        axis.set_xscale(self.step_scale)
        axis.set_xlabel("step")
        axis.set_ylabel("metric")
        if self._many:
            axis.legend(title="curve", fontsize=8)
        return figure


@cache  # used twice per prediction, and never modified
def _prior_of(name: str | None) -> Prior:
    return LearningCurvePrior() if name is None else named_prior(name)
