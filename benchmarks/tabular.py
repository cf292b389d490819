"""Real tables: the table networks against the methods that people use on tables.

On each table of the development suite (``real_tables``), five random halves of at most 1,000 rows
are learned from and the rest is predicted. Classification: area under the ROC curve (one against
one), log-loss in nats, expected calibration error. Regression: R2, and of those with a predictive
distribution its CRPS, NLPD (both with the target standardised by the training half) and the
coverage of its central 90% interval. Seconds are CPU seconds on one thread, fitting and predicting.

    python benchmarks/tabular.py classification
    python benchmarks/tabular.py regression

Scores are kept in ``--scores`` as they come. The networks are asked anew every time, the other
methods only where a score is missing; with ``--keep`` the networks too, whose weights then have to
be those that the scores are of.
"""

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_tables import classification_tables, regression_tables, split
from scipy.stats import norm, wilcoxon
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from tabular_methods import CLASSIFIERS, REGRESSORS
from torch.distributions import Distribution

from amortized.distributions.bar_distribution import BarDistribution


def calibration_error(proba: np.ndarray, correct: np.ndarray, n_bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of the highest probability."""
    bins = np.minimum((proba * n_bins).astype(int), n_bins - 1)
    found = np.unique(bins)
    return float(sum((bins == b).mean() * abs((proba - correct)[bins == b].mean()) for b in found))


def classification_scores(
    proba: np.ndarray, y: np.ndarray, classes: np.ndarray
) -> dict[str, float]:
    """Scores of probabilities of all classes."""
    proba = np.clip(np.asarray(proba, dtype=float), 1e-12, None)
    proba /= proba.sum(1, keepdims=True)
    code = np.searchsorted(classes, y)
    if len(classes) == 2:
        auc = roc_auc_score(code, proba[:, 1])
    else:
        auc = roc_auc_score(code, proba, multi_class="ovo", labels=np.arange(len(classes)))
    return {
        "auc": float(auc),
        "log_loss": float(log_loss(code, proba, labels=np.arange(len(classes)))),
        "ece": calibration_error(proba.max(1), proba.argmax(1) == code),
    }


def regression_scores(answer: Any, y: np.ndarray, scale: float) -> dict[str, float]:
    """Scores of a mean, of a normal predictive or of a distribution."""
    if isinstance(answer, BarDistribution):
        return _distribution_scores(answer, y, scale)
    if not isinstance(answer, tuple):
        return {"r2": float(r2_score(y, answer))}
    mean, sd = answer[0], np.maximum(answer[1], 1e-6 * scale)
    z = (y - mean) / sd
    crps = sd * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    return {
        "r2": float(r2_score(y, mean)),
        "crps": float(crps.mean() / scale),
        "nlpd": float((-norm.logpdf(z) + np.log(sd / scale)).mean()),
        "coverage": float((np.abs(z) < norm.ppf(0.95)).mean()),
    }


def _distribution_scores(answer: Distribution, y: np.ndarray, scale: float) -> dict[str, float]:
    at = torch.as_tensor(y, dtype=torch.float64)
    levels = answer.cdf(at)
    return {
        "r2": float(r2_score(y, answer.mean.numpy())),
        "crps": float(answer.crps(at).mean() / scale),
        "nlpd": float(-answer.log_prob(at).mean() - np.log(scale)),
        "coverage": float(((levels > 0.05) & (levels < 0.95)).double().mean()),
    }


def measure(task: str, name: str, table: str, seed: int) -> dict[str, Any]:
    """One method on one half of one table."""
    train, test = split(table, seed)
    method = (CLASSIFIERS if task == "classification" else REGRESSORS)[name]
    began = time.process_time()
    answer = method(train.X, train.y, test.X, seed)
    seconds = time.process_time() - began
    if task == "classification":
        scores = classification_scores(answer, test.y, np.unique(train.y))
    else:
        scores = regression_scores(answer, test.y, float(train.y.std()))
    return {"table": table, "method": name, "seed": seed, "seconds": seconds, **scores}


def collect(
    task: str, path: Path, tables: list[str], n_splits: int, methods: list[str], keep: bool
) -> pd.DataFrame:
    """All scores, those that are known from the file; the file grows as they come."""
    known = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = [row for row in known if keep or "PFN" not in row["method"]]
    done = {(row["table"], row["method"], row["seed"]) for row in known}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in known))
    with path.open("a") as file:
        for table, seed, name in itertools.product(tables, range(n_splits), methods):
            if (table, name, seed) in done:
                continue
            known.append(measure(task, name, table, seed))
            file.write(json.dumps(known[-1]) + "\n")
            file.flush()
    scores = pd.DataFrame(known)
    asked = scores["table"].isin(tables) & scores["method"].isin(methods)
    return scores[asked & (scores["seed"] < n_splits)]


HIGHER_IS_BETTER = {"auc": True, "log_loss": False, "r2": True, "crps": False}


def summary(scores: pd.DataFrame, ours: str) -> str:
    """Means over tables of every score, mean ranks, and wins of ours with a paired test."""
    by_table = scores.drop(columns="seed").groupby(["table", "method"]).mean()
    measures = [m for m in by_table.columns if m != "seconds"]
    means = by_table[measures].groupby("method").mean()
    if "nlpd" in means:
        means["nlpd"] = by_table["nlpd"].groupby("method").median()
        means = means.rename(columns={"nlpd": "nlpd (median)"})
    for measure_name in HIGHER_IS_BETTER.keys() & set(measures):
        wide = by_table[measure_name].unstack().dropna(axis=1, how="all")
        better = wide if HIGHER_IS_BETTER[measure_name] else -wide
        means[f"rank {measure_name}"] = better.rank(axis=1, ascending=False).mean()
        for other in wide.columns.difference([ours]):
            gain = (better[ours] - better[other]).dropna()
            p = wilcoxon(gain).pvalue if gain.any() else 1.0
            record = f"{(gain > 0).sum()}/{(gain == 0).sum()}/{(gain < 0).sum()} p={p:.3f}"
            means.loc[other, f"vs {measure_name}"] = record
    means["seconds"] = by_table["seconds"].groupby("method").median()
    return means.sort_values("rank " + ("auc" if "auc" in measures else "r2")).to_string(
        float_format="{:.3f}".format, na_rep=""
    )


def main() -> None:
    """Run the suite and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["classification", "regression"])
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--tables", nargs="*", help="some of the tables; all if left out")
    parser.add_argument("--methods", nargs="*", help="beside ours; all if left out")
    parser.add_argument("--keep", action="store_true", help="the networks' scores, too")
    parser.add_argument("--scores", type=Path, help="a file of JSON lines")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = arguments.task
    path = arguments.scores or Path(f"runs/tabular_{task}.jsonl")
    every = classification_tables() if task == "classification" else regression_tables()
    ours, *others = CLASSIFIERS if task == "classification" else REGRESSORS
    methods = [ours, *(others if arguments.methods is None else arguments.methods)]
    tables = arguments.tables or every
    scores = collect(task, path, tables, arguments.splits, methods, arguments.keep)
    print(f"{task}: {scores['table'].nunique()} tables, {arguments.splits} halves each")
    print(summary(scores, ours))


if __name__ == "__main__":
    main()
