"""Fitting that is interrupted or fails leaves an estimator as it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def all_or_nothing(estimator: Any) -> Iterator[None]:
    """Restores the attributes of an estimator on any exception, Ctrl-C included.

    Otherwise an earlier posterior could remain with the units of the new data.

    Args:
        estimator: an estimator whose attributes are replaced, and not changed in place.

    Example:
        >>> from types import SimpleNamespace
        >>> estimator = SimpleNamespace(coef_=1.0)
        >>> try:
        ...     with all_or_nothing(estimator):
        ...         estimator.coef_ = 2.0
        ...         raise KeyboardInterrupt
        ... except KeyboardInterrupt:
        ...     print(estimator.coef_)
        1.0
    """
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
