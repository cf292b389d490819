"""One program of the zoo: its data, and how its right answer is found."""

from collections.abc import Callable
from typing import Any, NamedTuple

from trust_zoo.reference import Reference


class Entry(NamedTuple):
    """A program as a user writes it, for one dataset.

    Attributes:
        program: ``model(x, y=None)``.
        y: the observations.
        reference: computes the right answer.
        x: the inputs, where it has any.
        easier: the same posterior in other latents, where particles hardly move in the program's
            own; it records the program's by ``pyro.deterministic``.
    """

    program: Callable[..., Any]
    y: Any
    reference: Callable[[], Reference]
    x: Any = None
    easier: Callable[..., Any] | None = None
