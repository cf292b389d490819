"""Run a benchmark again and store what it prints, with the machine and the date.

    python benchmarks/record.py gp_posterior "one core of an AMD EPYC server, torch 2.13"

runs the command that `benchmarks/results/gp_posterior.txt` names and replaces what is below its
header; the pages of the site show these files.
"""

import argparse
import shlex
import subprocess
import sys
from datetime import date
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


def read_header(path: Path) -> dict[str, str]:
    """What is known of a stored result: command, machine, date and notes."""
    head = path.read_text(encoding="utf-8").split("\n\n", 1)[0]
    return dict(line.split(": ", 1) for line in head.splitlines())


def run(command: str) -> str:
    """What a command prints; its progress and errors go to the terminal."""
    program, *arguments = shlex.split(command)
    if program != "python":
        raise ValueError(f"Expected a command that begins with 'python'; got {command!r}.")
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode or not done.stdout.strip():
        sys.exit(f"{command} failed with {done.returncode}; the stored result stays.")
    return done.stdout.strip("\n")


def main() -> None:
    """Record one result."""
    names = sorted(path.stem for path in RESULTS.glob("*.txt"))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=names)
    parser.add_argument("machine", help="for the header, as in 'one core of an Intel Xeon'")
    arguments = parser.parse_args()
    path = RESULTS / f"{arguments.name}.txt"
    command = read_header(path)["command"]
    output = run(command)
    # Notes spoke of the result before.
    header = f"command: {command}\nmachine: {arguments.machine}\nrecorded: {date.today()}"
    path.write_text(f"{header}\n\n{output}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
