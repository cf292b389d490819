"""What each part of the table estimators' views gains on real tables: an ablation table.

A variant changes one thing in how half of the views of a table read it; all are asked on the same
halves of the same tables of the development suite (``real_tables``), of which at most ``--most``
rows are predicted. The first line is the estimator with plain views alone: columns shuffled,
nothing else. Of every other one the mean gain on it is printed with its standard error over tables,
and on how many tables it is better. Small tables only by default, as they get the most views.

    python benchmarks/table_views.py classification --model tabular-classifier
    python benchmarks/table_views.py regression --model tabular-regressor
"""

import argparse
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from real_tables import classification_tables, load_table, regression_tables, split
from tabular import classification_scores, regression_scores

from amortized import PFNClassifier, PFNRegressor
from amortized.tables.readings import Kind

PLAIN, RENAMED, TURNED, MEANS = Kind(), Kind(True), Kind(turned=True), Kind(means=True)
READINGS = "amortized.tables.readings."
SHARE = "amortized.tables.{}.held_out_share"
EQUAL = {SHARE.format(where): lambda *_, **__: 0.5 for where in ("class_tree", "target_views")}


def kinds(*found: Kind) -> dict[str, Any]:
    """What a variant puts in the place of the estimators' kinds of views."""
    where = ("readings", "view_weights")
    return {f"amortized.tables.{module}.KINDS": found for module in where}


VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "plain": kinds(PLAIN),
    "codes renamed": kinds(PLAIN, RENAMED),
    "means of levels": kinds(PLAIN, MEANS),
    "directions": kinds(PLAIN, TURNED),
    "directions, equal weights": {**kinds(PLAIN, TURNED), **EQUAL},
    "directions, always": {**kinds(PLAIN, TURNED), READINGS + "CORRELATED": 0.0},
    "all three": kinds(PLAIN, Kind(True, True, True)),
    "all three, equal weights": {**kinds(PLAIN, Kind(True, True, True)), **EQUAL},
    "rows as in training": {
        **kinds(PLAIN),
        "amortized.tables.views.ROWS_BEYOND": 1,
    },
}
SIGN = {"auc": 1, "log_loss": -1, "ece": -1, "r2": 1, "crps": -1, "nlpd": -1}


def scores(task: str, model: str, table: str, seed: int, most: int) -> dict[str, float]:
    """Of one half of one table."""
    train, test = split(table, seed)
    x, y = test.X[:most], test.y[:most]
    if task == "classification":
        answer = PFNClassifier(model, random_state=seed).fit(train.X, train.y).predict_proba(x)
        return classification_scores(answer, y, np.unique(train.y))
    found = PFNRegressor(model, random_state=seed).fit(train.X, train.y)
    return regression_scores(found.predict_distribution(x), y, float(train.y.std()))


def line(name: str, found: np.ndarray, first: np.ndarray, measures: list[str]) -> str:
    """Of one variant: its means, or its gains on the first."""
    parts = []
    for k, measure in enumerate(measures):
        if found is first:
            parts.append(f"{measure} {found[:, k].mean():.4f}".ljust(34))
            continue
        gain = SIGN.get(measure, 0) * (found[:, k] - first[:, k])
        error = gain.std(ddof=1) / len(gain) ** 0.5 if len(gain) > 1 else np.nan
        record = f"{(gain > 1e-9).sum()}/{(gain < -1e-9).sum()}"
        parts.append(f"{measure} {gain.mean():+.4f} +- {error:.4f} ({record})".ljust(34))
    return f"{name:26}" + "".join(parts)


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=["classification", "regression"])
    parser.add_argument("--model", help="name or folder; the released one if left out")
    parser.add_argument("--tables", nargs="*", help="all of at most --rows rows if left out")
    parser.add_argument("--variants", nargs="*", help="beside the first; all if left out")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--most", type=int, default=300)
    parser.add_argument("--splits", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = arguments.task
    every = classification_tables() if task == "classification" else regression_tables()
    tables = arguments.tables or [t for t in every if len(load_table(t).y) <= arguments.rows]
    model = arguments.model or ("tabular-" + ("classifier" if task[0] == "c" else "regressor"))
    measures = ["auc", "log_loss", "ece"] if task == "classification" else ["r2", "crps", "nlpd"]
    print(f"{task}, {model}, {len(tables)} tables; gains, and on how many tables (better/worse)")
    first, *others = VARIANTS
    named = [first, *(others if arguments.variants is None else arguments.variants)]
    results: dict[str, np.ndarray] = {}
    for name in named:
        with ExitStack() as stack:
            for target, value in VARIANTS[name].items():
                stack.enter_context(patch(target, value))
            halves = [
                [scores(task, model, table, seed, arguments.most) for table in tables]
                for seed in range(arguments.splits)
            ]
        found = [[[one[m] for m in measures] for one in half] for half in halves]
        results[name] = np.mean(found, axis=0)
        print(line(name, results[name], results[named[0]], measures), flush=True)


if __name__ == "__main__":
    main()
