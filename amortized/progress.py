"""Progress bars for work that takes seconds: on terminals and in notebooks, only the outermost one.

The environment variable ``TQDM_DISABLE=1`` disables them.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from operator import length_hint
from typing import Any, TypeVar

from tqdm import tqdm

DELAY = 2.0
"""Seconds before a bar is shown."""

_T = TypeVar("_T")
_within = ContextVar("_within", default=False)


@contextmanager
def progress_bar(
    what: str, unit: str, total: float | None = None, shown: bool | None = None
) -> Iterator[Any]:
    """A bar of tqdm that disappears at the end; those opened within it are not shown.

    Args:
        what: the work, for the label of the bar.
        unit: what ``update`` counts.
        total: number of units, if known.
        shown: whether the bar is shown, at once; None shows it after two seconds if somebody can
            see it.

    Example:
        >>> with progress_bar("sampling", "draw", 10) as bar:
        ...     _ = bar.update(10)
    """
    within = _within.get()
    disabled = within or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    disabled = disabled or not (watched if shown is None else shown)
    delay = DELAY if shown is None else 0.0
    _within.set(True)
    try:
        with tqdm(
            desc=what, total=total, unit=unit, delay=delay, leave=bool(shown), disable=disabled
        ) as bar:
            yield bar
    finally:
        _within.set(within)


def with_progress(
    items: Iterable[_T], what: str, unit: str, total: float | None = None
) -> Iterator[_T]:
    """The items one by one, with a bar that counts those that are done.

    Args:
        items: what the work consists of.
        what: as for `progress_bar`.
        unit: as for `progress_bar`.
        total: number of items, if it is known but not their ``len``.

    Example:
        >>> sum(with_progress(range(4), "adding", "number"))
        6
    """
    with progress_bar(what, unit, length_hint(items) or total) as bar:
        for item in items:
            yield item
            bar.update()
