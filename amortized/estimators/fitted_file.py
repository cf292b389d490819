"""Fitted estimators as files: arrays in safetensors, the rest as JSON in its header, no pickle.

A file contains the training data as numbers and the name of the network, but neither the network
nor encoded data: a few bytes per cell, and nothing that could be executed.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save as save_arrays
from torch import nn

from amortized.files.atomic import replace_file
from amortized.files.damage import refusing_damage
from amortized.files.tensors import CHECKSUM, HEADER, refuse_others
from amortized.tables.encoding import TableEncoder
from amortized.tables.views import ready

_MAY_BE_MISSING = ("X_train_", "_seen", "steps_", "values_")
T = TypeVar("T", bound="FittedFile")


class FittedFile:
    """Adds ``save`` and ``load`` to an estimator with a network.

    Files and pickles do not contain ``network_``, which `_network` finds by the parameter
    ``network``, nor what the subclass names in ``_MADE``, which is large and quickly made again, by
    `_make_views`. A network given as a parameter is stored on the CPU and moved to the estimator's
    device when loaded, if it is available, so that they can be opened on any machine.
    """

    _MADE: tuple[str, ...] = ()

    def _network(self) -> Any:
        """The network that the parameters ask for."""
        raise NotImplementedError

    def _make_views(self) -> None:
        """Makes what ``_MADE`` names."""

    def _drop_views(self) -> None:
        for name in self._MADE:
            self.__dict__.pop(name, None)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        on_cpu = {id(v): _on_cpu(v) for v in state.values() if isinstance(v, nn.Module)}
        left_out = ("network_", *self._MADE)
        return {n: on_cpu.get(id(v), v) for n, v in state.items() if n not in left_out}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "device" in state:
            state["device"] = _reachable(state["device"])
            for value in state.values():
                if isinstance(value, nn.Module):
                    value.to(state["device"])
        super().__setstate__(state)  # type: ignore[misc]
        if "n_features_in_" in state:
            self.network_: Any = ready(self._network(), state.get("device", "cpu"))
            self._make_views()

    def save(self, path: str | Path) -> Path:
        """Writes the fitted estimator to a file; an interrupted write leaves the old file.

        Args:
            path: a new or empty file, or that of a saved estimator, which is replaced.

        Raises:
            ValueError: if a parameter or the classes cannot be stored without pickle, or the path
                contains something else.
        """
        arrays, values = {}, {}
        state: dict[str, Any] = self.__getstate__()
        for name, value in state.items():
            if name == "_metadata_request":
                continue  # metadata requests of pipelines are not stored
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                arrays[name] = value.copy(order="C")
            else:
                values[name] = _as_json(name, value)
        header = json.dumps(values | {"_estimator": type(self).__name__})
        refuse_others(Path(path), "estimator")
        metadata = {HEADER: header, CHECKSUM: _checksum(header, arrays)}
        return replace_file(path, save_arrays(arrays, metadata=metadata))

    @classmethod
    def load(cls: type[T], path: str | Path, *, device: str | None = None) -> T:
        """Loads an estimator written by ``save``; its network is loaded by name.

        Args:
            path: the file.
            device: device of the network; None is the device on which it was fitted, or the CPU
                with a warning if that is not available.

        Raises:
            ValueError: if the file is damaged, or contains another estimator.
        """
        with refusing_damage(
            f"{path} to be written by {cls.__name__}.save", "Save the estimator again."
        ):
            header, state = _read(Path(path))
            found = header.pop("_estimator")
            if found == cls.__name__:
                state |= {name: _from_json(value) for name, value in header.items()}
                if device is not None:
                    state["device"] = device
                estimator: Any = cls.__new__(cls)
                estimator.__setstate__(state)
                return estimator
        raise ValueError(f"Expected a {cls.__name__} in {path}; got a {found}. Load that.")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads values and arrays from a file after verifying its checksum."""
    if not path.exists():
        raise FileNotFoundError(f"No such file: {path}")
    if not path.is_file():
        raise ValueError("no file")
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    header = metadata[HEADER]
    if metadata.get(CHECKSUM) != _checksum(header, arrays):
        raise ValueError("another checksum than the file names")
    may_be_missing = () if "_x_mean" in arrays else _MAY_BE_MISSING  # rows are finite numbers
    for name, array in arrays.items():
        missing = np.isnan(array) if name in may_be_missing else False
        if not (np.isfinite(array) | missing).all():
            raise ValueError(f"numbers in {name} that are not finite")
    return json.loads(header), arrays


def _checksum(header: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    """The SHA-256 of the contents of a file."""
    digest = hashlib.sha256(header.encode())
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode() + array.tobytes())
    return digest.hexdigest()


def _on_cpu(network: nn.Module) -> nn.Module:
    """The network on the CPU; copied if necessary, because modules are moved in place."""
    tensors = (*network.parameters(), *network.buffers())
    return network if all(t.device.type == "cpu" for t in tensors) else deepcopy(network).cpu()


def _reachable(device: str) -> str:
    """The device, or "cpu" with a warning if it is not available."""
    wanted = torch.device(device)
    kind: Any = getattr(torch, wanted.type, None)
    count = kind.device_count() if hasattr(kind, "device_count") else 0
    if wanted.type == "cpu" or (wanted.index or 0) < count:
        return device
    warnings.warn(
        f"Expected the device {device!r}, on which the estimator was fitted; this machine has "
        f"{count} of that kind. It runs on 'cpu' now.",
        stacklevel=5,
    )
    return "cpu"


def _as_json(name: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return value.item()
    if isinstance(value, tuple | list) and all(isinstance(member, str) for member in value):
        return {"names": list(value), "tuple": isinstance(value, tuple)}
    if isinstance(value, TableEncoder):
        return {"table_encoder": value.state()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
        values = value.tolist()
        if all(isinstance(member, bool | int | float | str) for member in values):
            return {"array": values, "dtype": value.dtype.str}
    raise ValueError(
        f"Expected {name} to be a number, text, or an array of these; got "
        f"{type(value).__name__}. A network goes into a folder of its own by "
        "amortized.pretrained.save: then give that folder as network, and an int as random_state."
    )


def _from_json(value: Any) -> Any:
    if isinstance(value, dict) and "table_encoder" in value:
        return TableEncoder.from_state(value["table_encoder"])
    if isinstance(value, dict) and "names" in value:
        return tuple(value["names"]) if value["tuple"] else value["names"]
    if isinstance(value, dict):
        # The width of strings follows from the strings, not from the file.
        return np.array(value["array"], dtype=object if value["dtype"] == "|O" else str)
    return value
