"""Serialises threads where Pyro and torch have one global state.

Pyro's handlers and validation, the warning filters and torch's default dtype are global to the
process. Code that changes or depends on them has to hold the lock.
"""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine import runtime


class Turn:
    """A reentrant lock that is not inherited by forked processes.

    After a fork only the forking thread exists in the child: locks held by other threads would
    never be released, and their changes never undone. The child therefore starts with a free lock
    and the state from before another thread acquired it.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0
        self._put_back: Callable[[], None] | None = None
        self._owner: int | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin_again)

    def __enter__(self) -> "Turn":
        self._lock.acquire()
        if self._depth == 0:
            self._owner, self._put_back = threading.get_ident(), _remembered()
        self._depth += 1
        return self

    def __exit__(self, *reason: Any) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = self._put_back = None
        self._lock.release()

    def _begin_again(self) -> None:
        # Worker threads are gone after the fork; torch would wait for them.
        torch.set_num_threads(1)
        if self._owner == threading.get_ident():
            return
        if self._put_back is not None:
            self._put_back()
        self._lock, self._depth, self._owner, self._put_back = threading.RLock(), 0, None, None


@contextmanager
def gradients() -> Iterator[None]:
    """Enables gradients, whatever torch mode the caller has set."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _remembered() -> Callable[[], None]:
    """Returns a function that restores the current global state."""
    dtype, stack = torch.get_default_dtype(), list(runtime._PYRO_STACK)
    validated, filters = dist.is_validation_enabled(), list(warnings.filters)

    def put_back() -> None:
        torch.set_default_dtype(dtype)
        runtime._PYRO_STACK[:] = stack
        pyro.enable_validation(validated)
        warnings.filters[:] = filters  # type: ignore[index]

    return put_back


ONE_AT_A_TIME = Turn()
"""Held while programs run and while priors draw."""
