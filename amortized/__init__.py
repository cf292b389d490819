"""Write one prior; get its posterior in one forward pass, and the proof that you can trust it."""

from pathlib import Path

__version__ = "0.2.0"

# A checkout without links (on Windows they are text files) finds their folders beside this one.
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
from amortized.infer.compare import compare
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
    "compare",
    "infer",
    "load",
    "save",
    "train",
]
