"""Priors written as Pyro programs: one definition for sampling tasks and for their density."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.prior import Prior, split
from amortized.priors.task import TaskBatch
from amortized.program.vectorised import Program, run_programs
from amortized.validation import whole_number

Inputs = Callable[[int, int], Tensor]


class ProgramPrior(Prior):
    """The prior defined by a Pyro program.

    The program ``model(x, y=None)`` describes one dataset: ``x`` has shape ``(n, n_features)``, and
    the sample site ``"y"`` of shape ``(n,)`` is the observation. All other sample sites are
    latents. A program without covariates takes ``n`` from ``x.shape[0]`` and leaves ``n_features``
    at 0. All tasks are drawn in one vectorised run; a program that cannot be vectorised runs task
    by task, with a warning.

    To write a prior as a class, define ``model`` as a method, and ``_inputs`` if the inputs are not
    standard normal.

    Args:
        model: the Pyro program.
        inputs: how inputs are drawn: a number of features, which are standard normal, or a function
            ``(n_tasks, n_rows) -> (n_tasks, n_rows, n_features)``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def line(x, y=None):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(slope * x[:, 0], 0.1).to_event(1), obs=y)
        >>> batch = ProgramPrior(line, inputs=1).sample(4, 10, 2, seed=0)
        >>> batch.n_tasks, batch.latents["slope"].shape
        (4, torch.Size([4]))
    """

    def __init__(self, model: Program | None = None, inputs: Inputs | int = 0) -> None:
        if model is None and type(self).model is ProgramPrior.model:
            raise ValueError(
                "Expected a Pyro program as model; got None. Give ProgramPrior(model, inputs), or "
                "define model(self, x, y=None) in a subclass."
            )
        if model is not None and not callable(model):
            raise TypeError(f"Expected a Pyro program, a function (x, y=None); got {model!r}.")
        self._program = model
        number = "inputs, where not a function,"
        self._draw_inputs = inputs if callable(inputs) else whole_number(number, inputs, 0)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor | None:
        """The Pyro program for one dataset."""
        assert self._program is not None
        return self._program(x, y)

    def _inputs(self, n_tasks: int, n_rows: int) -> Tensor:
        """Draws the inputs of all tasks, ``(n_tasks, n_rows, n_features)``."""
        if callable(self._draw_inputs):
            return self._draw_inputs(n_tasks, n_rows)
        return torch.randn(n_tasks, n_rows, self._draw_inputs)

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        n_rows = n_context + n_query
        x = self._inputs(n_tasks, n_rows)
        if x.ndim != 3 or x.shape[:2] != (n_tasks, n_rows):
            raise ValueError(
                f"Expected inputs({n_tasks}, {n_rows}) of shape ({n_tasks}, {n_rows}, n_features); "
                f"got {tuple(x.shape)}."
            )
        sites = run_programs(self.model, x)
        if "y" not in sites:
            raise ValueError(
                f"Expected the program to have a sample site 'y'; got {sorted(sites)}. Name the "
                "observation: pyro.sample('y', ..., obs=y)."
            )
        y = sites.pop("y")
        if y.shape != (n_tasks, n_rows):
            raise ValueError(
                f"Expected the site 'y' of shape ({n_rows},), one target per row; got "
                f"{tuple(y.shape[1:])}. Draw it inside a plate of that size or with to_event."
            )
        return split(x, y.to(x.dtype), n_context, sites)
