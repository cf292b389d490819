"""Tables with one difficulty each, beside a forest and logistic regression.

    many classes    60 classes of 10 rows, centres drawn in ten columns, half of the rows held out
    exclusive or    of two among 500 columns, 400 rows
    many levels     one column of 80 levels that decides the label, 400 rows
    correlated      five columns that share a factor, the label is the sign of a small difference

The accuracy on rows that were held out; mean of the repetitions.

    python benchmarks/table_traps.py --repetitions 3
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from amortized import PFNClassifier

Table = tuple[pd.DataFrame, NDArray[np.intp], int]  # X, labels, rows that are learned from


def many_classes(rng: np.random.Generator) -> Table:
    """Sixty classes about centres of their own."""
    centres, y = rng.normal(size=(60, 10)), rng.permutation(np.repeat(np.arange(60), 20))
    # As many rows of each class are learned from as are held out.
    y = np.concatenate((np.tile(np.arange(60), 10), y[:600]))
    return pd.DataFrame(centres[y] + 0.5 * rng.normal(size=(len(y), 10))), y, 600


def exclusive_or(rng: np.random.Generator) -> Table:
    """Two columns of 500 that say nothing alone."""
    x = rng.normal(size=(800, 500))
    i, j = rng.choice(500, 2, replace=False)
    return pd.DataFrame(x), ((x[:, i] > 0) ^ (x[:, j] > 0)).astype(int), 400


def many_levels(rng: np.random.Generator) -> Table:
    """A category whose level is the label, among columns of noise."""
    level = rng.integers(80, size=800)
    x = pd.DataFrame(rng.normal(size=(800, 4))).rename(columns=str)
    names = np.array([f"level {k}" for k in rng.permutation(80)])
    return x.assign(category=names[level]), rng.integers(2, size=80)[level], 400


def correlated(rng: np.random.Generator) -> Table:
    """Columns of correlation .99 whose difference decides."""
    own = rng.normal(size=(600, 5))
    x = rng.normal(size=(600, 1)) + 0.1 * own
    return pd.DataFrame(x), (own[:, 0] > own[:, 1]).astype(int), 200


TABLES: dict[str, Callable[[np.random.Generator], Table]] = {
    "many classes": many_classes,
    "exclusive or": exclusive_or,
    "many levels": many_levels,
    "correlated": correlated,
}


def methods() -> dict[str, ClassifierMixin]:
    """The estimators that are compared."""
    encoded = make_column_transformer(
        (StandardScaler(), make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore"), make_column_selector(dtype_exclude="number")),
    )
    return {
        "PFNClassifier": PFNClassifier(),
        "forest": make_pipeline(encoded, RandomForestClassifier(300, random_state=0)),
        "logistic": make_pipeline(encoded, LogisticRegression(max_iter=1000)),
    }


def main() -> None:
    """Print one line a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print("".join(f"{name:>16}" for name in ("accuracy", *methods(), "our seconds")), flush=True)
    for name, draw in TABLES.items():
        scores: dict[str, list[float]] = {method: [] for method in methods()}
        seconds = []
        for repetition in range(arguments.repetitions):
            x, y, n = draw(np.random.default_rng(repetition))
            x = x.rename(columns=str)
            for method, model in methods().items():
                began = time.perf_counter()
                scores[method].append(model.fit(x[:n], y[:n]).score(x[n:], y[n:]))
                if method == "PFNClassifier":
                    seconds.append(time.perf_counter() - began)
        found = "".join(f"{np.mean(values):>16.3f}" for values in scores.values())
        print(f"{name:>16}{found}{np.mean(seconds):>16.1f}", flush=True)


if __name__ == "__main__":
    main()
