"""How well forecasts from earlier times did: errors, coverage and calibration by horizon."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from amortized.forecasting.series_groups import Group, groups
from amortized.series.candidates import Candidates, candidates
from amortized.series.predictive import SeriesPredictive

Array = NDArray[np.float64]
_LEAST = 8  # values before the first origin
_DOUBT = 1e-3  # p-value of uniform ranks at one step ahead


@dataclass(frozen=True)
class ForecastReport:
    """Forecasts from earlier origins and what came, one row an origin.

    Attributes:
        y: what came, ``(origins, h)``; NaN where missing.
        median: forecast medians, ``(origins, h)``.
        pit: probability that the forecast gave to at most y, ``(origins, h)``; of counts a random
            one between those of less than y and of at most y.
        scale: mean absolute change of each origin's past, over a season if it has one.
        series: number of each origin's series, ``(origins,)``.
    """

    y: Array
    median: Array
    pit: Array
    scale: Array
    series: NDArray[np.intp]

    @property
    def residuals(self) -> Array:
        """What came less the median, ``(origins, h)``."""
        return self.y - self.median

    @property
    def mase(self) -> Array:
        """Mean absolute scaled error of each step ahead, ``(h,)``."""
        return _mean(np.abs(self.residuals) / self.scale[:, None])

    def coverage(self, level: float = 0.9) -> Array:
        """Share of values inside the central interval of this level, ``(h,)``."""
        inside = np.abs(self.pit - 0.5) <= level / 2
        return _mean(np.where(np.isnan(self.pit), np.nan, inside))

    @property
    def p_value(self) -> float:
        """Of uniform ranks one step ahead (Kolmogorov and Smirnov); NaN if nothing came there."""
        first = self.pit[:, 0]  # origins are disjoint at this step
        first = first[~np.isnan(first)]
        return float(stats.kstest(first, "uniform").pvalue) if len(first) else np.nan

    @property
    def doubt(self) -> str:
        """What speaks against the forecasts; empty if nothing does."""
        if self.p_value < _DOUBT:
            return (
                f"One step ahead the ranks are not uniform (p = {self.p_value:.1g}): widths or "
                "medians are off for these series."
            )
        if np.isnan(self.p_value):
            return "All values one step ahead are missing, so that ranks there tell nothing."
        return ""

    def __str__(self) -> str:
        rows = [f"{len(self.y)} origins of {len(set(self.series.tolist()))} series", ""]
        rows += ["steps ahead   MASE   90% covers   50% covers"]
        for h, values in enumerate(
            zip(self.mase, self.coverage(0.9), self.coverage(0.5), strict=True), 1
        ):
            rows.append(f"{h:11d}  {values[0]:5.2f}  {values[1]:11.2f}  {values[2]:11.2f}")
        rows += ["", self.doubt or f"Ranks one step ahead are uniform (p = {self.p_value:.2g})."]
        return "\n".join(rows)

    def plot(self) -> Any:
        """Residuals by step, and the ranks of all steps; a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        steps = np.arange(1, self.y.shape[1] + 1)
        left.plot(steps, (self.residuals / self.scale[:, None]).T, color="C0", alpha=0.3, lw=0.7)
        left.axhline(0.0, color="k", lw=0.5)
        left.set(xlabel="steps ahead", ylabel="residual, scaled")
        right.hist(self.pit[~np.isnan(self.pit)], bins=10, range=(0, 1), density=True)
        right.axhline(1.0, color="k", lw=0.5)
        right.set(xlabel="rank of what came", ylabel="density")
        return figure


def backtest(
    values: Sequence[Array],
    periods: Sequence[tuple[float, ...]],
    decide: Callable[[Candidates, Group, Tensor], SeriesPredictive],
    h: int,
    n_origins: int,
    counts: bool = False,
) -> ForecastReport:
    """Forecast from the last origins that have h steps after them.

    Args:
        values: values of each series, NaN where missing.
        periods: periods of each series.
        decide: from models to a predictive, batch ``(B, H)``.
        h: steps ahead.
        n_origins: number of origins of each series.
        counts: whether the values are counts, which forecasts are rounded to.
    """
    pasts: list[Array] = []
    futures, owner, scale = [], [], []
    for i, series in enumerate(values):
        ends = [e for e in range(_LEAST, len(series) - h + 1) if not np.isnan(series[e - 1])]
        for end in ends[-n_origins:]:
            pasts.append(series[:end])
            futures.append(series[end : end + h])
            owner.append(i)
            scale.append(seasonal_change(series[:end], round(periods[i][0])))
    if not pasts:
        raise ValueError(
            f"Expected a series with {_LEAST + h} steps; got none. Ask for fewer steps ahead."
        )
    y, steps = torch.from_numpy(np.stack(futures)), torch.arange(1, h + 1)
    median, pit = torch.empty_like(y), torch.empty_like(y)
    with torch.no_grad():
        for group in groups(pasts, [periods[i] for i in owner]):
            found = candidates(group.y, group.seen, group.last, group.periods, h).strongest(64)
            law = decide(found, group, steps).pruned(64)
            half = law.icdf(torch.tensor(0.5, dtype=torch.float64))
            median[group.members] = half.round().clamp_min(0.0) if counts else half
            pit[group.members] = _rank(law, y[group.members], counts)
    return ForecastReport(
        y.numpy(), median.numpy(), pit.numpy(), np.array(scale), np.array(owner, dtype=np.intp)
    )


def _rank(law: SeriesPredictive, y: Tensor, counts: bool) -> Tensor:
    if not counts:
        return law.cdf(y)
    less = torch.where(y > 0, law.cdf(y - 0.5), 0.0)
    share = torch.rand(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    return less + share * (law.cdf(y + 0.5) - less)


def _mean(values: Array) -> Array:
    """Mean of each column over what is not missing."""
    return np.ma.masked_invalid(values).mean(0).filled(np.nan)


def seasonal_change(past: Array, period: int) -> float:
    """Mean absolute change over a period, the unit of the mean absolute scaled error."""
    if period >= len(past):
        period = 1
    change = np.abs(past[period:] - past[:-period])
    mean = float(np.nanmean(change)) if (~np.isnan(change)).any() else 0.0
    return mean if mean > 0 else 1.0
