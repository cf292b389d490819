"""Coverage and error of debiased estimates, beside gold labels alone and surrogates alone.

    python benchmarks/debiased.py [--runs 1000] [--rows 2000] [--share 0.1]

A run has rows with two columns, labels that depend on them, surrogates whose errors depend on the
columns too, and gold labels of a random tenth. "Good" surrogates are right in nine of ten rows, or
within 0.4 standard deviations; "bad" ones say nothing of the label. The prediction is a cheap one
of scikit-learn: linear or logistic regression. Printed are coverage of 95% intervals and root mean
squared error of the first slope, the mean or the median.
"""

import argparse
import warnings
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LinearRegression, LogisticRegression

from amortized.debiased import debiased_regression

SLOPES = np.array([1.0, -0.5])


def simulate(kind: str, good: bool, n: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Columns, surrogates and labels."""
    x = rng.normal(size=(n, 2))
    linear = 0.2 + x @ SLOPES
    if kind == "logistic":
        y = (rng.uniform(size=n) < expit(linear)).astype(float)
        wrong = rng.uniform(size=n) < np.where(x[:, 0] > 0.5, 0.2, 0.05)
        s = np.where(wrong, 1 - y, y)
        return x, s if good else rng.integers(0, 2, n).astype(float), y
    y = linear + rng.normal(size=n)
    s = y + 0.4 * rng.normal(size=n) + 0.3 * x[:, 0]
    return x, s if good else rng.normal(size=n), y


def truth(kind: str) -> tuple[int, float]:
    """Which coefficient is asked for, and its value."""
    return (1, SLOPES[0]) if kind in ("linear", "logistic") else (0, 0.2)


def line(kind: str, good: bool, options: Any) -> None:
    """A line of the table."""
    rng = np.random.default_rng(0)
    at, value = truth(kind)
    found: dict[str, list[tuple[float, bool]]] = {"debiased": [], "classical": [], "naive": []}
    model = LogisticRegression() if kind == "logistic" else LinearRegression()
    for _ in range(options.runs):
        x, s, y = simulate(kind, good, options.rows, rng)
        sampled = rng.uniform(size=len(y)) < options.share
        answer = debiased_regression(
            x, s, np.where(sampled, y, np.nan), sampled, options.share, kind=kind, nuisance=model
        )
        for name, rows in found.items():
            one = getattr(answer, name)
            rows.append((one.estimate[at] - value, one.low[at] <= value <= one.high[at]))
    cells = ""
    for rows in found.values():
        off, inside = np.array(rows, dtype=float).T
        cells += f"{inside.mean():10.3f}{np.sqrt((off**2).mean()):8.4f}"
    print(f"{kind:>10}{'good' if good else 'bad':>6}{cells}", flush=True)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.1)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{options.runs} runs of {options.rows} rows, gold labels with {options.share}")
    print(f"{'':>16}" + "".join(f"{name:>18}" for name in ("debiased", "classical", "naive")))
    print(f"{'kind':>10}{'':>6}" + f"{'coverage':>10}{'rmse':>8}" * 3)
    for kind in ("mean", "linear", "logistic", "quantile"):
        for good in (True, False):
            line(kind, good, options)


if __name__ == "__main__":
    main()
