"""Estimators with scikit-learn's interface."""

from typing import TYPE_CHECKING

from amortized.estimators.bayesian import BayesianClassifier, BayesianRegressor
from amortized.estimators.columns.pfn_density import PFNDensity
from amortized.estimators.columns.pfn_imputer import PFNImputer
from amortized.estimators.curves.early_stopping import EarlyStopping, survivors
from amortized.estimators.curves.learning_curve_regressor import LearningCurveRegressor
from amortized.estimators.prototype_classifier import PrototypeClassifier
from amortized.estimators.tabular.pfn_attribution import ShapleyValues, shapley_values
from amortized.estimators.tabular.pfn_classifier import PFNClassifier
from amortized.estimators.tabular.pfn_regressor import PFNRegressor
from amortized.estimators.tabular.pfn_tables import predict_tables
from amortized.lazy import lazily

if TYPE_CHECKING:
    from amortized.estimators.curves.early_stopping_callback import EarlyStoppingCallback
else:
    __getattr__, __dir__ = lazily(
        __name__, {"EarlyStoppingCallback": "amortized.estimators.curves.early_stopping_callback"}
    )

__all__ = [
    "BayesianClassifier",
    "BayesianRegressor",
    "EarlyStopping",
    "EarlyStoppingCallback",
    "LearningCurveRegressor",
    "PFNClassifier",
    "PFNDensity",
    "PFNImputer",
    "PFNRegressor",
    "PrototypeClassifier",
    "ShapleyValues",
    "predict_tables",
    "shapley_values",
    "survivors",
]
