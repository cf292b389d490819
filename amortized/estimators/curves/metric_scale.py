"""The map between a metric's own units and the unit interval of learning curves."""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from amortized.distributions.bar_distribution import BarDistribution

# Margin of the unit interval on each side on which a metric has no bound.
MARGIN = 0.1
# Fraction of the margin beyond which values are not distinguished. They are extreme, and a
# predictive with a bar that extends to infinity would have no mean.
EDGE = 0.01


# Neighbours among a curve's sizes are this far apart only where one of them is an accident: curves
# that fall as a power of the steps halve at most from the first step to the second.
GAP = 10.0


def usual_size(sizes: ArrayLike) -> float:
    """The largest of a curve's sizes that is none of a few outliers.

    Sizes above a gap of a factor of ten are outliers, if they are a quarter of all at most: one
    loss of 1000 among ten near 1 must not set the scale of all.

    Args:
        sizes: not negative; NaN where a value is missing.

    Example:
        >>> usual_size([1.2, 1000.0, 1.1, 1.0, 0.9]), usual_size([8.0, 4.0, 2.0, 1.0, 0.5])
        (1.2, 8.0)
    """
    ordered = np.sort(np.asarray(sizes, dtype=np.float64))[::-1]
    ordered = ordered[~np.isnan(ordered)]
    for n_out in range(len(ordered) // 4, 0, -1):
        if ordered[n_out - 1] > GAP * ordered[n_out] > 0:
            return float(ordered[n_out])
    return float(ordered[0])


class MetricScale:
    r"""An invertible map of a metric to [0, 1], where 1 is best.

    Between ``low`` and ``high`` the map is linear. On a bounded side it is continued linearly. On
    an unbounded side, values beyond the end are mapped to a margin m = 0.1 of the unit interval: at
    a distance r from the end, in units of the interval, :math:`m / (1 + s r / m)` of the margin
    remains, so that the slope s of the linear part is continued.

    Args:
        low: lower end of typical values.
        high: upper end of typical values.
        bounded: whether the metric is bounded by ``low``, and by ``high``.
        minimize: whether small values are good, as for a loss; then 1 stands for ``low``.

    Example:
        >>> scale = MetricScale(0.0, 2.0, bounded=(True, False), minimize=True)
        >>> unit = scale.to_unit([0.0, 2.0, 20.0])
        >>> unit.round(3), scale.from_unit(unit).round(3)
        (array([1.   , 0.1  , 0.001]), array([ 0.,  2., 20.]))
    """

    def __init__(
        self, low: float, high: float, *, bounded: tuple[bool, bool], minimize: bool = False
    ) -> None:
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"Expected finite typical values with low < high; got {low}, {high}.")
        self.low, self.high, self.bounded, self.minimize = low, high, bounded, minimize
        self._margins = tuple(0.0 if is_bounded else MARGIN for is_bounded in bounded)

    def to_unit(self, values: ArrayLike) -> NDArray[np.float64]:
        """Maps values of the metric to the unit interval, where 1 is best; NaN remains NaN."""
        below, above = self._margins
        slope = 1 - below - above
        r = (np.asarray(values, dtype=np.float64) - self.low) / (self.high - self.low)
        unit = below + slope * r
        if below:
            unit = np.where(r < 0, below / (1 + slope * np.maximum(-r, 0) / below), unit)
        if above:
            unit = np.where(r > 1, 1 - above / (1 + slope * np.maximum(r - 1, 0) / above), unit)
        return 1 - unit if self.minimize else unit

    def from_unit(self, unit: ArrayLike) -> NDArray[np.float64]:
        """The inverse; at or past an unbounded end a value about 11 intervals out, not infinity."""
        below, above = self._margins
        slope = 1 - below - above
        unit = np.asarray(unit, dtype=np.float64)
        unit = 1 - unit if self.minimize else unit
        r: Any = (unit - below) / slope
        if below:
            tail = (1 - 1 / np.maximum(unit / below, EDGE)) * below / slope
            r = np.where(unit < below, tail, r)
        if above:
            tail = 1 - (1 - 1 / np.maximum((1 - unit) / above, EDGE)) * above / slope
            r = np.where(unit > 1 - above, tail, r)
        return self.low + (self.high - self.low) * r

    def predictive(
        self, logits: Float[Tensor, "*batch bars"], borders: Float[Tensor, " borders"]
    ) -> BarDistribution:
        """Transforms a predictive over the unit interval to the metric's own units.

        Mass beyond an end is added to the outermost bar. There is no mass beyond a bound; beyond an
        unbounded end there is the tail of that bar.

        Args:
            logits: logits of the bars.
            borders: borders of the bars, in the unit interval or beyond its ends.
        """
        ours, logits = self.from_unit(borders.cpu().numpy()), logits.cpu()
        if self.minimize:
            ours, logits = ours[::-1].copy(), logits.flip(-1)
        below, above = map(int, self.bounded)
        # A value equal to the bound is possible.
        low = math.nextafter(self.low, -math.inf) if below else ours[0]
        high = math.nextafter(self.high, math.inf) if above else ours[-1]
        ours[0], ours[-1] = low, high
        ours = ours.clip(low, high)
        wide = np.flatnonzero(ours[1:] > ours[:-1])
        first, last = int(wide[0]), int(wide[-1])
        kept = logits[..., first : last + 1]
        inside = nn.functional.pad(kept, (below, above), value=-torch.inf)
        if first > 0:
            inside[..., below] = logits[..., : first + 1].logsumexp(-1)
        if last < logits.shape[-1] - 1:
            inside[..., -1 - above] = logits[..., last:].logsumexp(-1)
        # Bars without mass beyond the bounds get an arbitrary width.
        beyond = self.high - self.low
        ours = np.concatenate(
            ([low - beyond] * below, ours[first : last + 2], [high + beyond] * above)
        )
        return BarDistribution(inside, torch.from_numpy(ours), validate_args=False)
