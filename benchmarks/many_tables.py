"""Seconds to answer many small tables, together and one by one.

1,000 tables of 50 rows and 5 columns, each with 50 queries, at one view a table; together by
`predict_tables` in one process and in several, one by one for a tenth of them.

    python benchmarks/many_tables.py --tables 1000 --jobs 2
"""

import argparse
import time

import numpy as np
import torch

from amortized.estimators import PFNClassifier, PFNRegressor, predict_tables

N_ROWS, N_COLUMNS, N_QUERIES = 50, 5, 50


def main() -> None:
    """Print a line for each kind of task."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(arguments.tables, N_ROWS + N_QUERIES, N_COLUMNS))
    y = np.einsum("tnc,tc->tn", x, rng.normal(size=(arguments.tables, N_COLUMNS)))
    y += 0.3 * rng.normal(size=y.shape)
    print(f"{'seconds':<16}{'one by one':>12}{'together':>12}{f'{arguments.jobs} jobs':>12}")
    for estimator in (PFNClassifier(n_estimators=1), PFNRegressor(n_estimators=1)):
        answer = y > 0 if isinstance(estimator, PFNClassifier) else y
        tables = [
            (one[:N_ROWS], known[:N_ROWS], one[N_ROWS:])
            for one, known in zip(x, answer, strict=True)
        ]
        seconds = []
        some = tables[: max(1, len(tables) // 10)]
        began = time.perf_counter()
        for known_x, known_y, asked in some:
            estimator.fit(known_x, known_y).predict(asked)
        seconds.append((time.perf_counter() - began) * len(tables) / len(some))
        for n_jobs in (1, arguments.jobs):
            predict_tables(estimator, tables[: 2 * n_jobs], n_jobs=n_jobs)  # starts the processes
            began = time.perf_counter()
            predict_tables(estimator, tables, n_jobs=n_jobs)
            seconds.append(time.perf_counter() - began)
        name = type(estimator).__name__
        print(f"{name:<16}" + "".join(f"{spent:>12.1f}" for spent in seconds), flush=True)


if __name__ == "__main__":
    main()
