"""How released weights lie on disk: a folder with config.json, model.safetensors and CARD.md.

Nothing is unpickled. The card names the SHA-256 of the weights, and loading checks it; saving
prepares a new folder beside the old one and swaps the two, so a broken save leaves the old in
place.
"""

import hashlib
import json
import os
import re
import shutil
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import nn

from amortized.networks import NETWORKS
from amortized.networks.calibration import Calibration
from amortized.priors.named import PRIORS, named_prior

SHIPPED = Path(__file__).resolve().parent
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "CARD.md"


def available() -> list[str]:
    """Names of the networks that come with the package.

    Example:
        >>> isinstance(available(), list)
        True
    """
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{WEIGHTS}"))


def kind_of(name_or_path: str | Path) -> str | None:
    """Which network of ``NETWORKS`` is stored there; None where none is.

    Args:
        name_or_path: as for ``load``.
    """
    for folder in (SHIPPED / str(name_or_path), Path(name_or_path)):
        if (folder / CONFIG).is_file():
            return json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("network")
    return None


def save(network: nn.Module, path: str | Path, card: str = "") -> Path:
    """Write a network into a folder; parameters in float16, buffers as they are.

    Args:
        network: one of the networks of this package.
        path: the folder; an existing one is replaced as a whole.
        card: what CARD.md says beside the checksum.

    Returns:
        The folder.

    Raises:
        TypeError: if the network is not one that ``load`` knows.
    """
    kind = next((k for k, (cls, _) in NETWORKS.items() if type(network) is cls), None)
    if kind is None:
        raise TypeError(
            f"Expected a network of type {' or '.join(c.__name__ for c, _ in NETWORKS.values())}; "
            f"got {type(network).__name__}."
        )
    parameters = {name for name, _ in network.named_parameters()}
    weights = save_tensors(
        {
            name: (value.half() if name in parameters else value).cpu().contiguous()
            for name, value in network.state_dict().items()
        }
    )
    path = Path(path)
    fresh = path.with_name(f".{path.name}.fresh")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    config = {"network": kind, "config": asdict(cast(Any, network.config))}
    calibration: Any = network.calibration
    if calibration is not None:
        config["calibration"] = asdict(calibration)
    (fresh / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (fresh / WEIGHTS).write_bytes(weights)
    (fresh / CARD).write_text(_with_checksum(card, weights), encoding="utf-8")
    _swap(fresh, path)
    return path


def as_stored(network: nn.Module) -> Any:
    """The network as `load` gives it back after `save`: what its card has to be measured on.

    Args:
        network: one of the networks of this package.
    """
    with TemporaryDirectory() as folder:
        return load(save(network, Path(folder) / "network"))


def replace_card(path: str | Path, card: str) -> Path:
    """Write another card beside the weights of a saved network, which stay as they are.

    Args:
        path: the network's folder.
        card: what CARD.md says beside the checksum.

    Returns:
        The folder.

    Raises:
        ValueError: if the old card does not fit the weights.
    """
    path = Path(path)
    weights = _checked_weights(path)  # damaged weights get no new checksum
    fresh = path / f".{CARD}.fresh"
    fresh.write_text(_with_checksum(card, weights), encoding="utf-8")
    os.replace(fresh, path / CARD)
    return path


def _with_checksum(card: str, weights: bytes) -> str:
    checksum = f"SHA-256 of `{WEIGHTS}`: `{hashlib.sha256(weights).hexdigest()}`\n"
    return f"{card.rstrip()}\n\n{checksum}".lstrip()


def _swap(fresh: Path, path: Path) -> None:
    """Puts the fresh folder in the place of the old one, which stays until then."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    try:
        os.replace(fresh, path)
    except OSError:
        if old.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Read a network, by the name of a shipped one or from the folder it was saved in.

    Args:
        name_or_path: a name among ``available()``, or a folder.
        device: where the network is put.

    Raises:
        ValueError: if there is no such network, or its files are damaged or do not fit together.

    Example:
        >>> load("no-such-network")
        Traceback (most recent call last):
        ...
        ValueError: Expected a folder of a saved network or one of [...]; got 'no-such-network'.
    """
    is_path = isinstance(name_or_path, str | os.PathLike)
    folder = SHIPPED / str(name_or_path)
    if is_path and not (folder / CONFIG).is_file():
        folder = Path(name_or_path)
    if not is_path or not (folder / CONFIG).is_file():
        raise ValueError(
            f"Expected a folder of a saved network or one of {available()}; got "
            f"{str(name_or_path)!r}."
        )
    network = _from_config(folder / CONFIG)
    weights = _checked_weights(folder)
    try:
        state = load_tensors(weights)
        network.load_state_dict({name: value.float() for name, value in state.items()})
    except (SafetensorError, RuntimeError) as reason:
        raise ValueError(
            f"Expected {folder / WEIGHTS} to hold the weights that {CONFIG} describes; got "
            f"{reason}. Save or download the network again."
        ) from reason
    return network.to(device, torch.float32).eval()


def _from_config(path: Path) -> nn.Module:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        cls, config_cls = NETWORKS[stored["network"]]
        values = {key: _as_tuples(value) for key, value in stored["config"].items()}
        if stored["network"] == "pfn" and values.get("units") is None:
            # Files of before networks said it; a prior without a name is one in units of its own.
            named = values.get("prior") in PRIORS
            values["units"] = named_prior(values["prior"]).units if named else "raw"
        # The first weights are overwritten: drawing them must not change the user's own draws.
        with torch.random.fork_rng(devices=[]):
            network = cls(config_cls(**values))
        if "calibration" in stored:
            measured = stored["calibration"]
            network.calibration = Calibration(**{k: _as_tuples(v) for k, v in measured.items()})
        return network
    except (ValueError, KeyError, TypeError, RuntimeError) as reason:
        raise ValueError(
            f"Expected {path} to describe one of {sorted(NETWORKS)}; got "
            f"{type(reason).__name__}: {reason}. Save or download the network again."
        ) from reason


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _checked_weights(folder: Path) -> bytes:
    try:
        weights = (folder / WEIGHTS).read_bytes()
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as reason:
        raise ValueError(
            f"Expected {WEIGHTS} and {CARD} in {folder}; got {reason}. "
            "Save or download the network again."
        ) from reason
    actual = hashlib.sha256(weights).hexdigest()
    if actual not in re.findall(r"\b[0-9a-f]{64}\b", card):
        raise ValueError(
            f"Expected {folder / WEIGHTS} with the SHA-256 that {CARD} names; got {actual}. "
            "The file is damaged or was exchanged: save or download the network again."
        )
    return weights
