"""Does a report warn where intervals do not hold? Realised coverage on unseen rows of real tables.

Each estimator is fitted to at most 200 rows of a table, its report is made from them, and its 90%
intervals are counted on at most 1,000 other rows. Intervals hold if they cover .80 to .97 of these.
"warned" is whether a warning of the report is about intervals or the shape of the predictive, not
one of a better model or of targets that repeat.

    python benchmarks/report_warnings.py [--tables 25] [--rows 200]
"""

import argparse
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from real_tables import Table, regression_tables, split

from amortized import BayesianRegressor, PFNRegressor

LOW, HIGH = 0.80, 0.97
ABOUT_INTERVALS = ("intervals", "shape or location")


def numbers(X: pd.DataFrame, like: pd.DataFrame) -> np.ndarray:
    """Standardised numeric columns, and indicators of the frequent values of the others."""
    columns = pd.get_dummies(X, dummy_na=False).reindex(
        columns=pd.get_dummies(like).columns, fill_value=0
    )
    base = pd.get_dummies(like)
    usual = base.median(numeric_only=True)
    scale = base.std().replace(0, 1)
    return ((columns.fillna(usual) - usual) / scale).to_numpy(float)[:, :10]


def table_network(train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """The network of tables, which reads them as they are."""
    fitted = PFNRegressor(n_estimators=4).fit(train.X, train.y)
    return fitted, lambda test: fitted.predict_distribution(test.X)


def gp_network(train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """The network of Gaussian processes."""
    fitted = PFNRegressor("gp").fit(numbers(train.X, train.X), train.y)
    return fitted, lambda test: fitted.predict_distribution(numbers(test.X, train.X))


def linear(train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """Bayesian linear regression."""
    fitted = BayesianRegressor().fit(numbers(train.X, train.X), train.y)
    return fitted, lambda test: fitted.predict_distribution(numbers(test.X, train.X))


ESTIMATORS = {"table network": table_network, "gp network": gp_network, "linear": linear}


def warned(fitted: Any, name: str) -> bool:
    """Whether the report doubts the intervals."""
    page = fitted.report() if name == "table network" else fitted.report(None)
    return any(words in each for each in page.warnings for words in ABOUT_INTERVALS)


def coverage(predictive: Any, y: np.ndarray) -> float:
    """Share of targets inside their 90% interval."""
    import torch

    u = predictive.cdf(torch.as_tensor(y, dtype=torch.float64))
    return float(((u > 0.05) & (u < 0.95)).double().mean())


def main() -> None:
    """Prints a line a table, and the two shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, default=25)
    parser.add_argument("--rows", type=int, default=200)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for table in regression_tables()[: arguments.tables]:
        train, test = split(table, 0)
        train = Table(train.X.iloc[: arguments.rows], train.y[: arguments.rows])
        test = Table(test.X.iloc[:1000], test.y[:1000])
        for name, make in ESTIMATORS.items():
            began = time.process_time()
            fitted, answer = make(train)
            alarm = warned(fitted, name)
            seconds = time.process_time() - began
            share = coverage(answer(test), test.y)
            rows.append((name, LOW <= share <= HIGH, alarm))
            print(f"{table:14} {name:14} coverage {share:.3f}  warned {alarm!s:5}  {seconds:.1f} s")
    frame = pd.DataFrame(rows, columns=["estimator", "holds", "warned"])
    for name, part in [*frame.groupby("estimator"), ("all", frame)]:
        bad, good = part[~part.holds], part[part.holds]
        print(
            f"{name:14} outside {LOW} to {HIGH}: {len(bad)}, warned {bad.warned.mean():.2f}; "
            f"inside: {len(good)}, warned {good.warned.mean():.2f}"
        )


if __name__ == "__main__":
    main()
