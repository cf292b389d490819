"""Forecasting with exact models: structural time series, autoregressions and Markov chains."""

from amortized.forecasting.autoregression import Autoregression
from amortized.forecasting.markov_chain import MarkovChain
from amortized.forecasting.structural_series import StructuralSeries

__all__ = ["Autoregression", "MarkovChain", "StructuralSeries"]
