"""Storage of networks: a folder with config.json, model.safetensors and CARD.md.

Nothing is unpickled, and files are not trusted: the card states the SHA-256 of the other two files,
every field of the configuration is checked, and the shapes of the weights are compared with those
of a network on the meta device before any is loaded.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from amortized.files.atomic import replace_file
from amortized.networks import NETWORKS
from amortized.networks.calibration import Calibration
from amortized.networks.config_fields import check_types
from amortized.pretrained.folders import in_place, read_folder, replace_folder, strangers
from amortized.priors.named import PRIORS, named_prior
from amortized.simulation_based.learning import FLOWS

KINDS = {**NETWORKS, **FLOWS}
SHIPPED = Path(__file__).resolve().parent
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "CARD.md"
_FILES = (CONFIG, WEIGHTS, CARD)
_MOST_BYTES = 2**20  # of a configuration, a card, and the header of the weights' file
_AGAIN = "Save or download the network again."


def available() -> list[str]:
    """Names of the networks that come with the package.

    Example:
        >>> isinstance(available(), list)
        True
    """
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def kind_of(name_or_path: str | Path) -> str | None:
    """The kind of a stored network, a key of ``NETWORKS``; None if there is none.

    Args:
        name_or_path: as for ``load``.
    """
    folder = _folder(name_or_path)
    if folder is None:
        return None
    return read_folder(folder, lambda at: _configuration(_read(at, CONFIG), at))[0]


def save(network: nn.Module, path: str | Path, card: str = "") -> Path:
    """Writes a network into a folder, with parameters in float16 and buffers unchanged.

    The target of a symbolic link is replaced, not the link. If the process is interrupted, either
    the old network or the new one can be loaded.

    Args:
        network: one of the networks of this package.
        path: the folder; new, empty, or that of a saved network, which is replaced.
        card: text of CARD.md, to which checksums are added.

    Returns:
        The folder.

    Raises:
        TypeError: if ``load`` does not support the network.
        ValueError: if the path contains something else, or a weight cannot be stored.
    """
    kind = next((k for k, (cls, _) in KINDS.items() if type(network) is cls), None)
    if kind is None:
        raise TypeError(
            f"Expected a network of type {' or '.join(c.__name__ for c, _ in KINDS.values())}; "
            f"got {type(network).__name__}."
        )
    path = Path(path)
    read_folder(path, _refuse_others)
    config = {"network": kind, "config": asdict(cast(Any, network.config))}
    calibration: Any = network.calibration
    if calibration is not None:
        config["calibration"] = asdict(calibration)
    files = {
        CONFIG: (json.dumps(config, indent=2) + "\n").encode(),
        WEIGHTS: save_tensors(_stored(network)),
    }
    replace_folder(path, files | {CARD: _with_checksums(card, files)})
    return path


def _stored(network: nn.Module) -> dict[str, Tensor]:
    """The tensors of a network, as they are stored."""
    parameters = {name for name, _ in network.named_parameters()}
    stored = {}
    for name, value in network.state_dict().items():
        kept = stored[name] = (value.half() if name in parameters else value).cpu().contiguous()
        if not kept.isfinite().all():
            raise ValueError(
                f"Expected weights that float16 can hold, below 65,504; got {name} up to "
                f"{value.abs().max().item():g}. Train again with a lower learning rate."
            )
    return stored


def _refuse_others(folder: Path) -> None:
    """Raises an error if the folder contains anything that ``save`` has not written."""
    if not os.path.lexists(folder):
        return
    if not folder.is_dir():
        raise ValueError(f"Expected a folder for the network; got the file {folder}. Name another.")
    found = strangers(folder, _FILES)
    try:
        if not found and any(folder.iterdir()):
            _configuration(_read(folder, CONFIG), folder)
    except ValueError:
        found = [CONFIG]
    if found:
        raise ValueError(
            "Expected a new folder, an empty one, or that of a saved network; got one with another "
            f"{', '.join(found[:3])}: {folder}. Name another, or move what is in it."
        )


def as_stored(network: nn.Module) -> Any:
    """The network as `load` returns it after `save`, on which its card must be measured.

    Args:
        network: one of the networks of this package.
    """
    with TemporaryDirectory() as folder:
        return load(save(network, Path(folder) / "network"))


def replace_card(path: str | Path, card: str) -> Path:
    """Replaces the card of a saved network; its weights remain unchanged.

    Args:
        path: the network's folder.
        card: text of CARD.md, to which checksums are added.

    Returns:
        The folder.

    Raises:
        ValueError: if the checksums of the old card do not match the files.
    """
    folder = in_place(Path(path))
    _network(folder)  # damaged files get no new checksum
    files = {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}
    replace_file(folder / CARD, _with_checksums(card, files))
    return Path(path)


def _with_checksums(card: str, files: Mapping[str, bytes]) -> bytes:
    parts = [card.strip()] if card.strip() else []
    parts += [f"SHA-256 of `{n}`: `{hashlib.sha256(c).hexdigest()}`" for n, c in files.items()]
    return ("\n\n".join(parts) + "\n").encode()


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Loads a pretrained network by its name, or a saved network from its folder.

    Args:
        name_or_path: a name among ``available()``, or a folder.
        device: device of the network.

    Raises:
        ValueError: if there is no such network, or if its files are damaged or inconsistent.

    Example:
        >>> load("no-such-network")
        Traceback (most recent call last):
        ...
        ValueError: Expected a folder of a saved network or one of [...]; got 'no-such-network'.
    """
    folder = _folder(name_or_path)
    if folder is None:
        raise ValueError(
            f"Expected a folder of a saved network or one of {available()}; got "
            f"{str(name_or_path)!r:.999}."
        )
    network = read_folder(folder, _network)
    return network.to(device, torch.float32).eval()


def _folder(name_or_path: Any) -> Path | None:
    """The folder of the network with this name or path, if there is one."""
    if not isinstance(name_or_path, str | os.PathLike):
        return None
    for folder in (SHIPPED / str(name_or_path), Path(name_or_path)):
        try:
            read_folder(folder, lambda at: (at / CONFIG).resolve(strict=True))
        except (OSError, ValueError):  # missing, or not a valid name of a folder
            continue
        return folder
    return None


def _network(folder: Path) -> nn.Module:
    """The network in a folder, on the CPU."""
    files = {CONFIG: _read(folder, CONFIG)}
    card = _read(folder, CARD)
    _check(files, card, folder)
    # On the meta device, so that a file cannot claim memory before its shapes are checked.
    network = _without_weights(files[CONFIG], folder)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    most = _MOST_BYTES + sum(8 * shape.numel() for shape in shapes.values())
    files[WEIGHTS] = _read(folder, WEIGHTS, most)
    _check(files, card, folder)
    try:
        state = {
            name: value.to(torch.float32, copy=True)
            for name, value in load_tensors(files[WEIGHTS]).items()
            if value.is_floating_point()
        }
        for name, value in state.items():
            if value.shape != shapes.get(name) or not value.isfinite().all():
                raise ValueError(f"{name} of shape {tuple(value.shape)}, or not finite")
        network.load_state_dict(state, assign=True)
    except (SafetensorError, RuntimeError, ValueError) as reason:
        raise ValueError(
            f"Expected {folder / WEIGHTS} to hold the weights that {CONFIG} describes; got "
            f"{reason}. {_AGAIN}"
        ) from reason
    return network


def _configuration(content: bytes, folder: Path) -> tuple[str, Any, Calibration | None]:
    """The kind of the network in a folder, its configuration and its calibration."""
    try:
        stored = json.loads(content.decode())
        kind, values = stored["network"], _as_tuples(stored["config"])
        if kind == "pfn" and values.get("units") is None:
            # Old files lack the field; priors without a name have units of their own.
            named = values.get("prior") in PRIORS
            values["units"] = named_prior(values["prior"]).units if named else "raw"
        measured = _as_tuples(stored.get("calibration"))
        calibration = None if measured is None else Calibration(**measured)
        if calibration is not None:
            check_types(calibration)
        return kind, KINDS[kind][1](**values), calibration
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as reason:
        raise _no_description(folder, reason) from reason


def _as_tuples(value: Any) -> Any:
    """JSON has no tuples."""
    if isinstance(value, dict):
        return {name: _as_tuples(member) for name, member in value.items()}
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _without_weights(content: bytes, folder: Path) -> nn.Module:
    """The network that a configuration describes, on the meta device."""
    kind, config, calibration = _configuration(content, folder)
    try:
        with torch.device("meta"):
            network: Any = KINDS[kind][0](config)
        network.calibration = calibration
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as reason:
        raise _no_description(folder, reason) from reason
    return network


def _no_description(folder: Path, reason: Exception) -> ValueError:
    return ValueError(
        f"Expected {folder / CONFIG} to describe one of {sorted(KINDS)}; got "
        f"{type(reason).__name__}: {reason!s:.999}. {_AGAIN}"
    )


def _read(folder: Path, name: str, most: int = _MOST_BYTES) -> bytes:
    """Content of a regular file of limited size."""
    path = folder / name
    try:
        found = path.stat()
        if stat.S_ISREG(found.st_mode) and found.st_size <= most:
            return path.read_bytes()
        reason = f"{found.st_size} bytes" if stat.S_ISREG(found.st_mode) else "something else"
    except OSError as error:
        reason = str(error)
    raise ValueError(
        f"Expected {CONFIG}, {WEIGHTS} and {CARD} in {folder}, {name} of at most {most} bytes; got "
        f"{reason}. {_AGAIN}"
    )


def _check(files: Mapping[str, bytes], card: bytes, folder: Path) -> None:
    """Raises where a file is not the one whose checksum is in the card."""
    named = re.findall(rb"\b[0-9a-f]{64}\b", card)
    for name, content in files.items():
        actual = hashlib.sha256(content).hexdigest()
        if actual.encode() not in named:
            raise ValueError(
                f"Expected {folder / name} with the SHA-256 that {CARD} names; got {actual}. "
                f"The file is damaged or was exchanged. {_AGAIN}"
            )
