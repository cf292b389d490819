"""Joint draws of a network's predictions: each value that is drawn is added to the context.

A prior-data fitted network predicts each query by itself. Drawn one after another, with all earlier
draws in the context, the values make joint draws, as of a whole learning curve.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.generators.generator import Generator

__all__ = ["CurveGenerator"]

_LEAST_CHANCE = 1e-3


class CurveGenerator(Generator):
    """Values at several inputs, drawn from a network that grows its own context.

    The state holds the values drawn so far, ``(n, steps so far)``, in the order of ``x_query``.

    Args:
        network: a `PFN`; called as ``network(x_context, y_context, x_query)`` it returns a
            distribution of batch shape ``(n, 1)``.
        x_context: known inputs, in the units of the network, ``(n, n_features)``, or ``(n,)`` of
            one feature.
        y_context: their values, ``(n,)``.
        x_query: inputs of the values to draw, ``(steps, n_features)`` or ``(steps,)``.
        chunk: sequences that go through the network at once.

    Raises:
        ValueError: if the shapes do not agree.
    """

    def __init__(
        self, network: Any, x_context: Any, y_context: Any, x_query: Any, *, chunk: int = 512
    ) -> None:
        x, query = (
            _columns(as_tensor(v, n, dtype=torch.float32), n)
            for v, n in ((x_context, "x_context"), (x_query, "x_query"))
        )
        y = as_tensor(y_context, "y_context", dtype=torch.float32)
        if y.shape != (len(x),) or query.shape[1] != x.shape[1] or not len(query):
            raise ValueError(
                "Expected x_context (n, n_features), y_context (n,) and x_query (steps, "
                f"n_features); got {tuple(x.shape)}, {tuple(y.shape)} and {tuple(query.shape)}."
            )
        _warn_outside(network, torch.cat([x, query]))
        self._network, self._x, self._y, self._query = network, x, y, query
        self.n_steps, self._chunk = len(query), chunk

    def start(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 1"]:
        return self.extend(self._y.new_zeros(n, 0), 0, generator)

    def extend(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        levels = torch.rand(len(state), 1, generator=generator)
        drawn = self._for_all(state, t, lambda found, rows: found.icdf(levels[rows]))
        return torch.cat([state, drawn.to(state)], 1)

    def log_chance_above(
        self, state: Float[Tensor, "n drawn"], step: int, bound: float
    ) -> Float[Tensor, " n"]:
        """Log of the network's chance that the value of a later step will exceed a bound.

        It is a lookahead for sequences that must end high, with no need to learn one. Chances
        below 0.001 count as 0.001, since a lookahead must be positive.
        """
        chance = self._for_all(state, step, lambda found, rows: 1 - found.cdf(self._bound(bound)))
        return chance[:, 0].double().clamp(min=_LEAST_CHANCE).log()

    def _bound(self, bound: float) -> Tensor:
        return torch.tensor([[bound]], dtype=self._y.dtype)

    @torch.no_grad()
    def _for_all(
        self, state: Tensor, step: int, function: Callable[[Any, slice], Tensor]
    ) -> Tensor:
        """A function of the distributions of the value of a step given those drawn, in chunks."""
        parts = []
        for first in range(0, len(state), self._chunk):
            rows = slice(first, first + self._chunk)
            known = state[rows]
            n, drawn = known.shape
            x = torch.cat([self._x, self._query[:drawn]]).expand(n, -1, -1)
            y = torch.cat([self._y.expand(n, -1), known], 1)
            found = self._network(x, y, self._query[step].expand(n, 1, -1))
            parts.append(function(found, rows))
        return torch.cat(parts)

    def value(self, state: Tensor, t: int) -> Tensor:
        return state[:, -1]

    def force(self, state: Tensor | None, t: int, value: Tensor) -> Tensor:
        value = value.reshape(-1, 1)
        return value if state is None else torch.cat([state, value], 1)


def _warn_outside(network: Any, x: Tensor) -> None:
    """Warns of inputs that the network has not met in training."""
    trained = getattr(getattr(network, "config", None), "x_range", None)
    if not trained:
        return
    low, high = torch.tensor(trained, dtype=x.dtype).mT
    if bool(((x < low) | (x > high)).any()):
        warnings.warn(
            f"Expected inputs between {low.tolist()} and {high.tolist()}, where the network was "
            f"trained; got {x.amin(0).tolist()} to {x.amax(0).tolist()}. Its predictions there "
            "mean little; learning curves take epochs as shares of the whole training.",
            UserWarning,
            stacklevel=3,
        )


def _columns(x: Tensor, name: str) -> Tensor:
    if x.ndim not in (1, 2):
        raise ValueError(f"Expected {name} of shape (n, n_features) or (n,); got {tuple(x.shape)}.")
    return x.unsqueeze(-1) if x.ndim == 1 else x
