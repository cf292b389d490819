"""Fitted estimators as files: arrays in safetensors, the rest as JSON in its header, no pickle.

A file holds the training data as numbers and the name of the network, not the network and not its
encoding of the data: some bytes a cell, and nothing in it can run.
"""

import json
import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn

from amortized.tables.encoding import TableEncoder

_HEADER = "amortized"
T = TypeVar("T", bound="FittedFile")


class FittedFile:
    """Adds ``save`` and ``load`` to an estimator whose ``__setstate__`` makes the rest again.

    Networks among its state are kept on the CPU, whatever device they ran on, and go to the
    estimator's own device again, or where there is none stay: also a pickle opens on any machine.
    """

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[assignment]
        on_cpu = {id(v): _on_cpu(v) for v in state.values() if isinstance(v, nn.Module)}
        return {name: on_cpu.get(id(value), value) for name, value in state.items()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "device" in state:
            state["device"] = _reachable(state["device"])
            for value in state.values():
                if isinstance(value, nn.Module):
                    value.to(state["device"])
        super().__setstate__(state)  # type: ignore[misc]

    def save(self, path: str | Path) -> Path:
        """Write the fitted estimator into one file.

        Args:
            path: the file; an existing one is replaced.

        Raises:
            ValueError: if a parameter or the classes cannot be written without pickle.
        """
        arrays, header = {}, {}
        state: dict[str, Any] = self.__getstate__()
        for name, value in state.items():
            if name == "_metadata_request":
                continue  # what a pipeline passes on is no part of the answer
            if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
                arrays[name] = value.copy(order="C")
            else:
                header[name] = _as_json(name, value)
        header["_estimator"] = type(self).__name__
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        save_file(arrays, partial, metadata={_HEADER: json.dumps(header)})
        return partial.replace(path)

    @classmethod
    def load(cls: type[T], path: str | Path, *, device: str | None = None) -> T:
        """Read an estimator that ``save`` has written; its network is loaded by name.

        Args:
            path: the file.
            device: where the network runs; None is where it ran, or the CPU with a warning where
                this machine has no such device.

        Raises:
            ValueError: if the file is damaged, or holds another estimator.
        """
        try:
            with safe_open(Path(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})[_HEADER])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, ValueError) as reason:
            raise ValueError(
                f"Expected {path} to be written by {cls.__name__}.save; got {reason}. Save the "
                "estimator again."
            ) from reason
        found = header.pop("_estimator")
        if found != cls.__name__:
            raise ValueError(f"Expected a {cls.__name__} in {path}; got a {found}. Load that.")
        for name, value in header.items():
            state[name] = _from_json(value)
        if device is not None:
            state["device"] = device
        estimator: Any = cls.__new__(cls)
        estimator.__setstate__(state)
        return estimator


def _on_cpu(network: nn.Module) -> nn.Module:
    """The network, or a copy where it is elsewhere: a module moves in place."""
    tensors = (*network.parameters(), *network.buffers())
    return network if all(t.device.type == "cpu" for t in tensors) else deepcopy(network).cpu()


def _reachable(device: str) -> str:
    """The device, or "cpu" with a warning on a machine that lacks it."""
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
        return np.array(value["array"], dtype=value["dtype"])
    return value
