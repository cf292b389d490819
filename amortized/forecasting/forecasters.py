r"""Forecasters of series: an exact average of models, and a network that corrects it.

Both read a series through the same models (`amortized.series`): structural models on a grid of
signal-to-noise ratios, and autoregressions, of y and of log y. `StructuralForecaster` weighs their
forecasts by their evidence, which is exact. `PFNForecaster` gives the forecasts and the evidence to
a network that was trained on series of many kinds, and knows what no model among them knows.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.forecasting.covariate_effects import Effects, covariate_effects
from amortized.forecasting.forecast_report import ForecastReport, backtest
from amortized.forecasting.series_groups import Group, groups, shown_periods
from amortized.forecasting.times.series_table import FEWEST, row_labels, series_table
from amortized.networks import SeriesPFN
from amortized.pretrained import load
from amortized.seeding import seeded
from amortized.series.candidates import Candidates, candidates
from amortized.series.paths import joint_draws
from amortized.series.predictive import SeriesPredictive
from amortized.validation import quantile_levels, whole_number

Array = NDArray[np.float64]
_KEPT = 64  # components of a predictive


@dataclass(eq=False, repr=False, kw_only=True)
class StructuralForecaster(BaseEstimator):
    """Forecasts by exact state-space models and autoregressions, averaged by their evidence.

    Levels, slopes that may fade, seasons that may change, and lags compete, each with exact Kalman
    filters and the scale integrated out; nothing is trained or optimised. Missing values are
    integrated out. Many series are answered in one call.

    Parameters:
        period: period of the season in steps, or several; None takes those of the calendar if times
            are dates (12 of months, 7 of days, 24 and 168 of hours), and no season otherwise.
            Periods that a series does not show nearly twice are left out.
        counts: whether values are counts: answers are then whole and not negative.
        max_steps: steps of each series that are read, the last ones.
        random_state: random state of `sample_paths`.

    Attributes:
        periods_: periods of each series.
        n_series_: how many.
        columns_: their names, if a frame had them.

    References:
        Bayesian forecasting and dynamic models (West and Harrison, 1997).

    Example:
        >>> y = np.tile([1.0, 2.0, 3.0, 4.0], 6) + 0.01 * np.arange(24)
        >>> forecaster = StructuralForecaster(period=4).fit(y)
        >>> forecaster.predict(4).round(1)
        array([1.2, 2.2, 3.3, 4.3])
    """

    period: float | tuple[float, ...] | None = None
    counts: bool = False
    max_steps: int = 2048
    random_state: int | np.random.RandomState | None = 0

    def fit(
        self, y: ArrayLike, X: ArrayLike | None = None, t: Any = None
    ) -> "StructuralForecaster":
        """Stores the series; the models are run when a forecast is requested.

        Args:
            y: one series, ``(n,)``; several as columns, ``(n, n_series)``; a pandas series or
                frame, whose index holds dates or numbers in equal steps; or a list of series.
                NaN is missing.
            X: covariates of one series that are known in the future, ``(n, n_features)``; if it
                and y have an index each, they must be the same.
            t: times of the rows, numbers or dates, all multiples of one step apart; steps between
                them are missing values. None takes the index, or one step after the other.

        Raises:
            ValueError: if times come twice or are no multiples of a step; if a series has fewer
                than three values; or if counts are negative.

        Warns:
            UserWarning: if a series is longer than ``max_steps``; its last steps are read.
        """
        self._check_parameters()
        table = series_table(y, t, counts=self.counts)
        self._single, self.columns_, self._grids = table.single, table.names, table.grids
        self._listed = table.listed
        longest = max(map(len, table.values))
        if longest > self.max_steps:
            warnings.warn(
                f"Expected at most {self.max_steps:,} steps; got {longest:,}. The last "
                f"{self.max_steps:,} are read; max_steps says how many.",
                stacklevel=2,
            )
        self._values = [_read_part(v, int(self.max_steps)) for v in table.values]
        self.n_series_ = len(self._values)
        self.periods_ = [
            shown_periods(self._periods(grid.periods), len(v))
            for grid, v in zip(self._grids, self._values, strict=True)
        ]
        rows, rows_of_x = row_labels(y), row_labels(X)
        if rows is not None and rows_of_x is not None and not rows.equals(rows_of_x):
            raise ValueError("Expected the index of X to be that of y; got others. Align them.")
        self._effects = None if X is None else self._covariates(X)
        return self

    def _check_parameters(self) -> None:
        one = 1.0 if self.period is None else self.period
        given = one if isinstance(one, tuple | list) else (one,)
        numbers = all(isinstance(p, Real) and 1 <= p < np.inf for p in given)
        if not numbers or not 1 <= len(given) <= 3:
            raise ValueError(
                f"Expected period as one to three numbers >= 1, or None; got {self.period!r}."
            )
        whole_number("max_steps", self.max_steps, 8)

    def _periods(self, of_calendar: tuple[float, ...]) -> tuple[float, ...]:
        if self.period is None:
            return of_calendar
        given = self.period if isinstance(self.period, tuple | list) else (self.period,)
        return tuple(sorted(float(p) for p in given))

    def _covariates(self, X: ArrayLike) -> Effects:
        if self.n_series_ != 1:
            raise ValueError(
                f"Expected one series with covariates; got {self.n_series_}. Fit one forecaster "
                "for each."
            )
        x, grid = as_tensor(X, "X"), self._grids[0]
        if x.ndim != 2 or len(x) != len(grid.order):
            raise ValueError(
                f"Expected X of shape ({len(grid.order)}, n_features), a row for each value; got "
                f"{tuple(x.shape)}."
            )
        full = torch.zeros(int(grid.place[-1]) + 1, x.shape[1], dtype=x.dtype)
        full[grid.place] = x[grid.order]
        y = torch.from_numpy(self._values[0])
        last = int(np.flatnonzero(~np.isnan(self._values[0]))[-1])
        full = full[len(full) - len(y) :]
        y, full = y[: last + 1], full[: last + 1]
        if x.shape[1] > int((~y.isnan()).sum()) - FEWEST:
            raise ValueError(
                f"Expected at least {FEWEST} values more than columns of X; got "
                f"{int((~y.isnan()).sum())} values and {x.shape[1]} columns. Leave columns out."
            )
        effects = covariate_effects(y.nan_to_num(0.0), ~y.isnan(), full, self.periods_[0])
        self._values[0] = self._values[0].copy()
        self._values[0][: last + 1] -= effects.shift(full).numpy()
        return effects

    def _decide(self, found: Candidates, group: Group, steps: Tensor) -> SeriesPredictive:
        """The predictive of some steps, batch ``(B, H)``."""
        weight = found.log_evidence.log_softmax(-1)[:, None]
        loc, scale = (part[..., steps - 1].mT for part in (found.loc, found.scale))
        dof = found.dof[:, None, None].expand(-1, len(steps), 1)
        return SeriesPredictive(weight, loc, scale, found.is_log[:, None], dof)

    def _answers(
        self, h: int, X: ArrayLike | None
    ) -> Iterator[tuple[Group, Candidates, SeriesPredictive, Tensor]]:
        """For each group: what the models say, and the predictive of its steps."""
        check_is_fitted(self)
        h = whole_number("h, the steps ahead,", h)
        shift = self._shift(h, X)
        for group in groups(self._values, self.periods_):
            steps = torch.arange(1, h + 1) + group.late
            with torch.no_grad():
                found = candidates(group.y, group.seen, group.last, group.periods, int(steps[-1]))
                if shift is not None:  # effects add up in y, not in log y
                    found = _moved(found, *shift, steps)
                found = found.strongest(_KEPT)
                yield group, found, self._decide(found, group, steps), steps

    def _shift(self, h: int, X: ArrayLike | None) -> tuple[Tensor, Tensor] | None:
        if self._effects is None:
            if X is not None:
                raise ValueError("Expected no X, as fit had none.")
            return None
        n_features = len(self._effects.centre)
        x = None if X is None else as_tensor(X, "X")
        if x is None or x.shape != (h, n_features):
            raise ValueError(
                f"Expected X of shape ({h}, {n_features}), the covariates of the steps to come; "
                f"got {None if x is None else tuple(x.shape)}."
            )
        labels = row_labels(X)
        if type(labels).__name__ in ("DatetimeIndex", "PeriodIndex"):
            expected = self.future_index(h)
            if type(expected) is type(labels) and not labels.equals(expected):
                raise ValueError(
                    f"Expected rows of X at the steps to come, from {expected[0]} to "
                    f"{expected[-1]}; got from {labels[0]} to {labels[-1]}."
                )
        return self._effects.shift(x), self._effects.variance(x)

    def predict_distribution(self, h: int, X: ArrayLike | None = None) -> SeriesPredictive:
        """The predictive of each of the next h steps.

        Args:
            h: steps ahead.
            X: covariates of these steps, if `fit` had some, ``(h, n_features)``.

        Returns:
            A distribution of batch shape ``(h,)``, or ``(h, n_series)``. Of counts it is that of
            the values before they are rounded.
        """
        parts = [(group.members, law.pruned(_KEPT)) for group, _, law, _ in self._answers(h, X)]
        size = max(law.loc.shape[-1] for _, law in parts)
        parts = [(members, law.padded(size)) for members, law in parts]
        order = torch.tensor([i for members, _ in parts for i in members]).argsort()
        names = ("log_weights", "loc", "scale", "is_log", "dof")
        joined = [
            None
            if getattr(parts[0][1], name) is None
            else torch.cat([getattr(law, name) for _, law in parts])[order].transpose(0, 1)
            for name in names
        ]
        if self._single:
            joined = [None if part is None else part[:, 0] for part in joined]
        return SeriesPredictive(*joined)  # type: ignore[arg-type]

    def predict(self, h: int, X: ArrayLike | None = None) -> Array:
        """Medians of the next h steps, ``(h,)`` or ``(h, n_series)``.

        Args:
            h: steps ahead.
            X: as for `predict_distribution`.
        """
        return self.predict_quantiles(h, 0.5, X)[..., 0]

    def predict_quantiles(
        self, h: int, q: ArrayLike = (0.1, 0.5, 0.9), X: ArrayLike | None = None
    ) -> Array:
        """Quantiles of the next h steps, ``(h, len(q))`` or ``(h, n_series, len(q))``.

        Args:
            h: steps ahead.
            q: levels, each strictly between 0 and 1.
            X: as for `predict_distribution`.

        Raises:
            ValueError: if a level is out of range.
        """
        levels, law = quantile_levels(q), self.predict_distribution(h, X)
        found = law.icdf(levels.reshape(-1, *(1 for _ in law.batch_shape)))
        return self._as_counts(found.movedim(0, -1)).numpy()

    def sample_paths(
        self,
        h: int,
        n: int = 100,
        X: ArrayLike | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> Array:
        """Joint draws of the next h steps, ``(n, h)`` or ``(n, h, n_series)``.

        Each step of a path has the distribution of `predict_distribution`; its steps depend on
        each other as those of the models. Series are independent of each other.

        Args:
            h: steps ahead.
            n: paths.
            X: as for `predict_distribution`.
            random_state: as in scikit-learn; None takes the estimator's own.
        """
        n, h = whole_number("n", n), whole_number("h, the steps ahead,", h)
        chosen = self.random_state if random_state is None else random_state
        seed = int(check_random_state(chosen).randint(2**31 - 1))
        paths = torch.empty(n, h, self.n_series_, dtype=torch.float64)
        with seeded(seed):
            for group, found, law, steps in self._answers(h, X):
                for row, i in enumerate(group.members):
                    pattern = group.seen[row if len(group.seen) > 1 else 0]
                    seen = pattern[None, : int(group.last[row]) + 1]
                    paths[..., i] = joint_draws(law, found, row, seen, group.periods, steps, n)
        paths = self._as_counts(paths)
        return (paths[..., 0] if self._single else paths).numpy()

    def _as_counts(self, y: Tensor) -> Tensor:
        return y.round().clamp_min(0.0) + 0.0 if self.counts else y  # without negative zeros

    def future_index(self, h: int) -> Any:
        """The times of the next h steps, in the units of ``t`` or of the index.

        Args:
            h: steps ahead.

        Returns:
            An array or an index; a list of them if the series were given as a list.
        """
        check_is_fitted(self)
        h = whole_number("h, the steps ahead,", h)
        return [g.future(h) for g in self._grids] if self._listed else self._grids[0].future(h)

    def report(self, h: int = 8, n_origins: int = 20) -> ForecastReport:
        """Forecast from earlier times, and compare with what came.

        Args:
            h: steps ahead.
            n_origins: times of each series, the last that have h values after them.

        Raises:
            ValueError: if the series are too short, or have covariates.
        """
        check_is_fitted(self)
        if self._effects is not None:
            raise ValueError("Expected a forecaster without covariates.")
        h, n_origins = whole_number("h", h), whole_number("n_origins", n_origins)
        return backtest(self._values, self.periods_, self._decide, h, n_origins, self.counts)


class PFNForecaster(StructuralForecaster):
    """Forecasts by a pretrained network that reads the exact models of `StructuralForecaster`.

    The network gives every model and step a weight, a shift and a width. It was trained on series
    of many kinds (`SeriesPrior`) of up to 512 steps, and knows what the models lack: that their
    forecasts far ahead are too sure, that levels break, that tails are heavy.

    Parameters:
        network: name of a pretrained network, folder of a saved one, or a ``SeriesPFN``.
        period: as in `StructuralForecaster`.
        counts: as in `StructuralForecaster`.
        max_steps: as in `StructuralForecaster`; the network was trained on up to 512.
        random_state: random state of `sample_paths`.

    References:
        | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510

    Example:
        >>> y = np.sin(2 * np.pi * np.arange(48) / 12) + 3
        >>> low, middle, high = PFNForecaster(period=12).fit(y).predict_quantiles(3).T
        >>> bool((low < middle).all() and (middle < high).all())
        True
    """

    def __init__(
        self,
        network: str | Path | SeriesPFN = "series",
        *,
        period: float | tuple[float, ...] | None = None,
        counts: bool = False,
        max_steps: int = 512,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        super().__init__(
            period=period, counts=counts, max_steps=max_steps, random_state=random_state
        )
        self.network = network

    def fit(self, y: ArrayLike, X: ArrayLike | None = None, t: Any = None) -> "PFNForecaster":
        network = self.network if isinstance(self.network, SeriesPFN) else load(self.network)
        if not isinstance(network, SeriesPFN):
            raise ValueError(
                f"Expected a SeriesPFN, a network that forecasts; network={self.network!r} is a "
                f"{type(network).__name__}. Take 'series'."
            )
        self.network_ = network.eval()
        super().fit(y, X, t)
        return self

    def _decide(self, found: Candidates, group: Group, steps: Tensor) -> SeriesPredictive:
        with torch.no_grad():
            return self.network_.decide(
                found, group.y, group.seen, group.last, group.periods, steps
            )


def _read_part(values: Array, most: int) -> Array:
    """The last steps of a series, from the first that has a value."""
    values = values[-most:]
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < FEWEST:
        raise ValueError(
            f"Expected at least {FEWEST} values among the last {most:,} steps of each series; got "
            f"{len(known)}. Give a larger max_steps, or leave out times that are far apart."
        )
    return values[int(known[0]) :]


def _moved(found: Candidates, shift: Tensor, variance: Tensor, steps: Tensor) -> Candidates:
    """The models of y with the effects of covariates, and no models of log y."""
    loc, scale = found.loc.clone(), found.scale.clone()
    loc[..., steps - 1] += shift
    scale[..., steps - 1] = (scale[..., steps - 1].square() + variance).sqrt()
    evidence = found.log_evidence.masked_fill(found.is_log, -torch.inf)
    return replace(found, loc=loc, scale=scale, log_evidence=evidence)
