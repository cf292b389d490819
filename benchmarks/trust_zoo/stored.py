"""The references as they are kept, for some take minutes to compute, with their second opinions."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trust_zoo.reference import Reference, Summary
from trust_zoo.second import Check

PATH = Path(__file__).parents[1] / "data" / "trust_references.json"


def stored_references() -> dict[str, Reference]:
    """Those in the file; none where there is no file yet."""
    return {name: _reference(kept) for name, kept in _kept().items()}


def stored_checks() -> dict[str, Check]:
    """How far the second answers were from the references."""
    return {name: Check(*kept["second"]) for name, kept in _kept().items()}


def store(found: Mapping[str, tuple[Reference, Check]], order: list[str]) -> None:
    """Puts references into the file, beside those that it has.

    Args:
        found: new ones, by the names of their programs.
        order: the programs' names; what belongs to none of them is dropped.
    """
    kept = _kept() | {name: _plain(*each) for name, each in found.items()}
    lines = [f"{json.dumps(name)}: {json.dumps(kept[name])}" for name in order if name in kept]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _kept() -> dict[str, dict[str, Any]]:
    return json.loads(PATH.read_text("utf-8")) if PATH.exists() else {}


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _plain(reference: Reference, second: Check) -> dict[str, object]:
    latents = {
        label: [_short(s.mean), _short(s.sd), _short(s.kurtosis), *map(_short, s.quantiles)]
        for label, s in reference.latents.items()
    }
    return {
        "how": reference.how,
        "error": float(f"{reference.error:.1e}"),
        "second": [round(second.off, 4), round(second.error, 4), second.what],
        "log_evidence": round(reference.log_evidence, 6),
        "latents": latents,
    }


def _reference(kept: Mapping[str, Any]) -> Reference:
    summaries = {
        label: Summary(row[0], row[1], row[2], tuple(row[3:]))
        for label, row in kept["latents"].items()
    }
    return Reference(summaries, kept["log_evidence"], kept["error"], kept["how"])
