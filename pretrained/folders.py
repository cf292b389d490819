"""A folder that is exchanged as a whole: who is killed leaves the old one or the new one.

There is no call that exchanges two folders in one step on every system. So the old folder is moved
aside, the new one takes its place, and the old one goes: who finds no folder in its place reads
the one that was moved aside, and the next writer puts it back first. Nothing is ever removed but
the files of which the folder is made.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

from amortized.files.atomic import abandoned, all_beside, beside, is_beside, write_through

_ASIDE = "aside"
_PATIENCE = 100  # exchanges by others during one, after which something else must be wrong
T = TypeVar("T")


def replace_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Put a folder of these files in the place of an older one.

    Args:
        path: of the folder; where it is a symbolic link, the folder that it leads to is replaced.
            The old one, if there is one, holds files of these names only.
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
    """What is in a folder beside files of these names."""
    return sorted(
        entry.name
        for entry in path.iterdir()
        if not (entry.name in names and entry.is_file()) and not _is_own(entry.name, names)
    )


def read_folder(path: Path, read: Callable[[Path], T]) -> T:
    """What a function reads from a folder, though somebody may be exchanging it.

    Args:
        path: of the folder.
        read: of a folder that is in one piece; raises a `ValueError` or an `OSError` where it is
            not, which may be the exchange's doing: then it is called again.
    """
    for _ in range(_PATIENCE):
        at = in_place(path)
        before = _identity(at)
        try:
            return read(at)
        except (ValueError, OSError):
            # One that is moved aside keeps its identity, and has another name.
            now = in_place(path)
            if now == at and _identity(now) == before:
                raise
    return read(in_place(path))


def in_place(path: Path) -> Path:
    """The folder, or the old one where a writer was killed between its two moves."""
    path = Path(os.path.realpath(path))
    if os.path.lexists(path):
        return path
    found = all_beside(path, _ASIDE)
    return found[-1][1] if found else path


def _exchange(fresh: Path, path: Path, names: Collection[str]) -> None:
    """Moves the old folder aside and the fresh one into its place."""
    for _ in range(_PATIENCE):
        aside = beside(path, _ASIDE)
        try:
            if os.path.lexists(path):
                os.rename(path, aside)
        except FileNotFoundError:  # another writer has moved it
            pass
        try:
            os.rename(fresh, path)
        except OSError:
            if not os.path.lexists(path):  # no other writer's doing
                if os.path.lexists(aside):
                    os.rename(aside, path)
                raise
            _discard(aside, path, names)
        else:
            _discard(aside, path, names)
            return
    raise OSError(
        f"Expected {path} to be left in place for a moment; other writers keep moving it."
    )


def _recover(path: Path, names: Collection[str]) -> None:
    """Puts back what a killed writer has moved aside, and removes what it left."""
    left = [folder for _, folder in all_beside(path, _ASIDE)]
    if left and not os.path.lexists(path):
        try:
            os.rename(left[-1], path)
        except OSError:  # another writer was faster
            return
    # What is moved aside from here on is not in the list, and may be the only copy.
    if os.path.lexists(path):
        for folder in left:
            _discard(folder, path, names)
        for folder in abandoned(path):
            _remove(folder, names)


def _discard(aside: Path, path: Path, names: Collection[str]) -> None:
    """Removes a folder that was moved aside, by another name first: half of it is nobody's."""
    rubbish = beside(path)
    try:
        os.rename(aside, rubbish)
    except FileNotFoundError:  # there was none, or another writer has put it back
        return
    _remove(rubbish, names)


def _remove(folder: Path, names: Collection[str]) -> None:
    """Removes a folder of these files; where anything else is in it, that stays."""
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
