"""Validation of configuration fields, which may come from a file or from a user."""

import math
import types
from collections.abc import Collection, Iterator
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_MOST = 2**31 - 1
_MOST_LAYERS = 256  # modules take memory even on the meta device


def check_fields(
    config: Any, *, may_be_zero: Collection[str] = (), layers: Collection[str] = ()
) -> None:
    """Raises an error for fields of a wrong type and integers out of range.

    Args:
        config: an instance of a frozen dataclass, as for `check_types`.
        may_be_zero: integer fields that may be zero; integers in tuples always may.
        layers: fields that count layers, which have a lower maximum.

    Raises:
        ValueError: if a field is invalid.
    """
    check_types(config)
    for field in fields(config):
        value = getattr(config, field.name)
        least = 0 if isinstance(value, tuple) or field.name in may_be_zero else 1
        most = _MOST_LAYERS if field.name in layers else _MOST
        for number in _flat(value):
            if type(number) is int and not least <= number <= most:
                raise ValueError(f"Expected {field.name} from {least} to {most}; got {number}.")


def check_types(config: Any) -> None:
    """Raises an error for fields of a wrong type and for numbers that are not finite.

    NumPy scalars become Python numbers and lists become tuples, so that the validated values are
    those that are stored.

    Args:
        config: an instance of a frozen dataclass of numbers, strings and tuples of these.

    Raises:
        ValueError: if a field is invalid.
    """
    kinds = get_type_hints(type(config))
    for field in fields(config):
        value = _read(field.name, getattr(config, field.name), kinds[field.name])
        for number in _flat(value):
            if isinstance(number, float) and not math.isfinite(number):
                raise ValueError(f"Expected {field.name} to be finite; got {value}.")
        object.__setattr__(config, field.name, value)


def _read(name: str, value: Any, kind: Any) -> Any:
    """Converts a value to the declared type."""
    members = get_args(kind)
    if get_origin(kind) in (types.UnionType, Union):
        if value is None and types.NoneType in members:
            return None
        kind = next(member for member in members if member is not types.NoneType)
        members = get_args(kind)
    if get_origin(kind) is Literal:
        if isinstance(value, str) and value in members:
            return value
        raise ValueError(f"Expected {name} among {members}; got {value!r:.99}.")
    if members:
        open_ended = members[-1] is Ellipsis
        if isinstance(value, tuple | list) and (open_ended or len(value) == len(members)):
            kinds = [members[0]] * len(value) if open_ended else members
            return tuple(_read(name, *pair) for pair in zip(value, kinds, strict=True))
    elif kind is bool or kind is str:
        if isinstance(value, kind):
            return value
    elif isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool):
        try:
            return kind(value)
        except OverflowError:
            pass
    wanted = getattr(kind, "__name__", str(kind)) if not members else str(kind)
    raise ValueError(f"Expected {name} of type {wanted}; got {value!r:.99}.")


def _flat(value: Any) -> Iterator[Any]:
    """The numbers and strings in a field, which may be a nested tuple."""
    if isinstance(value, tuple):
        for member in value:
            yield from _flat(member)
    else:
        yield value


def check_positive(config: Any, *names: str) -> None:
    """Raises an error for fields with a number that is not positive."""
    for name in names:
        if any(number <= 0 for number in getattr(config, name)):
            raise ValueError(f"Expected positive {name}; got {getattr(config, name)}.")
