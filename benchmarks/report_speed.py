"""The cost of a first minute: importing the estimators, and reports of a table of 500 x 10.

Processor seconds on one thread, each in a process of its own, and the memory that importing takes.
The reports are those of `PFNRegressor`, without a reference, and of `BayesianRegressor` with its
own model and with a program of the user, with SMC as the reference.

    python benchmarks/report_speed.py [--rows 500] [--features 10]
"""

import argparse
import resource
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np


def importing(*_: int) -> tuple[float, str]:
    """Importing every public name that predicts."""
    began = time.process_time()
    from amortized import BayesianRegressor, PFNClassifier, PFNRegressor, infer  # noqa: F401

    seconds = time.process_time() - began
    return seconds, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"


def package(*_: int) -> tuple[float, str]:
    """The package alone."""
    began = time.process_time()
    import amortized  # noqa: F401

    seconds = time.process_time() - began
    return seconds, f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB"


def rows(n: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """A linear table with normal noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, n_features))
    return x, x @ rng.normal(size=n_features) + 0.5 * rng.normal(size=n)


def slopes(x: Any, y: Any = None) -> Any:
    """A program of the user: linear with an unknown noise level."""
    import pyro
    import pyro.distributions as dist
    import torch

    weights = pyro.sample("w", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(x @ weights, noise), obs=y)


def reported(fitted: Any, *reference: Any) -> tuple[float, str]:
    """Seconds of one report."""
    began = time.process_time()
    page = fitted.report(*reference)
    return time.process_time() - began, page.verdict


def table(n: int, n_features: int) -> tuple[float, str]:
    """The report of a network of tables."""
    from amortized import PFNRegressor

    return reported(PFNRegressor().fit(*rows(n, n_features)))


def own_model(n: int, n_features: int) -> tuple[float, str]:
    """The report of Bayesian linear regression."""
    from amortized import BayesianRegressor

    return reported(BayesianRegressor().fit(*rows(n, n_features)), "smc")


def own_program(n: int, n_features: int) -> tuple[float, str]:
    """The report of the user's program."""
    from amortized import BayesianRegressor

    return reported(BayesianRegressor(slopes).fit(*rows(n, n_features)), "smc")


LINES: dict[str, Callable[[int, int], tuple[float, str]]] = {
    "import amortized": package,
    "import of the estimators": importing,
    "PFNRegressor, no reference": table,
    "BayesianRegressor, SMC": own_model,
    "a program, SMC": own_program,
}


def measure(name: str, n: int, n_features: int) -> tuple[float, str]:
    """One line, in a fresh process."""
    warnings.simplefilter("ignore")
    return LINES[name](n, n_features)


def main() -> None:
    """Prints a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--features", type=int, default=10)
    arguments = parser.parse_args()
    for name in LINES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            seconds, text = pool.submit(measure, name, arguments.rows, arguments.features).result()
        print(f"{name:28}{seconds:7.1f} s  {text}", flush=True)


if __name__ == "__main__":
    main()
