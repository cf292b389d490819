"""The `pyro.param`s of a program as one unconstrained vector, and programs with given values."""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints, transform_to

from amortized.arrays import as_tensor
from amortized.one_at_a_time import ONE_AT_A_TIME
from amortized.program.vectorised import Program, precision
from amortized.seeding import seeded


class _Put(Messenger):
    """Gives parameters their values, without Pyro's store and without a trace."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._values = values

    def _pyro_param(self, message: Any) -> None:
        if message["name"] in self._values:
            message["value"] = self._values[message["name"]]
            message["done"] = True
            message["type"] = "fitted"  # no longer a parameter to whoever looks on


class WithParameters:
    """A program whose parameters have given values.

    Args:
        program: a Pyro program.
        values: of its parameters, by name; they may carry gradients.

    Example:
        >>> import pyro, torch
        >>> def program(x, y=None):
        ...     return pyro.param("scale", torch.tensor(1.0)) * x
        >>> WithParameters(program, {"scale": torch.tensor(3.0)})(torch.ones(2))
        tensor([3., 3.])
    """

    def __init__(self, program: Program, values: Mapping[str, Tensor]) -> None:
        self.program, self.values = program, dict(values)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _Put(self.values):
            return self.program(*args, **kwargs)


class Parameters:
    """The parameters of a program, end to end in unconstrained space.

    Args:
        program: a Pyro program ``program(x, y)``.
        x: inputs of one dataset, ``(n, n_features)``.
        y: its observations.
        start: values at which to begin, by name; other parameters begin where Pyro's store or
            the program has them.

    Attributes:
        start: the unconstrained vector at which to begin, ``(size,)``.
        program: the program with the values that were set last, at first those of ``start``.

    Raises:
        ValueError: if the program fails, has no parameters, or a value is outside its constraint.
    """

    def __init__(
        self, program: Program, x: Tensor, y: Tensor, start: Mapping[str, Any] | None = None
    ) -> None:
        found = _trace_parameters(program, x, y)
        unknown = set(start or {}) - set(found)
        if not found or unknown:
            raise ValueError(
                f"Expected parameters pyro.param(name, ...) {sorted(unknown) or 'in the program'}; "
                f"got {sorted(found)}."
            )
        self._transforms: dict[str, Any] = {}
        parts, self._shapes = [], {}
        for name, (value, constraint) in found.items():
            given = (start or {}).get(name, value)
            value = as_tensor(given, f"the start of '{name}'", dtype=None).detach().to(y.dtype)
            if not bool(constraint.check(value).all()):
                raise ValueError(f"Expected '{name}' in its constraint {constraint}; got {value}.")
            self._transforms[name] = transform_to(constraint)
            u = self._transforms[name].inv(value)
            if not bool(u.isfinite().all()):
                raise ValueError(f"Expected '{name}' inside its constraint; got {value}.")
            parts.append(u.reshape(-1))
            self._shapes[name] = u.shape
        self.start = torch.cat(parts)
        self.program = WithParameters(program, self.values(self.start))

    def set(self, theta: Float[Tensor, " size"]) -> None:
        """Gives the program the values at a vector."""
        self.program.values = self.values(theta)

    def values(self, theta: Float[Tensor, " size"]) -> dict[str, Tensor]:
        """The parameters in their own units, as functions of the vector."""
        pieces = theta.split([shape.numel() for shape in self._shapes.values()])
        return {
            name: self._transforms[name](piece.reshape(shape))
            for piece, (name, shape) in zip(pieces, self._shapes.items(), strict=True)
        }


def _trace_parameters(program: Program, x: Tensor, y: Tensor) -> dict[str, tuple[Tensor, Any]]:
    store = pyro.get_param_store()
    before = set(store.keys())
    try:
        with ONE_AT_A_TIME, precision(y.dtype), seeded(0), torch.no_grad():
            trace = pyro.poutine.trace(program).get_trace(x, y)
        sites: dict[str, Any] = {n: s for n, s in trace.nodes.items() if s["type"] == "param"}
        return {
            name: (site["value"].detach().clone(), _constraint(site))
            for name, site in sites.items()
        }
    except Exception as reason:
        raise ValueError(
            f"Expected a Pyro program that runs as program(x, y) with x of shape {tuple(x.shape)} "
            f"and y of shape {tuple(y.shape)}; got {type(reason).__name__}: {reason}"
        ) from reason
    finally:
        for name in set(store.keys()) - before:  # the user's store stays as it was
            del store[name]


def _constraint(site: Any) -> Any:
    given = (site["kwargs"] or {}).get("constraint", constraints.real)
    return given if given is not None else constraints.real
