"""Checkpoints of training runs: torch files that end with a SHA-256 checksum.

Torch reads corrupted files without an error and may unpickle arbitrary objects. Here the checksum
is verified first, and only tensors, numbers, strings and collections of these are read.
"""

import hashlib
import io
import math
import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from amortized.files.atomic import replace_file
from amortized.files.damage import refusing_damage

_LABEL = b"SHA-256 "
_N_COMMENT = len(_LABEL) + 64


def write_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Writes the state of a run; an interrupted write leaves the existing file unchanged.

    The checksum is stored as the comment of the zip archive, which `torch.load` ignores.

    Args:
        state: tensors, numbers, strings, and collections of these.
        path: path of the file.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()[:-2] + struct.pack("<H", _N_COMMENT)  # the length of the comment
    replace_file(path, content + _LABEL + hashlib.sha256(content).hexdigest().encode())


def read_checkpoint(
    path: str | Path,
    map_location: Any = "cpu",
    most_bytes: float = math.inf,
    *,
    of_run: bool = True,
) -> dict[str, Any]:
    """Reads the state of a run, without executing anything in the file.

    Args:
        path: path of the file.
        map_location: device of the tensors, as for `torch.load`.
        most_bytes: larger files are rejected.
        of_run: whether the file must be the state of a run, rather than any dictionary.

    Raises:
        ValueError: if the file is damaged, or contains anything other than a state.
    """
    with refusing_damage(
        f"{path} to hold the state of a training", "Remove the file to start again."
    ):
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
            raise ValueError(f"no file, or a file of more than {most_bytes} bytes")
        content = Path(path).read_bytes()
        body, checksum = content[:-_N_COMMENT], content[-_N_COMMENT:]
        if checksum != _LABEL + hashlib.sha256(body).hexdigest().encode():
            raise ValueError("a wrong checksum")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > len(content):
            raise ValueError(f"{unpacked} bytes in a file of {len(content)}")
        stored = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
        found_run = isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict)
        if not found_run and (of_run or not isinstance(stored, dict)):
            raise ValueError("no state of a network in it")
    return stored


class CheckedFiles(CheckpointIO):
    """Makes Lightning write and read checkpoints with the functions above."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # as Lightning's own does
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # Spawned processes return their weights as a dictionary without the rest of the state.
        return read_checkpoint(path, map_location or "cpu", of_run=False)

    def remove_checkpoint(self, path: Any) -> None:
        os.remove(path)
