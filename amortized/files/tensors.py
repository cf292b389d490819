"""Tensors by name in one file, the rest as JSON in its header; nothing is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from amortized.files.atomic import replace_file
from amortized.files.damage import refusing_damage

HEADER, CHECKSUM = "amortized", "sha256"  # keys of a file's metadata


def write_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> Path:
    """Writes a file; who is killed meanwhile leaves the old one.

    Args:
        path: new, empty, or a file of this kind, which is replaced.
        kind: what the file holds, to be asked for when it is read.
        tensors: by name.
        values: what JSON can express.

    Raises:
        ValueError: if there is something else at the path.
    """
    refuse_others(Path(path), kind)
    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    header = json.dumps({"kind": kind, "values": values})
    return replace_file(
        path, save(own, metadata={HEADER: header, CHECKSUM: _checksum(header, own)})
    )


def refuse_others(path: Path, kind: str) -> None:
    """Raises an error if there is anything at the path that this package has not saved.

    Args:
        path: of a file to be written.
        kind: what it will hold, for the message.

    Raises:
        ValueError: if there is something else.
    """
    if not path.exists() or (path.is_file() and path.stat().st_size == 0):
        return
    try:
        with safe_open(path, framework="numpy") as file:
            is_ours = HEADER in (file.metadata() or {})
    except (SafetensorError, OSError):
        is_ours = False
    if not is_ours:
        raise ValueError(
            f"Expected a new file, or a saved {kind}; got another at {path}. Name another path, "
            "or remove what is there."
        )


def read_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and values of a file that `write_tensors` has written.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if it is damaged, or of another kind.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"No such file: {path}")
    with refusing_damage(f"{path} to be a saved {kind}", "Save it again."):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if metadata[CHECKSUM] != _checksum(metadata[HEADER], tensors):
            raise ValueError("another checksum than the file names")
        header = json.loads(metadata[HEADER])
        found, values = header["kind"], header["values"]
    if found != kind:
        raise ValueError(f"Expected a saved {kind} in {path}; got a saved {found}.")
    return tensors, values


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of all that is in a file."""
    digest = hashlib.sha256(header.encode())
    for name, value in sorted(tensors.items()):
        digest.update(repr((name, str(value.dtype), tuple(value.shape))).encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
