"""Seconds to learn from a table of 1,000 rows and 20 columns and to predict 1,000 other rows.

Ours at their defaults beside LightGBM, with its defaults and tuned by 20 configurations in three
folds (searched on all threads at once), in turns; wall time, so for a machine that does nothing
else. The score is ROC AUC or R2 of the last turn.

    python benchmarks/table_speed.py --threads 2
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.datasets import make_classification, make_friedman1
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import RandomizedSearchCV
from tabular_methods import lightgbm_model

from amortized import PFNClassifier, PFNRegressor

N_ROWS, N_COLUMNS = 1000, 20


def models(kind: str, threads: int, seed: int) -> dict[str, Any]:
    """The estimators that are timed, new ones at every turn."""
    tuned = lightgbm_model(f"LGBM{kind}", tuned=True)(seed)
    assert isinstance(tuned, RandomizedSearchCV)
    ours = (
        PFNClassifier(random_state=seed)
        if kind == "Classifier"
        else PFNRegressor(random_state=seed)
    )
    return {
        f"PFN{kind}": ours,
        "LightGBM": lightgbm_model(f"LGBM{kind}")(seed).set_params(n_jobs=threads),
        "LightGBM, tuned": tuned.set_params(n_jobs=threads),
    }


def table(kind: str, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Twice as many rows as are learned from."""
    if kind == "Classifier":
        x, y = make_classification(2 * N_ROWS, N_COLUMNS, n_informative=8, random_state=seed)
    else:
        x, y = make_friedman1(2 * N_ROWS, N_COLUMNS, noise=1.0, random_state=seed)
    return pd.DataFrame(x).rename(columns=str), y


def seconds_and_score(model: Any, x: pd.DataFrame, y: np.ndarray) -> tuple[float, float]:
    """Wall time of fitting the first half and predicting the second, and the second's score."""
    began = time.perf_counter()
    model.fit(x[:N_ROWS], y[:N_ROWS])
    is_classifier = hasattr(model, "predict_proba")
    answer = (model.predict_proba if is_classifier else model.predict)(x[N_ROWS:])
    seconds = time.perf_counter() - began
    rest = y[N_ROWS:]
    return seconds, roc_auc_score(rest, answer[:, 1]) if is_classifier else r2_score(rest, answer)


def main() -> None:
    """Print the median seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.threads} threads\n{'':<18}{'seconds':>9}{'times ours':>12}{'score':>8}")
    for kind in ("Classifier", "Regressor"):
        seconds: dict[str, list[float]] = {}
        scores: dict[str, float] = {}
        for turn in range(1 + arguments.turns):  # the first one loads and compiles
            for name, model in models(kind, arguments.threads, turn).items():
                if turn or "tuned" not in name:
                    spent, scores[name] = seconds_and_score(model, *table(kind, turn))
                    seconds.setdefault(name, []).extend([spent] if turn else [])
        ours = np.median(seconds[f"PFN{kind}"])
        for name, spent_each in seconds.items():
            middle = np.median(spent_each)
            print(f"{name:<18}{middle:>9.2f}{middle / ours:>12.2f}{scores[name]:>8.3f}")


if __name__ == "__main__":
    main()
