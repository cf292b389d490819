"""Model comparison: evidences against closed forms, and an SBC of models.

    python benchmarks/compare.py [--datasets 1000] [--rows 20]

The first table compares evidences of polynomials of degree 0 to 3 with normal weights and noise:
largest and root mean squared error of the log evidence, how often 95% intervals of a Bayes factor
of neighbouring degrees hold the exact one, and milliseconds for each dataset and model.

The second draws a model from its prior probabilities, a dataset from the model, and asks for the
posterior probabilities of all models. p (rank) is that of the randomised rank of the true model,
uniform where probabilities are calibrated (Kolmogorov-Smirnov); p (bins) that of observed against
stated frequencies in ten bins of every model's probability (chi-squared). The counts have no closed
form: Poisson, geometric and negative binomial rows with a log-normal mean.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor

from amortized import compare
from amortized.program.vectorised import precision, run_program

NOISE = 0.5


def polynomial(degree: int) -> Callable[..., Any]:
    """Regression on powers of x with standard normal weights."""

    def program(x: Tensor, y: Tensor | None = None) -> Any:
        powers = torch.stack([x[:, 0] ** k for k in range(degree + 1)], -1)
        w = pyro.sample("w", dist.Normal(torch.zeros(degree + 1), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(powers @ w, NOISE), obs=y)

    return program


def counts(family: str) -> Callable[..., Any]:
    """Counts with one mean, of one of three families."""

    def program(x: Tensor, y: Tensor | None = None) -> Any:
        mean = pyro.sample("mean", dist.LogNormal(1.0, 0.5))
        rows: Any = dist.Poisson(mean)
        if family == "geometric":
            rows = dist.Geometric(1 / (1 + mean))
        if family == "negative binomial":
            size = pyro.sample("size", dist.LogNormal(1.0, 1.0))
            rows = dist.NegativeBinomial(size, logits=(mean / size).log())
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", rows, obs=y)

    return program


POLYNOMIALS = {f"degree {degree}": polynomial(degree) for degree in range(4)}
COUNTS = {name: counts(name) for name in ("poisson", "geometric", "negative binomial")}


def simulate(models: dict[str, Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """Datasets of models drawn with equal probabilities, and which ones."""
    truth = torch.randint(len(models), (len(x),))
    programs = list(models.values())
    with precision(x.dtype):
        rows = [run_program(programs[m], each)["y"] for m, each in zip(truth, x, strict=True)]
    return torch.stack(rows), truth


def evidences(x: Tensor, y: Tensor) -> None:
    """The first table."""
    exact = compare(POLYNOMIALS, x, y, method="exact", n_draws=10)
    print(f"{'method':>12} {'max error':>10} {'rmse':>8} {'intervals hold':>15} {'ms':>8}")
    for method in ("smc", "importance"):
        began = time.perf_counter()
        found = compare(POLYNOMIALS, x, y, method=method)
        ms = 1000 * (time.perf_counter() - began) / (len(x) * len(POLYNOMIALS))
        off = found.log_evidence - exact.log_evidence
        held = []
        for degree in range(3):
            pair = f"degree {degree + 1}", f"degree {degree}"
            interval = found.log_bayes_factor(*pair)
            factor = exact.log_bayes_factor(*pair).estimate
            held.append((interval.low <= factor) & (factor <= interval.high))
        share = torch.cat(held).double().mean()
        rmse = off.square().mean().sqrt()
        print(f"{method:>12} {off.abs().max():10.3f} {rmse:8.4f} {share:15.3f} {ms:8.2f}")


def calibration(share: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """The p values of the randomised rank of the true model, and of frequencies in bins."""
    rows = np.arange(len(truth))
    own = share[rows, truth]
    rank = share.cumsum(-1)[rows, truth] - np.random.default_rng(0).uniform(size=len(own)) * own
    hit = np.eye(share.shape[1])[truth]
    squares, n_bins = 0.0, 0
    for stated, seen in zip(share.T, hit.T, strict=True):
        for block in np.array_split(stated.argsort(), 10):
            variance = (stated[block] * (1 - stated[block])).sum()
            if variance > 3:
                squares += (seen[block] - stated[block]).sum() ** 2 / variance
                n_bins += 1
    # Frequencies of the models sum to one, so that bins depend a little: one model's are free.
    return float(stats.kstest(rank, "uniform").pvalue), float(stats.chi2(n_bins).sf(squares))


def models(name: str, candidates: dict[str, Any], x: Tensor, method: str) -> None:
    """A line of the second table."""
    y, truth = simulate(candidates, x)
    began = time.perf_counter()
    found = compare(candidates, x, y, method=method)
    seconds = time.perf_counter() - began
    share = torch.stack(list(found.probabilities.values()), -1).numpy()
    rank, bins = calibration(share, truth.numpy())
    right = (share.argmax(-1) == truth.numpy()).mean()
    doubt = found.in_doubt.any(-1).double().mean()
    print(
        f"{name:>12} {method:>12} {rank:9.3f} {bins:9.3f} {right:9.3f} {doubt:9.3f} {seconds:8.1f}"
    )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    x = torch.linspace(-1, 1, options.rows, dtype=torch.float64).reshape(1, -1, 1)
    x = x.expand(options.datasets, -1, -1)
    y, _ = simulate(POLYNOMIALS, x[:200])
    print(f"evidences of four polynomials, {len(y)} datasets of {options.rows} rows")
    evidences(x[: len(y)], y)
    print(f"\n{options.datasets} draws from the models")
    print(
        f"{'models':>12} {'method':>12} {'p (rank)':>9} {'p (bins)':>9} {'correct':>9} "
        f"{'in doubt':>9} {'seconds':>8}"
    )
    for method in ("exact", "smc", "importance"):
        models("polynomials", POLYNOMIALS, x, method)
    models("counts", COUNTS, x[..., :0], "smc")


if __name__ == "__main__":
    main()
