"""The pretrained forecaster as an estimator of sktime, for its pipelines, tuning and evaluation.

sktime is optional (extra ``sktime``): without it this module can be imported, but making an
`SktimeForecaster` raises an error.

References:
    sktime: a unified interface for machine learning with time series (Loening et al., 2019).
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from amortized.forecasting.forecasters import PFNForecaster
from amortized.networks import SeriesPFN

try:
    from sktime.forecasting.base import BaseForecaster
except ImportError:

    class BaseForecaster:  # type: ignore[no-redef]
        """Stands for sktime's base class where it is not installed."""

        def __init__(self) -> None:
            raise ImportError(
                "Expected sktime for SktimeForecaster; it is not installed. Install it with "
                "pip install 'amortized[sktime]', or take PFNForecaster."
            )


class SktimeForecaster(BaseForecaster):
    """`PFNForecaster` with sktime's conventions.

    Point forecasts are medians. Panels, hierarchies and several columns are forecast one series at
    a time, as sktime does; `PFNForecaster` answers many in one call. ``update`` adds the new values
    to the series, as nothing is trained.

    Parameters:
        network: as in `PFNForecaster`.
        period: as in `PFNForecaster`.
        counts: as in `PFNForecaster`.
        max_steps: as in `PFNForecaster`.

    Raises:
        ImportError: if sktime is not installed.

    Example:
        >>> from sktime.datasets import load_airline  # doctest: +SKIP
        >>> forecaster = SktimeForecaster(period=12).fit(load_airline())  # doctest: +SKIP
        >>> forecaster.predict(fh=[1, 2, 12])  # doctest: +SKIP
    """

    _tags = {
        "authors": ["The amortized maintainers"],
        "y_inner_mtype": "pd.Series",
        "X_inner_mtype": "pd.DataFrame",
        "requires-fh-in-fit": False,
        "X-y-must-have-same-index": True,
        "capability:multivariate": False,
        "capability:exogenous": True,
        "capability:insample": False,
        "capability:pred_int": True,
        "capability:pred_int:insample": False,
        "capability:missing_values": True,
        "capability:categorical_in_X": False,
        "capability:update": True,
    }

    def __init__(
        self,
        network: str | Path | SeriesPFN = "series",
        period: float | tuple[float, ...] | None = None,
        counts: bool = False,
        max_steps: int = 512,
    ) -> None:
        self.network = network
        self.period = period
        self.counts = counts
        self.max_steps = max_steps
        super().__init__()

    def _fit(self, y: Any, X: Any, fh: Any) -> "SktimeForecaster":
        self._past, self._known = y, None if X is None else X.loc[y.index]
        self.forecaster_ = PFNForecaster(
            self.network, period=self.period, counts=self.counts, max_steps=self.max_steps
        ).fit(y, self._known, t=y.index)
        return self

    def _update(self, y: Any, X: Any = None, update_params: bool = True) -> "SktimeForecaster":
        if not update_params:
            return self
        past, known = y.combine_first(self._past).rename(self._past.name), self._known
        if known is not None and X is not None:
            known = X.combine_first(known)[known.columns]
        return self._fit(past, known, None)

    def _steps(self, fh: Any) -> tuple[Any, NDArray[np.intp]]:
        """The stamps of a horizon, and how many steps after the series each is."""
        import pandas  # type: ignore[import-untyped]

        stamps = fh.to_absolute_index(self.cutoff)
        h = len(stamps)
        while (ahead := pandas.Index(self.forecaster_.future_index(h)))[-1] < stamps.max():
            h *= 2
        steps = ahead.get_indexer(stamps) + 1
        if (steps < 1).any():
            raise ValueError(
                f"Expected a horizon at the steps of the series after its last, from {ahead[0]}; "
                f"got {stamps[int(steps.argmin())]}."
            )
        return stamps, steps

    def _quantiles(self, fh: Any, X: Any, levels: Any) -> tuple[Any, NDArray[np.float64]]:
        stamps, steps = self._steps(fh)
        h, rows = int(steps.max()), None
        if self._known is not None:
            absent = stamps if X is None else stamps.difference(X.index)
            if len(absent):
                raise ValueError(f"Expected X at the times of the horizon; {absent[0]} is absent.")
            rows = np.zeros((h, X.shape[1]))  # only rows at the horizon have a part in the answer
            rows[steps - 1] = X.loc[stamps, self._known.columns]
        return stamps, self.forecaster_.predict_quantiles(h, levels, rows)[steps - 1]

    def _predict(self, fh: Any, X: Any) -> Any:
        import pandas

        stamps, medians = self._quantiles(fh, X, [0.5])
        return pandas.Series(medians[:, 0], index=stamps, name=self._past.name)

    def _predict_quantiles(self, fh: Any, X: Any, alpha: Any) -> Any:
        import pandas

        stamps, values = self._quantiles(fh, X, alpha)
        columns = pandas.MultiIndex.from_product([self._get_varnames(), alpha])
        return pandas.DataFrame(values, index=stamps, columns=columns)

    def _predict_interval(self, fh: Any, X: Any, coverage: Any) -> Any:
        import pandas

        levels = [0.5 + side * each / 2 for each in coverage for side in (-1, 1)]
        stamps, values = self._quantiles(fh, X, levels)
        ends = [self._get_varnames(), coverage, ["lower", "upper"]]
        return pandas.DataFrame(values, stamps, pandas.MultiIndex.from_product(ends))

    @classmethod
    def get_test_params(cls, parameter_set: str = "default") -> list[dict[str, Any]]:
        """Parameters with which sktime's checks make the estimator."""
        return [{}, {"period": 12, "max_steps": 64}]
