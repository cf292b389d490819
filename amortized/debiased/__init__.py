"""Estimation from surrogate labels, debiased by gold-standard labels of a random sample."""

from amortized.debiased.regression import DebiasedEstimates, Estimate, debiased_regression

__all__ = ["DebiasedEstimates", "Estimate", "debiased_regression"]
