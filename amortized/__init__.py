"""Bayesian inference in one forward pass, from a prior you write, with checks of the answer."""

import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# Without symbolic links (on Windows they are text files) the folders lie next to this one.
if not Path(__file__).with_name("priors").is_dir():
    __path__.append(str(Path(__file__).resolve().parent.parent))

from amortized.lazy import lazily

if TYPE_CHECKING:
    from amortized.diagnostics import report
    from amortized.empirical_bayes import fit_parameters
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
else:
    __getattr__, __dir__ = lazily(
        __name__,
        {
            "BayesianClassifier": "amortized.estimators",
            "BayesianRegressor": "amortized.estimators",
            "EarlyStopping": "amortized.estimators",
            "LearningCurveRegressor": "amortized.estimators",
            "PFNClassifier": "amortized.estimators",
            "PFNRegressor": "amortized.estimators",
            "Posterior": "amortized.posterior",
            "available": "amortized.pretrained",
            "compare": "amortized.infer.compare",
            "fit_parameters": "amortized.empirical_bayes",
            "infer": "amortized.infer",
            "load": "amortized.pretrained",
            "report": "amortized.diagnostics",
            "save": "amortized.pretrained",
            "train": "amortized.training",
        },
    )


class _Package(ModuleType):
    """Keeps `amortized.infer` the function, whoever imports the package of that name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "infer" and isinstance(value, ModuleType):
            value = value.infer
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

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
    "fit_parameters",
    "infer",
    "load",
    "report",
    "save",
    "train",
]
