"""Distributions over tasks: the interfaces here, and models grouped by kind in the subfolders."""

if __name__ == "priors":
    raise ImportError("Expected 'import amortized.priors'; got 'import priors'. Add 'amortized.'.")

from amortized.priors.curves.learning_curve import LearningCurvePrior
from amortized.priors.named import named_prior
from amortized.priors.prior import Prior
from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.scaled_gaussian_process import ScaledGaussianProcessPrior
from amortized.priors.series.series_prior import SeriesPrior
from amortized.priors.task import TaskBatch

__all__ = [
    "GaussianProcessPrior",
    "LearningCurvePrior",
    "LinearRegressionPrior",
    "Prior",
    "ProgramPrior",
    "ScaledGaussianProcessPrior",
    "SeriesPrior",
    "TaskBatch",
    "named_prior",
]
