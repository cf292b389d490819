"""Lookup of the prior that a network was trained on, for reports.

A released network names its prior. For other priors an import path is stored with the calibration,
but never code. It is resolved only in modules that are already loaded, so that a downloaded network
cannot cause any import.
"""

import inspect
import re
import sys
from types import FunctionType
from typing import Any

import torch
from torch import nn

from amortized.latent_priors.hyperprior import Hyperprior
from amortized.latent_priors.problems import PROBLEMS, named_tasks
from amortized.latent_priors.tasks import LatentTasks
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.named import PRIORS, named_prior
from amortized.priors.prior import Prior
from amortized.priors.program_prior import ProgramPrior

# module:variable, module:Class() or module:program(inputs=2)
_PATH = re.compile(r"([\w.]+):(\w+)(?:\((?:inputs=(\d+))?(\)))?")


def import_path(prior: Prior | LatentTasks) -> str | None:
    """The import path of a prior; None if it has none.

    Supported are a module-level Pyro program with standard normal inputs, a class without required
    arguments, and a prior stored in a variable of a module other than ``__main__``.

    Args:
        prior: a prior, as for `train`.

    Example:
        >>> from amortized.priors.simulators.epidemic import EpidemicPrior
        >>> import_path(EpidemicPrior())
        'amortized.priors.simulators.epidemic:EpidemicPrior()'
    """
    # `train` wraps the prior, and reports do the same.
    if isinstance(prior, ContextStandardised) or (
        isinstance(prior, LatentTasks) and prior.hyperprior == Hyperprior()
    ):
        prior = prior.prior
    program, inputs = (getattr(prior, name, None) for name in ("_program", "_draw_inputs"))
    if isinstance(program, FunctionType) and isinstance(inputs, int):
        path = f"{program.__module__}:{program.__qualname__}(inputs={inputs})"
    else:
        path = f"{type(prior).__module__}:{type(prior).__qualname__}()"
    return path if _same(prior, _at(path)) else _variable(prior)


def _variable(prior: Prior | LatentTasks) -> str | None:
    """The module variable that contains a prior; variables of scripts may change."""
    for name, module in list(sys.modules.items()):
        for variable, value in list(getattr(module, "__dict__", {}).items()):
            if value is prior and name != "__main__":
                return f"{name}:{variable}"
    return None


def trained_prior(network: nn.Module) -> Prior | LatentTasks | None:
    """The prior that a network was trained on; None if it has no name and is not loaded.

    Args:
        network: a network of this package.
    """
    config: Any = network.config
    name, calibration = config.prior, getattr(network, "calibration", None)
    if name in PRIORS:
        return named_prior(name)
    if name in PROBLEMS:
        return named_tasks(name)
    path = None if calibration is None else calibration.prior
    return None if path is None else _at(path)


def _at(path: str) -> Prior | LatentTasks | None:
    """The prior at an import path, if its module is loaded."""
    found = _PATH.fullmatch(path)
    module, name, inputs, called = found.groups() if found else (path, "", None, None)
    value = vars(sys.modules[module]).get(name) if module in sys.modules else None
    if called is None and isinstance(value, Prior | LatentTasks):
        return value
    if inputs is not None and isinstance(value, FunctionType):
        is_program = "y" in inspect.signature(value).parameters
        return ProgramPrior(value, int(inputs)) if is_program else None
    if called and inputs is None and inspect.isclass(value) and issubclass(value, Prior):
        try:
            return value()
        except (TypeError, ValueError):  # it needs arguments
            return None
    return None


def _same(prior: Any, other: Any) -> bool:
    """Whether two priors draw identical tasks."""
    if type(prior) is not type(other):
        return False
    try:
        one, two = (each.sample(1, 3, 1, seed=0) for each in (prior, other))
    except ValueError:  # a prior of larger tasks
        return False
    return torch.equal(one.y_context, two.y_context) and torch.equal(one.x_context, two.x_context)
