"""The contract of every prior: a pure function from a seed to a batch of tasks."""

from abc import ABC, abstractmethod
from typing import Literal

import torch

from amortized.priors.task import TaskBatch
from amortized.program.vectorised import precision
from amortized.seeding import seeded

Units = Literal["raw", "standardised"]
"""What the numbers of a prior's tasks are: natural ones, as they are, or standardised data."""


class Prior(ABC):
    """A distribution over tasks.

    To write a new prior, implement ``_sample``: draw freely, as from torch's global generator; the
    public ``sample`` sees to it that a seeded one is drawn from. Draw ``n_context + n_query`` rows
    together and give them to ``split`` as the last step. A prior that knows an exact answer offers
    it as ``posterior_predictive(batch)``. Tasks are float32, whatever torch's default dtype is.

    Attributes:
        units: "raw" where inputs and answers have units of their own, so that a network that was
            trained on the prior reads a user's numbers as they are; "standardised" where the prior
            is one of data that were standardised, so that a user's are standardised first.
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
        """Draw tasks; the result depends on the arguments alone.

        Args:
            n_tasks: tasks in the batch, at least 1.
            n_context: rows with known answers, 0 or more.
            n_query: rows to be answered, 0 or more.
            seed: any integer; equal seeds give equal tasks on the same kind of device.
            device: where the tasks are drawn and returned.

        Raises:
            ValueError: if a count is out of range.
        """
        for name, value, least in (
            ("n_tasks", n_tasks, 1),
            ("n_context", n_context, 0),
            ("n_query", n_query, 0),
        ):
            if int(value) != value or value < least:
                raise ValueError(f"Expected {name} to be an integer >= {least}; got {value!r}.")
        device = torch.device(device)
        with precision(torch.float32), seeded(seed), torch.no_grad(), device:
            return self._sample(int(n_tasks), int(n_context), int(n_query))

    @abstractmethod
    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        """Draw tasks on torch's current default device."""


def split(
    x: torch.Tensor,
    y: torch.Tensor,
    n_context: int,
    latents: dict[str, torch.Tensor] | None = None,
) -> TaskBatch:
    """Make a batch whose first ``n_context`` rows are the context, the others the query.

    Args:
        x: inputs, ``(batch, context + query, features)``.
        y: answers, ``(batch, context + query)``.
        n_context: rows that become context.
        latents: what generated the rows, each ``(batch, ...)``.
    """
    return TaskBatch(
        x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:], latents
    )
