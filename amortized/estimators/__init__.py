"""Estimators with scikit-learn's interface."""

from amortized.estimators.pfn_classifier import PFNClassifier
from amortized.estimators.pfn_regressor import PFNRegressor

__all__ = ["PFNClassifier", "PFNRegressor"]
