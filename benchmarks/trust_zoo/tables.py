"""The tables: programs by methods, totals of the methods, and coverage of stated errors."""

from collections import Counter
from typing import Any

import numpy as np

from trust_zoo.reference import Reference
from trust_zoo.verdict import VERDICTS, faults, said, verdict

References = dict[str, Reference]
Record = dict[str, Any]

MARKS = {
    "right": ".",
    "alarm": "a",
    "said": "s",
    "refused": "r",
    "slow": "t",
    "broke": "!",
    "silent": "X",
}
TITLES = {
    "silent": "Wrong and silent",
    "broke": "Broke",
    "slow": "Not done in time",
    "alarm": "Right, but warned",
    "refused": "Refused",
    "said": "Wrong, and said so",
}


def line(record: Record, reference: Reference) -> str:
    """One run, with what is wrong and what was said."""
    kind = verdict(record, reference)
    words = "; ".join(faults(record, reference)[:3]) or record.get("error", "")[:200]
    if kind in ("said", "alarm"):
        words += " | said: " + said(record)[0][:110]
    head = f"{record['method']:<19}{record['program']:<24}{record['seed']:>2}"
    return f"{head}{record['seconds']:>7.1f}s  {kind.upper() if kind == 'silent' else kind} {words}"


def programs_by_methods(records: list[Record], references: References, methods: list[str]) -> str:
    """A row for each program, a mark for each seed."""
    found: dict[tuple[str, str], str] = {}
    for each in sorted(records, key=lambda record: record["seed"]):
        cell = each["program"], each["method"]
        found[cell] = found.get(cell, "") + MARKS[verdict(each, references[each["program"]])]
    rows = [", ".join(f"{mark} {kind}" for kind, mark in MARKS.items()), ""]
    rows.append(f"{'':<24}" + "".join(f"{method:>12}" for method in methods))
    for program in references:
        cells = [found.get((program, method), "") for method in methods]
        if any(cells):
            rows.append(f"{program:<24}" + "".join(f"{cell:>12}" for cell in cells))
    return "\n".join(rows)


def totals(records: list[Record], references: References, methods: list[str]) -> str:
    """How many runs of each method got each verdict; alarms are a share of the right answers."""
    head = f"{'':<20}{'runs':>6}" + "".join(f"{kind:>9}" for kind in VERDICTS)
    rows = [head + f"{'alarms':>9}{'median s':>10}"]
    for method in [*methods, "all"]:
        ours = [each for each in records if method in (each["method"], "all")]
        counts = Counter(verdict(each, references[each["program"]]) for each in ours)
        if ours:
            rate = counts["alarm"] / max(counts["right"] + counts["alarm"], 1)
            median = float(np.median([each["seconds"] for each in ours]))
            numbers = "".join(f"{counts[kind]:>9}" for kind in VERDICTS)
            rows.append(f"{method:<20}{len(ours):>6}{numbers}{rate:>9.1%}{median:>10.1f}")
    return "\n".join(rows)


def listed(records: list[Record], references: References) -> str:
    """Every run that is not simply right, under its verdict."""
    rows = []
    ordered = sorted(records, key=lambda r: (r["program"], r["method"], r["seed"]))
    for kind, title in TITLES.items():
        ours = [each for each in ordered if verdict(each, references[each["program"]]) == kind]
        rows += ["", f"{title}: {len(ours)}"]
        rows += [line(each, references[each["program"]]) for each in ours]
    return "\n".join(rows)


def report(records: list[Record], references: References, methods: list[str]) -> str:
    """All of it."""
    parts = (
        programs_by_methods(records, references, methods),
        totals(records, references, methods),
        listed(records, references),
    )
    return "\n\n".join(parts)


def evidence_report(records: list[Record], references: References, methods: list[str]) -> str:
    """How often the truth lies within 1, 2 and 3 stated errors."""
    rows = [f"{'':<22}{'runs':>5}{'1':>8}{'2':>8}{'3 errors':>10}{'median stated':>15}{'rms':>8}"]
    stating = [
        each
        for each in records
        if each["status"] == "answered" and each["log_evidence_error"] is not None
    ]
    for method in [*methods, "both"]:
        ours = [each for each in stating if method in (each["method"], "both")]
        rows.append(_coverage(method, ours, references))
        quiet = [each for each in ours if not said(each)]
        rows.append(_coverage("  that said nothing", quiet, references))
    for program in references:
        ours = [each for each in stating if each["program"] == program]
        if ours:
            rows.append(_coverage(program, ours, references))
    rows.append(f"{len(records) - len(stating)} of {len(records)} runs stated no error.")
    return "\n".join(rows)


def _coverage(name: str, records: list[Record], references: References) -> str:
    if not records:
        return f"{name:<22}{0:>5}"
    right = np.array([references[each["program"]].log_evidence for each in records])
    own = np.array([references[each["program"]].error for each in records])
    off = np.array([each["log_evidence"] for each in records]) - right
    stated = np.array([each["log_evidence_error"] for each in records])
    errors = np.abs(off) / np.maximum(np.hypot(stated, own), 1e-3)
    within = "".join(f"{np.mean(errors <= k):>{w}.1%}" for k, w in ((1, 8), (2, 8), (3, 10)))
    tail = f"{np.median(stated):>15.3f}{np.sqrt(np.mean(off**2)):>8.3f}"
    return f"{name:<22}{len(records):>5}{within}{tail}"
