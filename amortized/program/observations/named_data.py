"""Programs with any arguments and observed sites, as programs ``model(x, y)`` of one dataset.

The arrays among the arguments are concatenated to one vector, which is the y that samplers see, and
are split again before the program is called. Vectorised evaluation therefore works for these
programs too.
"""

import inspect
from collections.abc import Mapping
from numbers import Number
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortized.arrays import as_tensor, as_values
from amortized.program.vectorised import Program, is_observation


class _RealObservations(Messenger):
    """Converts observed integers to floating point, as torch's densities require."""

    def _pyro_sample(self, message: Any) -> None:
        value = message["value"]
        if is_observation(message) and not torch.as_tensor(value).is_floating_point():
            message["value"] = torch.as_tensor(value).to(torch.get_default_dtype())


class NamedData:
    """A program and one dataset for it, by the names of the program's arguments.

    Args:
        program: a Pyro program that takes the data by name.
        data: arrays, and other arguments that are passed on unchanged, such as a size or a string.

    Attributes:
        arrays: the arrays, by name.
        y: the concatenated arrays, ``(n,)``.
        x: ``(n, 0)``.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def schools(sigma, effects=None):
        ...     mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        ...     with pyro.plate("schools", len(sigma)):
        ...         pyro.sample("effect", dist.Normal(mu, sigma), obs=effects)
        >>> program = NamedData(schools, {"sigma": [10.0, 12.0], "effects": [3.0, -1.0]})
        >>> program.y
        tensor([10., 12.,  3., -1.], dtype=torch.float64)
    """

    def __init__(self, program: Program, data: Mapping[str, Any]) -> None:
        self.program = program
        self._require_arguments(data)
        self.constants = {name: value for name, value in data.items() if not _is_array(value)}
        self.arrays = {
            name: _array(value, name) for name, value in data.items() if _is_array(value)
        }
        if not self.arrays:
            raise ValueError(f"Expected at least one array among the data; got {sorted(data)}.")
        parts = [value.double().reshape(-1) for value in self.arrays.values()]
        self.y = torch.cat(parts)
        self.x = self.y.new_zeros(len(self.y), 0)

    def _require_arguments(self, data: Mapping[str, Any]) -> None:
        try:
            signature = inspect.signature(self.program)
            signature.bind(**data)
        except TypeError as reason:
            raise ValueError(
                f"Expected data by the names of the program's arguments {signature}; got "
                f"{sorted(data)}: {reason}."
            ) from reason

    def arguments(self, y: Tensor) -> dict[str, Any]:
        """The arguments, with arrays taken from y."""
        found, start = dict(self.constants), 0
        for name, value in self.arrays.items():
            part = y[start : start + value.numel()].reshape(value.shape)
            start += value.numel()
            found[name] = part if value.is_floating_point() else part.to(value.dtype)
        return found

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Any:
        """Runs the program on the values y, or on the data themselves if y is None."""
        given = self.arguments(self.y.to(x.dtype) if y is None else y)
        with _RealObservations():
            return self.program(**given)


def _is_array(value: Any) -> bool:
    is_plain = value is None or isinstance(value, str | bool | Number) or callable(value)
    return not is_plain and not isinstance(value, Mapping)


def _array(value: Any, name: str) -> Tensor:
    """Real numbers as float64, possibly missing; integers and booleans unchanged."""
    tensor = as_values(value, name)
    if tensor.is_floating_point():
        return as_tensor(value, name, allow_nan=True)
    return tensor.clone()
