"""A context that grows row by row, and the predictive given the rows so far."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor
from torch.distributions import Distribution

from amortized.arrays import as_tensor
from amortized.networks import PFN
from amortized.validation import whole_number

Data = Tensor | ArrayLike
Predict = Callable[[Tensor, Tensor, Tensor], Any]
"""A PFN, or a function such as a conjugate model: from ``(x_context, y_context, x_query)`` to the
predictive of each query of a batch."""


class GrowingContext:
    """Rows of a batch of datasets, with room for more.

    A PFN caches its encoding. A new row is encoded given the rows before it, whose encoding does
    not change; after every ``refresh`` rows all are encoded again, so that 1 is exact. Until then,
    all continuations of a dataset share the encoding of its first rows.

    Args:
        predict: a PFN, or any function of a context and queries.
        x: inputs of the first rows, ``(batch, n, features)``.
        y: targets of the first rows, ``(batch, n)``.
        n_more: number of rows that may be appended.
        refresh: number of rows after which a PFN encodes all of them again.
        n_copies: continuations of each dataset; number i of the batch continues dataset
            ``i % batch``.

    Raises:
        ValueError: if a PFN was not trained for that many rows.
    """

    def __init__(
        self,
        predict: Predict,
        x: Tensor,
        y: Tensor,
        n_more: int,
        refresh: int = 1,
        n_copies: int = 1,
    ) -> None:
        refresh = whole_number("refresh", refresh, 1)
        n_rows = x.shape[1] + n_more
        if isinstance(predict, PFN) and n_rows > predict.config.max_context:
            raise ValueError(
                f"Expected at most {predict.config.max_context} rows, which the network was "
                f"trained for; got {x.shape[1]} and {n_more} to come. Ask for fewer."
            )
        self.predict, self.refresh, self.n = predict, refresh, x.shape[1]
        self._first: tuple[Tensor, Tensor] = x, y
        x, y = x.repeat(n_copies, 1, 1), y.repeat(n_copies, 1)
        self._x = torch.cat([x, x.new_zeros(len(x), n_more, x.shape[2])], 1)
        self._y = torch.cat([y, y.new_zeros(len(y), n_more)], 1)
        self._encoded: Any = None
        self._stale = 0

    @property
    def x(self) -> Float[Tensor, "batch n features"]:
        """Inputs of the rows so far."""
        return self._x[:, : self.n]

    @property
    def y(self) -> Float[Tensor, "batch n"]:
        """Targets of the rows so far."""
        return self._y[:, : self.n]

    def predictive(self, x: Float[Tensor, "batch query features"]) -> Distribution:
        """Predictives of each query alone, of batch shape ``(batch, query)``."""
        if not isinstance(self.predict, PFN):
            return one_each(self.predict(self.x, self.y, x), x)
        with torch.no_grad():
            if self._encoded is None:
                is_first = self.n == self._first[1].shape[1]
                self._encoded = self.predict.encode(*self._first if is_first else (self.x, self.y))
            return self.predict.decode(self._encoded, x)

    def append(self, x: Float[Tensor, "batch 1 features"], y: Float[Tensor, "batch 1"]) -> None:
        """Appends one row to every context."""
        self._x[:, self.n : self.n + 1], self._y[:, self.n : self.n + 1] = x, y
        self.n += 1
        self._stale += 1
        if self._stale >= self.refresh:
            self._encoded, self._stale = None, 0
        elif self._encoded is not None and isinstance(self.predict, PFN):
            with torch.no_grad():
                self._encoded = self.predict.extend(self._encoded, x, y)


def one_each(predictive: Any, x: Float[Tensor, "batch query features"]) -> Any:
    """A predictive, if it has one distribution for each query of each task.

    Raises:
        ValueError: if not: broadcast, queries would share their draws.
    """
    shape = tuple(getattr(predictive, "batch_shape", ()))
    if shape != x.shape[:2] or predictive.event_shape:
        raise ValueError(
            f"Expected a predictive of batch shape {tuple(x.shape[:2])}, one distribution for each "
            f"query of each task; got {type(predictive).__name__} of batch shape {shape}. Expand "
            "its parameters."
        )
    return predictive


def number_type(predict: Predict) -> torch.dtype | None:
    """The dtype in which a predictive computes; None if it accepts any."""
    return torch.float32 if isinstance(predict, PFN) else None


def tasks_of(
    predict: Predict, x_context: Any, y_context: Any, x_query: Any, y_query: Any = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Converts contexts and queries of a batch of tasks to tensors of the predictive's dtype.

    Args:
        predict: a PFN, or any function of a context and queries.
        x_context: inputs of the known rows, ``(batch, context, features)``.
        y_context: their targets, ``(batch, context)``.
        x_query: inputs of the queries, ``(batch, query, features)``.
        y_query: their targets; None if they are unknown, and the result is arbitrary.

    Raises:
        ValueError: if the inputs are not finite numbers of these shapes, or differ in their batch.
    """
    dtype = number_type(predict)
    context = _rows(x_context, y_context, "context", dtype)
    query = _rows(x_query, y_query, "query", dtype)
    if len(context[0]) != len(query[0]) or context[0].shape[2] != query[0].shape[2]:
        raise ValueError(
            "Expected contexts and queries of as many tasks and features; got shapes "
            f"{tuple(context[0].shape)} and {tuple(query[0].shape)}."
        )
    return *context, *query


def _rows(x: Any, y: Any, of: str, dtype: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Inputs ``(batch, n, features)`` and targets ``(batch, n)`` as tensors."""
    inputs = as_tensor(x, f"x_{of}", dtype=dtype)
    targets = (
        inputs.new_empty(inputs.shape[:2]) if y is None else as_tensor(y, f"y_{of}", dtype=dtype)
    )
    if inputs.ndim != 3 or targets.shape != inputs.shape[:2]:
        raise ValueError(
            f"Expected x_{of} of shape (batch, n, features) and y_{of} of shape (batch, n); got "
            f"{tuple(inputs.shape)} and {tuple(targets.shape)}."
        )
    return inputs, targets
