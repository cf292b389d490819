"""Atomic replacement of files: an interrupted write leaves either the old file or the new one.

A file is written under a unique name next to the old one, which it then replaces in one step. Two
writers therefore never interfere, and the last one wins.
"""

import os
import re
import secrets
import time
from pathlib import Path

_UNFINISHED = "fresh"
_ABANDONED_AFTER = 3600.0  # seconds; no writer takes that long


def replace_file(path: str | Path, content: bytes) -> Path:
    """Writes a file completely, or leaves the existing one unchanged.

    Args:
        path: path of the file; the target of a symbolic link is replaced, not the link.
        content: the complete content.

    Returns:
        The path, as given.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     replace_file(Path(folder) / "a.txt", b"text").read_bytes()
        b'text'
    """
    target = Path(os.path.realpath(path))
    for left in abandoned(target):
        if left.is_file():
            left.unlink(missing_ok=True)
    fresh = beside(target)
    try:
        write_through(fresh, content)
        os.replace(fresh, target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    return Path(path)


def beside(target: Path, ending: str = _UNFINISHED) -> Path:
    """A unique temporary name next to a file or folder that is to be replaced."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.{ending}")


def is_beside(name: str, target: str, ending: str = _UNFINISHED) -> bool:
    """Whether `beside` has created this name for the given target."""
    return re.fullmatch(rf"\.{re.escape(target)}\.[0-9a-f]{{12}}\.{ending}", name) is not None


def write_through(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on disk, before the old one may be replaced."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def all_beside(target: Path, ending: str = _UNFINISHED) -> list[tuple[int, Path]]:
    """Temporary files next to a file or folder with their modification times, oldest first."""
    found = []
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if is_beside(path.name, target.name, ending):
            try:
                found.append((path.lstat().st_mtime_ns, path))
            except FileNotFoundError:  # its writer has just finished
                continue
    return sorted(found)


def abandoned(target: Path) -> list[Path]:
    """Temporary files of interrupted writers, next to a file or folder."""
    now = time.time()
    return [path for at, path in all_beside(target) if now - at * 1e-9 > _ABANDONED_AFTER]
