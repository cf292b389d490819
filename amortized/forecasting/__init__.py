"""Forecasts of time series: exact models of their parts, and a forecaster for any series."""

from amortized.forecasting.autoregression import Autoregression
from amortized.forecasting.markov_chain import MarkovChain
from amortized.forecasting.structural_series import StructuralSeries

__all__ = ["Autoregression", "MarkovChain", "StructuralSeries"]
