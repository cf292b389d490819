"""The references as they are kept, for some take minutes to compute."""

import json
from pathlib import Path

from trust_zoo.entry import Entry
from trust_zoo.reference import Reference, Summary

PATH = Path(__file__).parents[1] / "data" / "trust_references.json"


def stored_references() -> dict[str, Reference]:
    """Those in the file; none where there is no file yet."""
    if not PATH.exists():
        return {}
    return {name: _read(kept) for name, kept in json.loads(PATH.read_text("utf-8")).items()}


def store(entries: dict[str, Entry], *, again: bool = False) -> None:
    """Computes the references that the file lacks, or all of them, and writes it."""
    kept = {} if again else {n: r for n, r in stored_references().items() if n in entries}
    for name, entry in entries.items():
        if name not in kept:
            kept[name] = entry.reference()
    lines = [f"{json.dumps(name)}: {json.dumps(_plain(kept[name]))}" for name in entries]
    PATH.parent.mkdir(exist_ok=True)
    PATH.write_text("{\n" + ",\n".join(lines) + "\n}\n", "utf-8")


def _plain(reference: Reference) -> dict[str, object]:
    def short(value: float) -> float:
        return float(f"{value:.6g}")

    latents = {
        label: [short(s.mean), short(s.sd), short(s.kurtosis), *map(short, s.quantiles)]
        for label, s in reference.latents.items()
    }
    return {
        "how": reference.how,
        "error": float(f"{reference.error:.1e}"),
        "log_evidence": round(reference.log_evidence, 6),
        "latents": latents,
    }


def _read(kept: dict[str, object]) -> Reference:
    latents = kept["latents"]
    assert isinstance(latents, dict)
    summaries = {label: Summary(*row[:3], tuple(row[3:])) for label, row in latents.items()}
    return Reference(summaries, kept["log_evidence"], kept["error"], kept["how"])  # type: ignore[arg-type]
