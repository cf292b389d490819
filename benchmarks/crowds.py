"""Truth inference on simulated crowds: calibration and accuracy beside the majority and EM.

    python benchmarks/crowds.py [--crowds 100] [--items 100] [--workers 15]

A crowd is drawn with 2 to 5 classes, workers and three to seven answers to an item; a fifth of the
workers answers at random or always alike. Skills are beta distributed; "dawid-skene" crowds have a
confusion matrix for each worker, "top-two" crowds a second answer for each item. Printed are the
mean accuracy of the majority, of the EM algorithm of Dawid and Skene and of `TruthInference` with
the crowd's model; in how many crowds its accuracy is at least EM's; the expected calibration error
of the predicted answers over all crowds, in 15 bins; and processor seconds for each crowd.
"""

import argparse
import time
from typing import Any, NamedTuple

import numpy as np

from amortized.crowds import TruthInference

KINDS = ("one-coin", "dawid-skene", "top-two")


class Crowd(NamedTuple):
    """Answers, one entry each, and the truths of the items."""

    items: np.ndarray
    workers: np.ndarray
    answers: np.ndarray
    truth: np.ndarray
    second: np.ndarray
    n_classes: int


def simulate(kind: str, n_items: int, n_workers: int, rng: np.random.Generator) -> Crowd:
    """One crowd."""
    k = int(rng.integers(3 if kind == "top-two" else 2, 6))
    truth = rng.choice(k, n_items, p=rng.dirichlet(np.full(k, 5.0)))
    if kind == "top-two":
        truth = rng.integers(0, k, n_items)
    second = (truth + rng.integers(1, k, n_items)) % k
    q = rng.uniform(0.5, 1.0, n_items)
    skill = rng.beta(6.0, 3.0, n_workers)
    confusion = confusion_matrices(kind, skill, k, rng)
    rows = []
    for i in range(n_items):
        for j in rng.choice(n_workers, min(n_workers, int(rng.integers(3, 8))), replace=False):
            chances = confusion[j, truth[i]]
            if kind == "top-two":
                chances = np.full(k, (1 - skill[j]) / k)
                chances[truth[i]] += skill[j] * q[i]
                chances[second[i]] += skill[j] * (1 - q[i])
            rows.append((i, j, rng.choice(k, p=chances / chances.sum())))
    items, workers, answers = np.array(rows).T
    return Crowd(items, workers, answers, truth, second, k)


def confusion_matrices(
    kind: str, skill: np.ndarray, k: int, rng: np.random.Generator
) -> np.ndarray:
    """A matrix for each worker; a fifth of them are spammers."""
    n = len(skill)
    wrong = ((1 - skill) / (k - 1))[:, None, None]
    matrices = wrong + (skill[:, None, None] - wrong) * np.eye(k)
    if kind == "dawid-skene":
        matrices = rng.gamma(np.maximum(8 * matrices, 0.05))
        matrices /= matrices.sum(-1, keepdims=True)
    for j in range(n // 5):
        matrices[j] = np.full((k, k), 1 / k)
        if kind == "dawid-skene" and j % 2:
            matrices[j] = np.eye(k)[rng.integers(k)]
    return matrices


def majority(crowd: Crowd, rng: np.random.Generator) -> np.ndarray:
    """The most frequent answer, ties broken by chance."""
    votes = rng.uniform(0, 0.5, (len(crowd.truth), crowd.n_classes))
    np.add.at(votes, (crowd.items, crowd.answers), 1.0)
    return votes.argmax(-1)


def expectation_maximisation(crowd: Crowd, n_steps: int = 100) -> np.ndarray:
    """The algorithm of Dawid and Skene from shares of the votes."""
    n, k = len(crowd.truth), crowd.n_classes
    share = np.zeros((n, k))
    np.add.at(share, (crowd.items, crowd.answers), 1.0)
    share /= share.sum(-1, keepdims=True)
    for _ in range(n_steps):
        counts = np.full((crowd.workers.max() + 1, k, k), 1e-6)
        np.add.at(counts.swapaxes(1, 2), (crowd.workers, crowd.answers), share[crowd.items])
        confusion = np.log(counts / counts.sum(-1, keepdims=True))
        logits = np.tile(np.log(share.mean(0) + 1e-12), (n, 1))
        np.add.at(logits, crowd.items, confusion[crowd.workers, :, crowd.answers])
        share = np.exp(logits - logits.max(-1, keepdims=True))
        share /= share.sum(-1, keepdims=True)
    return share.argmax(-1)


def calibration_error(confidence: np.ndarray, right: np.ndarray, n_bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over bins of equal width."""
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    off = [abs((confidence - right)[bins == b].sum()) for b in range(n_bins)]
    return float(sum(off) / len(right))


def line(kind: str, options: Any) -> None:
    """A line of the table."""
    rng = np.random.default_rng(0)
    accuracy, confidence, right, seconds = [], [], [], 0.0
    for number in range(options.crowds):
        crowd = simulate(kind, options.items, options.workers, rng)
        began = time.process_time()
        answer = TruthInference(kind, n_draws=options.draws, random_state=number)
        answer.fit(crowd.items, crowd.workers, crowd.answers, range(crowd.n_classes))
        seconds += time.process_time() - began
        probability = answer.predict_proba()
        hit = probability.argmax(-1) == crowd.truth
        confidence.append(probability.max(-1))
        right.append(hit)
        others = majority(crowd, rng), expectation_maximisation(crowd)
        accuracy.append([*((other == crowd.truth).mean() for other in others), hit.mean()])
    of = np.array(accuracy)
    at_least = int((of[:, 2] >= of[:, 1] - 1e-9).sum())
    error = calibration_error(np.concatenate(confidence), np.concatenate(right))
    cells = "".join(f"{value:10.3f}" for value in of.mean(0))
    print(f"{kind:>12}{cells}{at_least:>14}{error:10.4f}{seconds / options.crowds:10.2f}")


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crowds", type=int, default=100)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--draws", type=int, default=1000)
    options = parser.parse_args()
    print(f"{options.crowds} crowds of {options.items} items and {options.workers} workers")
    names = ("majority", "EM", "posterior", "at least EM", "ECE", "seconds")
    widths = (10, 10, 10, 14, 10, 10)
    header = "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))
    print(f"{'crowd':>12}{header}")
    for kind in KINDS:
        line(kind, options)


if __name__ == "__main__":
    main()
