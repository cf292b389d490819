"""The contract of a generator: a distribution over sequences that is drawn step by step."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from amortized.validation import generator_from, whole_number

__all__ = ["Generator", "Potential"]

State = Any
Potential = Callable[[State, int], Tensor]


class Generator(ABC):
    r"""A distribution :math:`p(x_1) \, p(x_2 | x_1) \cdots p(x_T | x_{<T})` that can be drawn.

    The state after a step holds what the next step and the potential need: a tensor, or a
    dictionary or tuple of tensors, with one entry for each sequence along the first dimension.

    Attributes:
        n_steps: T.

    Example:
        >>> import torch
        >>> class Walk(Generator):
        ...     n_steps = 3
        ...     def start(self, n, generator):
        ...         return torch.randn(n, generator=generator)
        ...     def extend(self, state, t, generator):
        ...         return state + torch.randn(len(state), generator=generator)
        >>> Walk().draw(4, seed=0).shape
        torch.Size([4, 3])
    """

    n_steps: int

    @abstractmethod
    def start(self, n: int, generator: torch.Generator) -> State:
        """The states of n sequences after their first step, number 0."""

    @abstractmethod
    def extend(self, state: State, t: int, generator: torch.Generator) -> State:
        """The states after step t, from those after step t - 1."""

    def value(self, state: State, t: int) -> Tensor:
        """What step t has added to each sequence, ``(n, ...)``: the state, unless overridden."""
        return state

    def force(self, state: State | None, t: int, value: Tensor) -> State:
        """The states after step t if it adds these values; None is the state before step 0.

        Only `ParticleGibbs` needs it. Where the value is the state, this is the value.
        """
        return value

    def named(self, state: State) -> dict[str, Tensor]:
        """Draws of a finished sequence by name; empty where the values of the steps are all."""
        return {}

    def draw(self, n: int, *, seed: int = 0) -> Tensor:
        """Sequences of the generator alone, ``(n, steps, ...)``."""
        n, generator = whole_number("n", n, 1), generator_from(seed)
        state = self.start(n, generator)
        values = [self.value(state, 0)]
        for t in range(1, self.n_steps):
            state = self.extend(state, t, generator)
            values.append(self.value(state, t))
        return torch.stack(values, 1)


def take(state: State, index: Tensor) -> State:
    """The states of the chosen sequences."""
    return tree_map(lambda part: part[index], state)


def put(state: State, index: Tensor, part: State) -> State:
    """The states with some replaced."""
    return tree_map(lambda old, new: old.index_copy(0, index, new.to(old.dtype)), state, part)


def checked(log_potential: Tensor, n: int, what: str = "potential") -> Tensor:
    """Refuses log potentials of another shape, and those that are NaN or +inf."""
    if not isinstance(log_potential, Tensor) or log_potential.shape != (n,):
        shape = tuple(getattr(log_potential, "shape", ()))
        raise ValueError(f"Expected a {what} of shape ({n},), one number a sequence; got {shape}.")
    if not bool((log_potential < torch.inf).all()):
        raise ValueError(
            f"Expected a log {what} that is finite or -inf; got NaN or +inf. Give impossible "
            "sequences -inf."
        )
    return log_potential.double()
