"""Damaged files: whatever error reading them raises becomes one that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def refusing_damage(expected: str, advice: str) -> Iterator[None]:
    """Turns errors of reading into a `ValueError`; what a crafted file raises cannot be foreseen.

    Args:
        expected: what the file should be.
        advice: what to do.

    Raises:
        ValueError: for any error but that there is no file.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as reason:
        raise ValueError(
            f"Expected {expected}; got {type(reason).__name__}: {reason!s:.999}. {advice}"
        ) from reason
