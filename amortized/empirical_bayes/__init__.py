"""Parameters of a program without a prior, fitted by marginal likelihood."""

from amortized.empirical_bayes.fitting import FittedParameters, fit_parameters

__all__ = ["FittedParameters", "fit_parameters"]
