"""The state of a run on disk: a torch file that ends with the SHA-256 of all that is before it.

Torch reads a file with a flipped bit without a word, and unpickles what it finds. Here a file is
checked before it is read, and only tensors, numbers, words and collections of these are read.
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

_LABEL = b"SHA-256 "
_N_COMMENT = len(_LABEL) + 64


def write_checkpoint(state: dict[str, Any], path: str | Path) -> None:
    """Write the state of a run; who is killed meanwhile leaves the one that was there.

    The checksum is the comment of the zip archive that a torch file is: `torch.load` reads it too.

    Args:
        state: tensors, numbers, words, and collections of these.
        path: the file.
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
    """The state of a run; nothing in the file is run.

    Args:
        path: the file.
        map_location: where tensors are put, as for `torch.load`.
        most_bytes: a larger file is not read.
        of_run: whether the file must be the state of a run, rather than any dictionary.

    Raises:
        ValueError: if the file is damaged, or holds anything but a state.
    """
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most_bytes:
            raise ValueError(f"no file, or one of more than {most_bytes} bytes")
        content = Path(path).read_bytes()
        body, checksum = content[:-_N_COMMENT], content[-_N_COMMENT:]
        if checksum != _LABEL + hashlib.sha256(body).hexdigest().encode():
            raise ValueError("another checksum than it ends with")
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > len(content):
            raise ValueError(f"{unpacked} bytes in a file of {len(content)}")
        stored = torch.load(io.BytesIO(content), map_location=map_location, weights_only=True)
        found_run = isinstance(stored, dict) and isinstance(stored.get("state_dict"), dict)
        if not found_run and (of_run or not isinstance(stored, dict)):
            raise ValueError("no state of a network in it")
    except FileNotFoundError:
        raise
    except Exception as reason:  # what a crafted file raises depends on what is in it
        raise ValueError(
            f"Expected {path} to hold the state of a training; got {type(reason).__name__}: "
            f"{reason!s:.999}. Remove the file to start anew."
        ) from reason
    return stored


class CheckedFiles(CheckpointIO):
    """Lets Lightning write and read its checkpoints by the functions above."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)  # as Lightning's own does
        write_checkpoint(checkpoint, path)

    def load_checkpoint(
        self, path: Any, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        # A spawned process hands its weights back as a dictionary without the rest of a run.
        return read_checkpoint(path, map_location or "cpu", of_run=False)

    def remove_checkpoint(self, path: Any) -> None:
        os.remove(path)
