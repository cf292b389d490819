"""Replacement of a whole folder: an interrupted write leaves either the old folder or the new one.

No system call exchanges two folders atomically on every system. The old folder is therefore moved
aside, the new one moved into its place, and the old one removed. Readers that find no folder use
the one moved aside, and the next writer restores it first. Only files that belong to the folder are
ever removed.
"""

import errno
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from amortized.files.atomic import abandoned, all_beside, beside, is_beside, write_through

_ASIDE = "aside"
_PATIENCE = 100  # number of concurrent replacements that are waited for
T = TypeVar("T")


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Replaces a folder by one with the given files.

    Args:
        path: path of the folder; the target of a symbolic link is replaced. An existing folder must
            contain only files with these names.
        files: contents by name.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    _recover(path, files)
    fresh = beside(path)
    try:
        fresh.mkdir()
        for name, content in files.items():
            write_through(fresh / name, content)
        _exchange(fresh, path, files)
    except BaseException:
        _remove(fresh, files)
        raise


def strangers(path: Path, names: Collection[str]) -> list[str]:
    """Names in a folder other than the given ones."""
    return sorted(
        entry.name
        for entry in path.iterdir()
        if not (entry.name in names and entry.is_file()) and not _is_own(entry.name, names)
    )


def read_folder(path: Path, read: Callable[[Path], T]) -> T:
    """Reads a folder that may be replaced at the same time.

    Args:
        path: path of the folder.
        read: function of a complete folder. If it raises a `ValueError` or an `OSError`, which may
            be due to a replacement, it is called again.
    """
    for _ in range(_PATIENCE):
        at = in_place(path)
        before = _identity(at)
        try:
            return read(at)
        except (ValueError, OSError):
            # A folder that is moved aside keeps its inode but changes its name.
            now = in_place(path)
            if now == at and _identity(now) == before:
                raise
    return read(in_place(path))


def in_place(path: Path) -> Path:
    """The folder, or the old one if a writer was interrupted between its two moves."""
    path = Path(os.path.realpath(path))
    if os.path.lexists(path):
        return path
    found = all_beside(path, _ASIDE)
    return found[-1][1] if found else path


def _exchange(fresh: Path, path: Path, names: Collection[str]) -> None:
    """Moves the old folder aside and the new one into its place."""
    for _ in range(_PATIENCE):
        aside = beside(path, _ASIDE)
        try:
            if os.path.lexists(path):
                os.rename(path, aside)
        except FileNotFoundError:  # another writer has moved it
            pass
        try:
            os.rename(fresh, path)
        except OSError as error:
            # Another writer's folder is there, or was and has been moved aside by a third.
            another = error.errno in (errno.ENOTEMPTY, errno.EEXIST) or os.path.lexists(path)
            if not another:
                if os.path.lexists(aside):
                    os.rename(aside, path)
                raise
            _discard(aside, path, names)
        else:
            _discard(aside, path, names)
            return
    raise OSError(f"Expected to replace {path}; other writers kept moving it. Try again.")


def _recover(path: Path, names: Collection[str]) -> None:
    """Restores a folder that an interrupted writer has moved aside, and removes leftovers."""
    left = [folder for _, folder in all_beside(path, _ASIDE)]
    if left and not os.path.lexists(path):
        try:
            os.rename(left[-1], path)
        except OSError:  # another writer was faster
            return
    # Folders moved aside from now on are not in the list, because they may be the only copy.
    if os.path.lexists(path):
        for folder in left:
            _discard(folder, path, names)
        for folder in abandoned(path):
            _remove(folder, names)


def _discard(aside: Path, path: Path, names: Collection[str]) -> None:
    """Removes a folder that was moved aside, renamed first so that nobody reads half of it."""
    rubbish = beside(path)
    try:
        os.rename(aside, rubbish)
    except FileNotFoundError:  # there was none, or another writer has put it back
        return
    _remove(rubbish, names)


def _remove(folder: Path, names: Collection[str]) -> None:
    """Removes the given files and the folder, unless it contains anything else."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for entry in list(folder.iterdir()):
        if entry.name in names or _is_own(entry.name, names):
            entry.unlink(missing_ok=True)
    try:
        folder.rmdir()
    except OSError:  # not empty, or removed by another writer
        return


def _is_own(name: str, names: Collection[str]) -> bool:
    return any(is_beside(name, target) for target in names)


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
