"""Is any answer wrong in silence? Every method on a zoo of programs whose answers are known.

    python benchmarks/trust.py --methods auto smc nuts --seeds 3 --jobs 2
    python benchmarks/trust.py --evidence

An answer is wrong where a mean is more than .2 standard deviations off, a standard deviation more
than 20%, or the log evidence more than 5 stated errors; for heavy tails, whose moments a thousand
draws do not know, shares of the draws below known quantiles take the moments' place. It is silent
where it raised no error, warned of nothing and flagged nothing: see `trust_zoo.verdict`. Each run
has a process of its own and a limit of time. Runs are kept as lines of JSON and not run again.

``--evidence`` counts how often the log evidence lies within 1, 2 and 3 stated errors, over 15
programs, ten seeds and SMC's own start and the prior.

``--references`` computes the right answers that ``data/trust_references.json`` lacks.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries look

import argparse  # noqa: E402
import json  # noqa: E402
import multiprocessing  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from multiprocessing.connection import Connection, wait  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

import numpy as np  # noqa: E402

import amortized  # noqa: E402
from trust_zoo import EVIDENCE, ZOO  # noqa: E402
from trust_zoo.answer import OPTIONS, answer, one_thread  # noqa: E402
from trust_zoo.reference import Reference  # noqa: E402
from trust_zoo.stored import store, stored_references  # noqa: E402
from trust_zoo.verdict import faults, said, verdict  # noqa: E402

FORK = multiprocessing.get_context("fork")
COLUMNS = ("right", "alarm", "said", "refused", "slow", "broke", "silent")


class Run(NamedTuple):
    """What is to be run."""

    method: str
    program: str
    seed: int


class Running(NamedTuple):
    """A process under way."""

    run: Run
    process: Any
    ends: float


def _work(run: Run, reference: Reference, results: Connection) -> None:
    one_thread()
    results.send(answer(ZOO[run.program], reference, run.method, run.seed))


def run_all(runs: list[Run], jobs: int, limit: float, path: Path) -> None:
    """Runs those that the file lacks, some at a time, and adds a line for each."""
    references, kept = stored_references(), {key_of(record) for record in read(path)}
    waiting = [run for run in runs if run not in kept][::-1]
    under_way: dict[Connection, Running] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                run = waiting.pop()
                ours, theirs = FORK.Pipe(duplex=False)
                work = (run, references[run.program], theirs)
                process = FORK.Process(target=_work, args=work, daemon=True)
                process.start()
                theirs.close()
                under_way[ours] = Running(run, process, time.monotonic() + limit)
            for results in _done(under_way):
                running = under_way.pop(results)
                record = running.run._asdict() | _result(running, results, limit)
                file.write(json.dumps(record) + "\n")
                file.flush()
                print(line(record, references[running.run.program]), flush=True)


def _done(under_way: dict[Connection, Running]) -> list[Connection]:
    """Those that have ended, or whose time is over."""
    ready = wait(list(under_way), timeout=1.0)
    over = [pipe for pipe, running in under_way.items() if time.monotonic() > running.ends]
    return [pipe for pipe in under_way if pipe in ready or pipe in over]


def _result(running: Running, results: Connection, limit: float) -> dict[str, Any]:
    record: dict[str, Any] = {"status": "slow", "seconds": limit}
    if results.poll():
        try:
            record = results.recv()
        except EOFError:  # the process died
            record = {"status": "broke", "error": "the process died", "seconds": 0.0}
    running.process.kill()
    running.process.join()
    results.close()
    return record


def read(path: Path) -> list[dict[str, Any]]:
    """The runs that are kept."""
    if not path.exists():
        return []
    return [json.loads(each) for each in path.read_text("utf-8").splitlines()]


def key_of(record: dict[str, Any]) -> Run:
    """Which run a record is of."""
    return Run(record["method"], record["program"], record["seed"])


def line(record: dict[str, Any], reference: Reference) -> str:
    """One run, with what is wrong and what was said."""
    kind = verdict(record, reference)
    words = "; ".join(faults(record, reference)[:3]) or record.get("error", "")[:200]
    if kind in ("said", "alarm"):
        words += " | said: " + said(record)[0][:110]
    head = f"{record['method']:<19}{record['program']:<24}{record['seed']:>2}"
    return f"{head}{record['seconds']:>7.1f}s  {kind.upper() if kind == 'silent' else kind} {words}"


def report(records: list[dict[str, Any]], methods: list[str]) -> str:
    """The table of methods, and every run that is wrong and silent, or that broke."""
    references = stored_references()
    records = [each for each in records if each["program"] in references]
    rows = [f"{'':<20}{'runs':>6}" + "".join(f"{c:>9}" for c in COLUMNS) + f"{'alarms':>9}{'s':>8}"]
    for method in methods:
        ours = [record for record in records if record["method"] == method]
        if not ours:
            continue
        counts = Counter(verdict(each, references[each["program"]]) for each in ours)
        accurate = counts["right"] + counts["alarm"]
        rate = counts["alarm"] / max(accurate, 1)
        median = float(np.median([each["seconds"] for each in ours]))
        numbers = "".join(f"{counts[column]:>9}" for column in COLUMNS)
        rows.append(f"{method:<20}{len(ours):>6}{numbers}{rate:>9.1%}{median:>8.1f}")
    for title, kinds in (
        ("Wrong and silent", ("silent",)),
        ("Broke, or not done in time", ("broke", "slow")),
        ("Right, but warned", ("alarm",)),
        ("Refused", ("refused",)),
        ("Wrong, and said so", ("said",)),
    ):
        rows += ["", f"{title}:"]
        for each in sorted(records, key=lambda r: (r["program"], r["method"], r["seed"])):
            reference = references[each["program"]]
            if each["method"] in methods and verdict(each, reference) in kinds:
                rows.append(line(each, reference))
    return "\n".join(rows)


def evidence_report(records: list[dict[str, Any]], methods: list[str]) -> str:
    """How often the truth lies within 1, 2 and 3 stated errors."""
    references = stored_references()
    rows = [f"{'':<22}{'runs':>5}{'1':>8}{'2':>8}{'3 errors':>10}{'median stated':>15}{'rms':>8}"]
    for method in [*methods, "both"]:
        ours = [
            each
            for each in records
            if each["method"] in (methods if method == "both" else [method])
            and each["program"] in EVIDENCE
            and each["status"] == "answered"
            and each["log_evidence_error"] is not None
        ]
        rows.append(_coverage(method, ours, references))
        quiet = [each for each in ours if not said(each)]
        rows.append(_coverage("  that said nothing", quiet, references))
    return "\n".join(rows)


def _coverage(
    name: str, records: list[dict[str, Any]], references: dict[str, Reference]
) -> str:
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


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = [name for name in OPTIONS if name != "smc from the prior"]
    parser.add_argument("--methods", nargs="+", choices=OPTIONS, default=methods)
    parser.add_argument("--programs", nargs="+", default=[""], help="parts of programs' names")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds for one run")
    parser.add_argument("--kept", type=Path, default=Path("runs/trust.jsonl"))
    parser.add_argument("--evidence", action="store_true", help="coverage of stated errors")
    parser.add_argument("--references", action="store_true", help="compute those that lack")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if arguments.references:
        store(ZOO)
        return
    programs = [n for n in ZOO if any(part in n for part in arguments.programs)]
    chosen, seeds = arguments.methods, arguments.seeds
    if arguments.evidence:
        chosen, seeds = ["smc", "smc from the prior"], 10
        programs = [name for name in programs if name in EVIDENCE]
    runs = [Run(m, p, s) for s in range(seeds) for m in chosen for p in programs]
    print(f"amortized from {Path(amortized.__file__).parent}")
    if not arguments.only_report:
        run_all(runs, arguments.jobs, arguments.limit, arguments.kept)
    records = [each for each in read(arguments.kept) if key_of(each) in set(runs)]
    print("\n" + (evidence_report if arguments.evidence else report)(records, chosen))


if __name__ == "__main__":
    main()
