"""Files that are replaced as a whole: who is killed while writing leaves the old one or the new.

A file is written under a name of its own beside the old one, which it then replaces in one step.
So two writers never meet, and the last one wins.
"""

import os
import re
import secrets
import time
from pathlib import Path

_UNFINISHED = "fresh"
_ABANDONED_AFTER = 3600.0  # seconds; no writer takes as long as that


def replace_file(path: str | Path, content: bytes) -> Path:
    """Write a file, or leave the one that is there.

    Args:
        path: of the file; where it is a symbolic link, the file that it leads to is replaced.
        content: all of it.

    Returns:
        The path, as it was given.

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
    """A new name beside a file or folder: for what will take its place, unless told otherwise."""
    return target.with_name(f".{target.name}.{secrets.token_hex(6)}.{ending}")


def is_beside(name: str, target: str, ending: str = _UNFINISHED) -> bool:
    """Whether `beside` has given this name, for a file or folder of the name of the target."""
    return re.fullmatch(rf"\.{re.escape(target)}\.[0-9a-f]{{12}}\.{ending}", name) is not None


def write_through(path: Path, content: bytes) -> None:
    """Write a new file, and wait until the disk has it: only then may another one go."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def all_beside(target: Path, ending: str = _UNFINISHED) -> list[tuple[int, Path]]:
    """What has such a name beside a file or folder, with the time it was changed, oldest first."""
    found = []
    for path in target.parent.iterdir() if target.parent.is_dir() else ():
        if is_beside(path.name, target.name, ending):
            try:
                found.append((path.lstat().st_mtime_ns, path))
            except FileNotFoundError:  # its writer has just finished
                continue
    return sorted(found)


def abandoned(target: Path) -> list[Path]:
    """What writers that were killed long ago have left beside a file or folder."""
    now = time.time()
    return [path for at, path in all_beside(target) if now - at * 1e-9 > _ABANDONED_AFTER]
