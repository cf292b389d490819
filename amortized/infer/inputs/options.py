"""Validation of the options of each method, with a message that lists the valid ones."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


def check_options(method: str, *functions: Callable[..., Any], given: Mapping[str, Any]) -> None:
    """Raises an error for options that a method does not have.

    Args:
        method: name of the method.
        *functions: functions that take the options after their first two parameters. If the last
            one forwards further options, their validation is left to the function it calls.
        given: the user's options.

    Raises:
        TypeError: if an option is unknown.

    Example:
        >>> check_options("coin", lambda problem, n_draws, speed=1: None, given={"speeed": 2})
        Traceback (most recent call last):
        TypeError: Expected options of method 'coin' among ['speed']; got 'speeed'.
    """
    valid = [name for function in functions for name in _options(function)]
    unknown = [name for name in given if name not in valid]
    last = inspect.signature(functions[-1]).parameters.values()
    passes_on = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in last)
    if unknown and not passes_on:
        had = f"among {sorted(set(valid))}" if valid else "to be none"
        raise TypeError(
            f"Expected options of method {method!r} {had}; got {', '.join(map(repr, unknown))}."
        )


def _options(function: Callable[..., Any]) -> list[str]:
    named = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = list(inspect.signature(function).parameters.values())[2:]
    return [parameter.name for parameter in parameters if parameter.kind in named]
