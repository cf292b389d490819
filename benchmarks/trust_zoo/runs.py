"""Runs in processes of their own, each with a limit of time, kept as lines of JSON.

The limit is of the processor's time, so that a busy machine stops no run that is in time elsewhere.
"""

import json
import math
import multiprocessing
import resource
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from trust_zoo import ZOO
from trust_zoo.answer import answer, one_thread
from trust_zoo.reference import Reference

PATIENCE = 10  # times the limit by the clock, for a process that hangs
FORK = multiprocessing.get_context("fork")
Record = dict[str, Any]


class Run(NamedTuple):
    """What is to be run."""

    method: str
    program: str
    seed: int


class _Running(NamedTuple):
    """A process under way."""

    run: Run
    process: Any
    ends: float


def read(path: Path) -> list[Record]:
    """The runs that are kept; the last, where one was run again."""
    if not path.exists():
        return []
    records = map(json.loads, path.read_text("utf-8").splitlines())
    return list({key_of(record): record for record in records}.values())


def key_of(record: Record) -> Run:
    """Which run a record is of."""
    return Run(record["method"], record["program"], record["seed"])


def missing(runs: list[Run], path: Path, limit: float) -> list[Run]:
    """Those that the file lacks, or that were stopped there after less time."""
    kept = [each for each in read(path) if each["status"] != "slow" or each["seconds"] >= limit]
    done = set(map(key_of, kept))
    return [run for run in runs if run not in done]


def run_all(
    runs: list[Run],
    references: dict[str, Reference],
    path: Path,
    jobs: int,
    limit: float,
    report: Callable[[Record], None],
) -> None:
    """Runs those that the file lacks, some at a time, and adds a line for each.

    Args:
        runs: what is wanted.
        references: of their programs.
        path: of the file.
        jobs: processes at a time.
        limit: seconds of the processor for one run.
        report: is called with each new record.
    """
    waiting = missing(runs, path, limit)[::-1]
    under_way: dict[Connection, _Running] = {}
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        while waiting or under_way:
            while waiting and len(under_way) < jobs:
                run = waiting.pop()
                pipe, process = _start(run, references[run.program], limit)
                under_way[pipe] = _Running(run, process, time.monotonic() + PATIENCE * limit)
            for pipe in _done(under_way):
                running = under_way.pop(pipe)
                record = running.run._asdict() | _result(running, pipe, limit)
                file.write(json.dumps(record) + "\n")
                file.flush()
                report(record)


def _start(run: Run, reference: Reference, limit: float) -> tuple[Connection, Any]:
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_work, args=(run, reference, theirs, limit), daemon=True)
    process.start()
    theirs.close()
    return ours, process


def _work(run: Run, reference: Reference, results: Connection, limit: float) -> None:
    seconds = math.ceil(limit)
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    one_thread()
    results.send(answer(ZOO[run.program], reference, run.method, run.seed))


def _done(under_way: dict[Connection, _Running]) -> list[Connection]:
    """Those that have ended, or whose time is over."""
    ready = wait(list(under_way), timeout=1.0)
    over = [pipe for pipe, running in under_way.items() if time.monotonic() > running.ends]
    return [pipe for pipe in under_way if pipe in ready or pipe in over]


def _result(running: _Running, results: Connection, limit: float) -> Record:
    record: Record = {"status": "slow", "seconds": limit}
    if results.poll():
        try:
            record = results.recv()
        except EOFError:  # the process died
            running.process.join()
            if running.process.exitcode != -signal.SIGXCPU:
                record = {"status": "broke", "error": "the process died", "seconds": 0.0}
    running.process.kill()
    running.process.join()
    results.close()
    return record
