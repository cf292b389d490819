"""The interface of every prior: a pure function from a seed to a batch of tasks."""

from abc import ABC, abstractmethod
from typing import Literal

import torch

from amortized.priors.task import TaskBatch
from amortized.program.vectorised import precision
from amortized.seeding import seeded
from amortized.validation import whole_number

Units = Literal["raw", "standardised"]
"""Units of a prior's tasks: natural units, or standardised data."""


class Prior(ABC):
    """A distribution over tasks.

    To write a new prior, implement ``_sample`` and draw from torch's global generator; the public
    ``sample`` seeds it and restores its state. Draw ``n_context + n_query`` rows together and pass
    them to ``split`` as the last step. A prior with an exact answer provides it as
    ``posterior_predictive(batch)``. Tasks are float32, whatever torch's default dtype is.

    Attributes:
        units: "raw" if inputs and targets have units of their own, so that a network trained on the
            prior reads a user's numbers unchanged; "standardised" if the prior describes
            standardised data, so that a user's data are standardised first.
    """

    units: Units = "raw"

    def sample(
        self,
        n_tasks: int,
        n_context: int,
        n_query: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> TaskBatch:
        """Draws tasks; the result depends on the arguments only.

        Args:
            n_tasks: number of tasks, at least 1.
            n_context: rows with known targets, 0 or more.
            n_query: rows to be predicted, 0 or more.
            seed: any integer; equal seeds give equal tasks on the same kind of device.
            device: device on which the tasks are drawn and returned.

        Raises:
            ValueError: if a count is out of range.
        """
        n_tasks = whole_number("n_tasks", n_tasks)
        n_context = whole_number("n_context", n_context, 0)
        n_query = whole_number("n_query", n_query, 0)
        device = torch.device(device)
        with precision(torch.float32), seeded(seed), torch.no_grad(), device:
            return self._sample(n_tasks, n_context, n_query)

    @abstractmethod
    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        """Draws tasks on torch's current default device."""


def split(
    x: torch.Tensor, y: torch.Tensor, n_context: int, latents: dict[str, torch.Tensor] | None = None
) -> TaskBatch:
    """Splits rows into a batch: the first ``n_context`` are the context, the others the query.

    Args:
        x: inputs, ``(batch, context + query, features)``.
        y: targets, ``(batch, context + query)``.
        n_context: number of context rows.
        latents: the latents behind the rows, each ``(batch, ...)``.
    """
    return TaskBatch(
        x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:], latents
    )
