"""Forecasts of time series: exact models of their parts, and a forecaster for any series."""

from amortized.forecasting.autoregression import Autoregression
from amortized.forecasting.structural_series import StructuralSeries

__all__ = ["Autoregression", "StructuralSeries"]
