"""Bayesian inference in one forward pass, from a prior you write, with checks of the answer."""

from pathlib import Path

__version__ = "0.2.0"

# Without symbolic links (on Windows they are text files) the folders lie next to this one.
if not Path(__file__).with_name("priors").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

from amortized.estimators import (
    BayesianClassifier,
    BayesianRegressor,
    EarlyStopping,
    LearningCurveRegressor,
    PFNClassifier,
    PFNRegressor,
)
from amortized.infer import infer
from amortized.posterior import Posterior
from amortized.pretrained import available, load, save
from amortized.training import train

__all__ = [
    "BayesianClassifier",
    "BayesianRegressor",
    "EarlyStopping",
    "LearningCurveRegressor",
    "PFNClassifier",
    "PFNRegressor",
    "Posterior",
    "available",
    "infer",
    "load",
    "save",
    "train",
]
