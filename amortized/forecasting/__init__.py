"""Time series by models whose answers are exact: their parts, their lags, their symbols."""

from amortized.forecasting.autoregression import Autoregression
from amortized.forecasting.markov_chain import MarkovChain
from amortized.forecasting.structural_series import StructuralSeries

__all__ = ["Autoregression", "MarkovChain", "StructuralSeries"]
