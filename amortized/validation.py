"""Validation of what users give: counts, seeds, shares, quantile levels and options."""

import inspect
import math
from collections.abc import Callable, Mapping
from numbers import Real
from types import UnionType
from typing import Any, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

_MOST = 2**31 - 1  # more of anything fits into no memory, and overflows in torch


def whole_number(name: str, value: Any, least: int = 1) -> int:
    """Converts a count to an integer.

    Args:
        name: name of the argument in the message.
        value: an integer, or a float that is one.
        least: the least that is meaningful.

    Raises:
        ValueError: if it is no whole number, or out of range.

    Example:
        >>> whole_number("n_draws", 3.0, 1)
        3
        >>> whole_number("n_draws", float("nan"), 1)
        Traceback (most recent call last):
        ...
        ValueError: Expected n_draws to be an integer >= 1; got nan.
    """
    number = _plain(value)
    whole = _is_whole(number)
    if whole and least <= number <= _MOST:
        return int(number)
    most = f" and <= {_MOST}" if whole and number > _MOST else ""
    raise ValueError(f"Expected {name} to be an integer >= {least}{most}; got {value!r}.")


def seed_number(seed: Any) -> int:
    """Converts a seed to an integer that generators accept.

    Raises:
        ValueError: if it is no integer of 64 bits.

    Example:
        >>> seed_number(7)
        7
    """
    number = _plain(seed)
    if _is_whole(number) and -(2**63) <= number < 2**64:
        return int(number)
    raise ValueError(f"Expected a seed, an integer of at most 64 bits; got {seed!r}.")


def generator_from(seed: Any, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of random numbers from a seed.

    Raises:
        ValueError: if the seed is no integer of 64 bits.

    Example:
        >>> torch.rand(1, generator=generator_from(0)).shape
        torch.Size([1])
    """
    return torch.Generator(device).manual_seed(seed_number(seed))


def number_between(
    name: str, value: Any, low: float, high: float, *, least: bool = False, most: bool = False
) -> float:
    """Converts a number that lies in an interval to a float.

    Args:
        name: name of the argument in the message.
        value: a number.
        low: lower end of the interval.
        high: its upper end, which may be infinite.
        least: whether the lower end belongs to it.
        most: whether the upper end does.

    Raises:
        ValueError: if it is no number, or outside the interval.

    Example:
        >>> number_between("level", 0.9, 0, 1)
        0.9
        >>> number_between("level", 1, 0, 1)
        Traceback (most recent call last):
        ...
        ValueError: Expected level in (0, 1); got 1.
    """
    number = _plain(value)
    if isinstance(number, Real):
        number = _as_float(number)
        above = number >= low if least else number > low
        below = number <= high if most else number < high
        if above and below:
            return number
    if high < np.inf:
        interval = f"in {'[' if least else '('}{low:g}, {high:g}{']' if most else ')'}"
    elif low > -np.inf and number != np.inf:
        interval = f"{'>=' if least else '>'} {low:g}"
    else:
        interval = "to be a finite number"
    raise ValueError(f"Expected {name} {interval}; got {value!r}.")


def quantile_levels(q: Any) -> Float[Tensor, " levels"]:
    """Converts quantile levels to float64.

    Args:
        q: one level or a list of levels.

    Raises:
        ValueError: if there are none, or one does not lie strictly between 0 and 1.

    Example:
        >>> quantile_levels(0.5)
        tensor([0.5], dtype=torch.float64)
    """
    try:
        levels = torch.as_tensor(np.atleast_1d(np.asarray(q, dtype=np.float64)))
    except (TypeError, ValueError):
        levels = torch.zeros(1)
    inside = bool(((levels > 0) & (levels < 1)).all())
    if levels.ndim != 1 or not inside or not len(levels):
        raise ValueError(f"Expected a list of levels strictly between 0 and 1; got {q!r}.")
    return levels


def check_options(
    method: str, *functions: Callable[..., Any], given: Mapping[str, Any], skipped: int = 2
) -> dict[str, Any]:
    """Checks that a method has the options given, and that those that are numbers are numbers.

    The range of each is checked by the method.

    Args:
        method: name of the method.
        *functions: functions that take the options after their first parameters. If the last
            one forwards further options, their validation is left to the function it calls.
        given: the user's options.
        skipped: number of the first parameters, which are no options.

    Returns:
        the options, with whole floats as integers where the method counts.

    Raises:
        TypeError: if an option is unknown.
        ValueError: if one is not the number that it should be.

    Example:
        >>> check_options("coin", lambda problem, n_draws, speed=1: None, given={"speeed": 2})
        Traceback (most recent call last):
        TypeError: Expected options of method 'coin' among ['speed']; got 'speeed'.
    """
    valid = {k: v for function in functions for k, v in _options(function, skipped).items()}
    unknown = [name for name in given if name not in valid]
    last = inspect.signature(functions[-1]).parameters.values()
    passes_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in last)
    if unknown and not passes_on:
        had = f"among {sorted(valid)}" if valid else "to be none"
        raise TypeError(
            f"Expected options of method {method!r} {had}; got {', '.join(map(repr, unknown))}."
        )
    return {name: _number(name, value, valid.get(name)) for name, value in given.items()}


def _plain(value: Any) -> Any:
    """One number of NumPy or torch as Python's own."""
    return value.item() if isinstance(value, Tensor | np.ndarray) and value.ndim == 0 else value


def _as_float(number: Real) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer beyond the floats
        return np.inf


def _is_whole(value: Any) -> bool:
    return isinstance(value, Real) and bool(value == value // 1)  # neither NaN nor infinite


def _options(function: Callable[..., Any], skipped: int) -> dict[str, Any]:
    """The options of a function, with their annotations."""
    named = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    return {each.name: each.annotation for each in parameters if each.kind in named}


def _number(name: str, value: Any, annotation: Any) -> Any:
    """A value as its annotation says, where that is an integer, a float, or one of them or None."""
    kinds = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    if value is None and type(None) in kinds:
        return None
    kinds = tuple(kind for kind in kinds if kind is not type(None))
    if kinds == (int,):
        return whole_number(name, value, 0)
    if kinds == (float,):
        return number_between(name, value, -math.inf, math.inf)
    return value
