"""Tasks: a context with known targets, a query to be predicted, and the latents behind both."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def check_rows(part: str, x: Tensor, y: Tensor, mask: Tensor | None) -> None:
    """Raises a `ValueError` if the shapes of inputs, targets and mask are inconsistent.

    Args:
        part: "context" or "query".
        x: inputs, ``(batch, rows, features)``.
        y: targets, ``(batch, rows)``.
        mask: ``(batch, rows)``, or None.
    """
    if x.ndim != 3 or x.shape[:2] != y.shape:
        raise ValueError(
            f"Expected x_{part} (batch, {part}, features) and y_{part} (batch, {part}); "
            f"got {tuple(x.shape)} and {tuple(y.shape)}."
        )
    if mask is not None and mask.shape != y.shape:
        raise ValueError(
            f"Expected {part}_mask of shape {tuple(y.shape)}; got {tuple(mask.shape)}."
        )


# The arguments of every network, by their shapes.
XContext = Float[Tensor, "batch context features"]
YContext = Float[Tensor, "batch context"]
XQuery = Float[Tensor, "batch query features"]
Mask = Bool[Tensor, "batch context"] | None


@dataclass(frozen=True)
class TaskBatch:
    """A batch of synthetic tasks, validated on construction.

    Context and query are separate tensors. Sets that are shorter than their tensor are masked
    (``False`` marks padding rows).

    Attributes:
        x_context: inputs of the context, ``(batch, context, features)``.
        y_context: targets of the context, ``(batch, context)``.
        x_query: inputs of the query, ``(batch, query, features)``.
        y_query: true targets of the query, ``(batch, query)``; networks must not read them.
        latents: the latents behind the task, each ``(batch, ...)``; None if the prior has none.
        context_mask: ``(batch, context)``, or None without padding.
        query_mask: ``(batch, query)``, or None without padding.

    Raises:
        ValueError: if the shapes are inconsistent.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(4, 10, 2), torch.zeros(4, 10)
        >>> batch = TaskBatch(x[:, :7], y[:, :7], x[:, 7:], y[:, 7:])
        >>> batch.n_tasks, batch.n_context, batch.n_query, batch.n_features
        (4, 7, 3, 2)
    """

    x_context: XContext
    y_context: YContext
    x_query: XQuery
    y_query: Float[Tensor, "batch query"]
    latents: Mapping[str, Tensor] | None = None
    context_mask: Mask = None
    query_mask: Bool[Tensor, "batch query"] | None = None

    def __post_init__(self) -> None:
        for part in ("context", "query"):
            names = (f"x_{part}", f"y_{part}", f"{part}_mask")
            check_rows(part, *(getattr(self, name) for name in names))
        if (self.n_tasks, self.n_features) != (self.x_query.shape[0], self.x_query.shape[2]):
            raise ValueError(
                f"Expected context and query with the same batch and features; got x_context "
                f"{tuple(self.x_context.shape)} and x_query {tuple(self.x_query.shape)}."
            )
        for name, value in (self.latents or {}).items():
            if value.shape[:1] != (self.n_tasks,):
                raise ValueError(
                    f"Expected latent '{name}' with {self.n_tasks} tasks in its first dimension; "
                    f"got shape {tuple(value.shape)}."
                )

    @property
    def n_tasks(self) -> int:
        return self.x_context.shape[0]

    @property
    def n_features(self) -> int:
        return self.x_context.shape[2]

    @property
    def n_context(self) -> int:
        """Number of context rows, including padding."""
        return self.x_context.shape[1]

    @property
    def n_query(self) -> int:
        """Number of query rows, including padding."""
        return self.x_query.shape[1]

    def to(self, device: torch.device | str) -> "TaskBatch":
        """The same batch on another device."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                value = {name: latent.to(device) for name, latent in value.items()}
            elif value is not None:
                value = value.to(device)
            values[field.name] = value
        return TaskBatch(**values)
