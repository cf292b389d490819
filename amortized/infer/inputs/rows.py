"""The shape of one dataset of a program, determined from its own observation."""

import torch
from torch import Tensor

from amortized.priors.prior import Prior
from amortized.program.vectorised import Program, precision, quiet_program, run_program
from amortized.seeding import seeded


def program_of(model: Program | Prior) -> Program:
    """The Pyro program of a model.

    Raises:
        ValueError: if it has none.
    """
    program = model.model if hasattr(model, "model") else model
    if not callable(program) or isinstance(program, Prior):
        raise ValueError(
            "Expected a Pyro program, or a prior with one as its method 'model'; got "
            f"{type(model).__name__}."
        )
    return program


def is_one_dataset(model: Program | Prior, y: Tensor) -> bool:
    """Whether observations without inputs are one dataset, rather than a batch of datasets.

    The program is run on as many rows, and its observation has the shape of one dataset. If it
    matches neither interpretation, the first dimension is taken as the batch.

    Args:
        model: the Pyro program, or a prior with one.
        y: observations with at least two dimensions.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def points(x, y=None):
        ...     mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("rows", len(x)):
        ...         return pyro.sample("y", dist.Normal(mean, 1.0).to_event(1), obs=y)
        >>> is_one_dataset(points, torch.zeros(30, 2)), is_one_dataset(points, torch.zeros(5, 3, 2))
        (True, False)
    """
    program = program_of(model)
    return _drawn_shape(program, y) == y.shape and _drawn_shape(program, y[0]) != y.shape[1:]


def _drawn_shape(program: Program, y: Tensor) -> torch.Size | None:
    """The shape of site "y" for as many rows as y has; None if the program fails."""
    with quiet_program(), seeded(0):
        try:
            with precision(y.dtype):
                return run_program(program, y.new_zeros(len(y), 0))["y"].shape
        except Exception:  # a failing program is rejected when its density is built
            return None
