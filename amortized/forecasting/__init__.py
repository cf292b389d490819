"""Time series: forecasters, and models whose answers are exact: parts, lags, symbols."""

from amortized.forecasting.autoregression import Autoregression
from amortized.forecasting.forecast_report import ForecastReport
from amortized.forecasting.forecasters import PFNForecaster, StructuralForecaster
from amortized.forecasting.markov_chain import MarkovChain
from amortized.forecasting.structural_series import StructuralSeries

__all__ = [
    "Autoregression",
    "ForecastReport",
    "MarkovChain",
    "PFNForecaster",
    "StructuralForecaster",
    "StructuralSeries",
]
