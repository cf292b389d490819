"""Peak memory and time of the main calls by size, each measured in a process of its own.

Run from the repository root; it prints a Markdown table. Memory is the largest resident set of the
process, imports included (the first row); the time is the call's alone, after the imports.

    python benchmarks/memory.py            # every row
    python benchmarks/memory.py classify   # rows whose name begins so
"""

import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

_PROGRAM = """
import pyro, pyro.distributions as dist
def line(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    noise = pyro.sample("noise", dist.LogNormal(-1.0, 0.3))
    return pyro.sample("y", dist.Normal(slope * x[:, 0], noise).to_event(1), obs=y)
"""


def _table(n_rows: int, n_columns: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, n_columns))
    return X, X[:, 0] + 0.3 * rng.normal(size=n_rows)


def _classify(n_rows: int, n_columns: int, n_classes: int) -> None:
    from amortized import PFNClassifier

    X, y = _table(n_rows, n_columns)
    labels = np.argsort(np.argsort(y)) * n_classes // n_rows
    PFNClassifier().fit(X, labels).predict_proba(X[:200])


def _regress(n_rows: int, n_columns: int) -> None:
    from amortized import PFNRegressor

    X, y = _table(n_rows, n_columns)
    PFNRegressor("tabular-regressor").fit(X, y).predict(X[:200])


def _infer(method: str, n_datasets: int, n_rows: int, n_draws: int) -> None:
    from amortized import infer

    names: dict[str, Any] = {}
    exec(_PROGRAM, names)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_datasets, n_rows, 1))
    y = x[..., 0] + 0.4 * rng.normal(size=(n_datasets, n_rows))
    infer(names["line"], x, y, method=method, n_draws=n_draws)


def _nothing() -> None:
    import amortized  # noqa: F401


ROWS: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "imports alone": (_nothing, ()),
    **{
        f"classify {n:,} rows, {d} columns, {k} classes": (_classify, (n, d, k))
        for n, d, k in (
            (200, 10, 2),
            (1000, 10, 2),
            (1000, 100, 2),
            (1000, 10, 10),
            (1000, 10, 50),
            (1000, 10, 200),
        )
    },
    **{
        f"regress {n:,} rows, {d} columns": (_regress, (n, d))
        for n, d in ((200, 10), (1000, 10), (1000, 100))
    },
    **{
        f"smc {b:,} datasets of {n:,} rows, {m:,} draws": (_infer, ("smc", b, n, m))
        for b, n, m in (
            (1, 100, 1000),
            (1, 10_000, 1000),
            (100, 100, 1000),
            (1000, 20, 500),
            (5000, 20, 500),
        )
    },
    "nuts 1 dataset of 100 rows, 1,000 draws": (_infer, ("nuts", 1, 100, 1000)),
    "vi 1 dataset of 100 rows, 1,000 draws": (_infer, ("vi", 1, 100, 1000)),
}


def _measure(name: str) -> None:
    """Runs one row, and prints seconds and bytes."""
    import amortized  # noqa: F401
    from amortized.pretrained import load  # noqa: F401

    call, arguments = ROWS[name]
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    call(*arguments)
    print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def main() -> None:
    """Prints the table."""
    if sys.argv[1:2] == ["--row"]:
        _measure(sys.argv[2])
        return
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    print("| what | peak memory (MiB) | seconds |\n| --- | ---: | ---: |")
    for name in ROWS:
        if name.startswith(wanted):
            command = [sys.executable, __file__, "--row", name]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, size = map(float, found.stdout.split()[-2:])
            print(f"| {name} | {size / 2**20:,.0f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
