"""A posterior's draws, and what belongs to them, as one file."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.files.tensors import read_tensors, write_tensors
from amortized.posterior.inference_data import Groups

_TENSORS = ("log_weights", "cluster", "log_evidence", "log_evidence_error")
_MIXTURE = ("log_weights", "means", "scale_tril")
_KIND = "posterior"


@dataclass(frozen=True)
class StoredGroups:
    """Groups that were made before the posterior was saved, for the same draws."""

    groups: Groups

    def __call__(self, draws: Mapping[str, Tensor]) -> Groups:
        """The groups."""
        return self.groups


def write_posterior(path: str | Path, arguments: Mapping[str, Any], groups: Groups) -> Path:
    """Writes what a posterior is made of.

    Args:
        path: new, empty, or a saved posterior, which is replaced.
        arguments: arguments of `amortized.posterior.Posterior`; functions are left out.
        groups: groups of its equally weighted draws.
    """
    tensors: dict[str, Tensor] = {}
    for group, values in {"draws": arguments["draws"], "discrete": arguments["discrete"]}.items():
        tensors |= {f"{group}/{name}": value for name, value in values.items()}
    for group, values in groups.items():
        tensors |= {f"groups/{group}/{name}": value for name, value in values.items()}
    tensors |= {name: arguments[name] for name in _TENSORS if arguments[name] is not None}
    if arguments["mixture"] is not None:
        tensors |= {f"mixture/{part}": getattr(arguments["mixture"], part) for part in _MIXTURE}
    diagnostics: dict[str, Any] = {}
    for name, value in arguments["diagnostics"].items():
        if isinstance(value, Tensor):
            tensors[f"diagnostics/{name}"] = value
        elif isinstance(value, str | int | float | list | tuple | None):
            diagnostics[name] = value
    values = {
        "diagnostics": diagnostics,
        "n_chains": arguments["n_chains"],
        "batch_shape": list(arguments["batch_shape"]),
        "names": list(arguments["draws"]),
    }
    return write_tensors(path, _KIND, tensors, values)


def read_posterior(path: str | Path) -> dict[str, Any]:
    """Reads the arguments of a saved posterior.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is damaged, or contains something else.
    """
    tensors, values = read_tensors(path, _KIND)

    def group_of(prefix: str) -> dict[str, Tensor]:
        n = len(prefix) + 1
        return {k[n:]: v for k, v in tensors.items() if k.startswith(f"{prefix}/")}

    draws, mixture = group_of("draws"), group_of("mixture")
    groups: dict[str, dict[str, Tensor]] = {}
    for name, value in group_of("groups").items():
        group, _, site = name.partition("/")
        groups.setdefault(group, {})[site] = value
    return {
        "draws": {name: draws[name] for name in values["names"]},
        "n_chains": values["n_chains"],
        "batch_shape": values["batch_shape"],
        "discrete": group_of("discrete"),
        "groups": StoredGroups(groups),
        "mixture": _mixture(**mixture) if mixture else None,
        "diagnostics": values["diagnostics"] | group_of("diagnostics"),
        **{name: tensors.get(name) for name in _TENSORS},
    }


def _mixture(log_weights: Tensor, means: Tensor, scale_tril: Tensor) -> GaussianMixture:
    return GaussianMixture(log_weights, means, scale_tril)
