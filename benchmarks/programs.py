"""Programs of public tutorials, re-expressed in plain Pyro, asked by ``infer(..., method="auto")``.

For each of them: what answered and in how many seconds, and whether the answer is in doubt; or the
message by which it was refused. None is changed to fit this package. The sizes are tiny: what is
counted is which programs run.

    python benchmarks/programs.py [NAME ...]
"""

import argparse
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from program_collection import PROGRAMS

from amortized import infer


def ask(program: Callable[..., Any], data: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether a program was answered, and how; or why it was not."""
    began = time.perf_counter()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            posterior = infer(program, data=data, n_draws=200)
        except (ValueError, TypeError) as refusal:
            return False, f"refused: {refusal}"
    seconds = time.perf_counter() - began
    means = [value.double() for value in posterior.mean.values()]
    if not all(torch.isfinite(value).all() for value in means):
        return False, "an answer that is not finite"
    doubt = posterior.diagnostics.get("doubt")
    answer = f"{posterior.diagnostics['stage']:6} {seconds:6.1f} s"
    slow = any("one by one" in str(each.message) for each in said)
    return True, answer + (", one by one" if slow else "") + (
        f", in doubt: {doubt}" if doubt else ""
    )


def main() -> None:
    """Prints a line for each program, and the number that were answered."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="of programs; all where there are none")
    names = parser.parse_args().names or list(PROGRAMS)
    answered = 0
    for name in names:
        program, data = PROGRAMS[name]
        good, answer = ask(program, data)
        answered += good
        print(f"{name:34} {answer}", flush=True)
    print(f"{answered} of {len(names)} answered")


if __name__ == "__main__":
    main()
