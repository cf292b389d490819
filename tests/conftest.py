"""Every test starts from the same random state; torch's default float32 stays, networks use it."""

import gc
import warnings
from collections import Counter
from dataclasses import is_dataclass
from functools import wraps
from typing import get_args

import hypothesis
import jaxtyping
import pyro
import pytest

# Examples are the same in every run, and a busy machine fails no test.
hypothesis.settings.register_profile("amortized", deadline=None, derandomize=True)
hypothesis.settings.load_profile("amortized")


_CALLS = Counter()  # of the code of each function, by its id, in this test
_FIRST, _EVERY = 3, 50  # calls that are checked: loops call the same with the same shapes


def _has_shapes(annotation):
    """Whether an annotation names the shape of an array; one that is still a string may."""
    if isinstance(annotation, type) and issubclass(annotation, jaxtyping.AbstractArray):
        return True
    return isinstance(annotation, str) or any(map(_has_shapes, get_args(annotation)))


def _checked(*, typechecker, jaxtyped=jaxtyping.jaxtyped):
    """Checks as jaxtyping does, but once a call: it checks arguments twice and binds them.

    In each test the first calls of a function are checked, and one in many of the others. The check
    of a function is made at its first call, as most are never called in one process.
    """

    def decorate(function):
        if not isinstance(function, type):
            return wrapped(function)
        if is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = wrapped(function.__init__, typechecker(function.__init__))
        return function

    def wrapped(function, typed=None):
        shapes, code = None, id(getattr(function, "__code__", function))

        @wraps(function)
        def checked(*args, **kwargs):
            nonlocal typed, shapes
            n = _CALLS[code] = _CALLS[code] + 1
            if (n > _FIRST and n % _EVERY) or jaxtyping.config.jaxtyping_disable:
                return function(*args, **kwargs)
            if shapes is None:
                typed = typed or typechecker(function)
                shapes = any(map(_has_shapes, getattr(function, "__annotations__", {}).values()))
            if not shapes:
                return typed(*args, **kwargs)
            with jaxtyped("context"):
                return typed(*args, **kwargs)

        return checked

    return decorate


jaxtyping.jaxtyped = _checked  # what the import hook of --jaxtyping-packages decorates with


gc.disable()  # until tests run: imports leave no garbage, and would be gone through many times


def pytest_configure(config):
    """ArviZ writes a file at its first import of a day; two workers at once would collide."""
    if getattr(config.option, "numprocesses", None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import arviz  # noqa: F401


def pytest_collection_finish():
    """What is there now lives to the end: collections during tests need not go through it."""
    gc.freeze()
    gc.enable()


def pytest_runtest_setup():
    _CALLS.clear()


@pytest.fixture(autouse=True)
def _same_random_state():
    pyro.set_rng_seed(0)  # of torch, numpy and random
    pyro.clear_param_store()


@pytest.fixture
def no_shape_checks(monkeypatch):
    """As a user runs it: a wrong shape meets our own message, not jaxtyping's."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
