"""Is any answer wrong in silence? Every method on a zoo of programs whose answers are known.

    python benchmarks/trust.py --methods auto smc nuts --seeds 0 1 2 --jobs 2
    python benchmarks/trust.py --programs walk schools --max-seconds 120
    python benchmarks/trust.py --evidence
    python benchmarks/trust.py --references

An answer is wrong where a mean is more than .2 standard deviations off, a standard deviation more
than 20%, or the log evidence more than 5 stated errors; for heavy tails, whose moments a thousand
draws do not know, shares of the draws below known quantiles take the moments' place. It is silent
where it raised no error, warned of nothing and stated no doubt: see `trust_zoo.verdict`. Each run
has a process of its own and a limit of the processor's time. Runs are kept as lines of JSON and not
run again; runs of other code belong in another file.

``--evidence`` counts how often the log evidence lies within 1, 2 and 3 stated errors, over 15
programs, ten seeds and SMC's own start and the prior.

``--references`` computes the right answers in ``data/trust_references.json`` again, each with a
second opinion by another method (`trust_zoo.second`); it takes an hour of one core.
"""

import os

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # before the libraries look

import argparse  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]))  # the package beside this file, not another

from trust_zoo import EVIDENCE, ZOO  # noqa: E402
from trust_zoo.answer import OPTIONS, one_thread  # noqa: E402
from trust_zoo.reference import Reference  # noqa: E402
from trust_zoo.runs import FORK, Run, key_of, read, run_all  # noqa: E402
from trust_zoo.second import Check, check  # noqa: E402
from trust_zoo.stored import store, stored_references  # noqa: E402
from trust_zoo.tables import evidence_report, line, report  # noqa: E402

import amortized  # noqa: E402


def compute_references(programs: list[str], jobs: int) -> None:
    """Computes and stores references, with what a second method says of each."""
    began = time.monotonic()
    with FORK.Pool(jobs, one_thread, maxtasksperchild=1) as pool:
        for name, reference, second in pool.imap_unordered(_reference, programs):
            store({name: (reference, second)}, list(ZOO))
            word = "agrees" if second.agrees else "DISAGREES"
            print(
                f"{name:<24}{reference.error:>9.1e}  {word}, off {second.off:.4f} +- "
                f"{second.error:.4f} ({second.what}), {time.monotonic() - began:.0f} s",
                flush=True,
            )


def _reference(program: str) -> tuple[str, Reference, Check]:
    entry = ZOO[program]
    reference = entry.reference()
    return program, reference, check(entry, reference)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = [name for name in OPTIONS if name != "smc from the prior"]
    parser.add_argument("--methods", nargs="+", choices=OPTIONS, default=methods)
    parser.add_argument("--programs", nargs="+", default=[""], help="parts of programs' names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument(
        "--max-seconds", type=float, default=300.0, help="of the processor for one run"
    )
    parser.add_argument("--kept", type=Path, default=Path("runs/trust.jsonl"))
    parser.add_argument("--evidence", action="store_true", help="coverage of stated errors")
    parser.add_argument("--references", action="store_true", help="compute the right answers again")
    parser.add_argument("--only-report", action="store_true", help="run nothing")
    return parser.parse_args()


def main() -> None:
    """Runs what is missing, and prints the tables."""
    arguments = _arguments()
    programs = [n for n in ZOO if any(part in n for part in arguments.programs)]
    if not programs:
        sys.exit(f"Expected parts of the names of programs; got {arguments.programs}.")
    if arguments.references:
        compute_references(programs, arguments.jobs)
        return
    methods, seeds = arguments.methods, arguments.seeds
    if arguments.evidence:
        methods, seeds = ["smc", "smc from the prior"], list(range(10))
        programs = [name for name in programs if name in EVIDENCE]
    runs = [Run(m, p, s) for s in seeds for m in methods for p in programs]
    references = stored_references()
    print(f"amortized from {Path(amortized.__file__).parent}")
    if not arguments.only_report:
        run_all(
            runs,
            references,
            arguments.kept,
            arguments.jobs,
            arguments.max_seconds,
            lambda record: print(line(record, references[record["program"]]), flush=True),
        )
    wanted = set(runs)
    records = [each for each in read(arguments.kept) if key_of(each) in wanted]
    print("\n" + (evidence_report if arguments.evidence else report)(records, references, methods))


if __name__ == "__main__":
    main()
