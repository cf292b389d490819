"""Does a report warn where intervals do not hold? Realised coverage on unseen rows of real tables.

Each estimator is fitted to at most 200 rows of a table, its report is made from them, and its 90%
intervals are counted on at most 1,000 other rows. Intervals hold if they cover .80 to .97 of these.
"width" is the share whose report warns of the width of intervals, "any" the share whose report
warns of width or shape of the predictive.

Each result is appended to a file; a run that was ended goes on where it was.

    python benchmarks/report_warnings.py [--rows 200] [--estimators "table network"]
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from real_tables import Table, further_regression_tables, regression_tables, split
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from amortized import BayesianRegressor, PFNRegressor
from amortized.diagnostics import report

LOW, HIGH = 0.80, 0.97


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


def sklearn_process(train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """A Gaussian process of scikit-learn with fitted noise."""
    kernel = ConstantKernel() * RBF() + WhiteKernel()
    return of_sklearn(GaussianProcessRegressor(kernel, normalize_y=True), train)


def forest(train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """A random forest whose trees are taken for draws: too sure, as people find out later."""
    return of_sklearn(ForestSpread(), train)


def of_sklearn(model: Any, train: Table) -> tuple[Any, Callable[[Table], Any]]:
    """A model with ``predict(X, return_std=True)``, and its normal predictive."""
    fitted = model.fit(numbers(train.X, train.X), train.y)

    def answer(test: Table) -> Any:
        mean, std = fitted.predict(numbers(test.X, train.X), return_std=True)
        return torch.distributions.Normal(torch.as_tensor(mean), torch.as_tensor(std))

    return fitted, answer


class ForestSpread(RegressorMixin, BaseEstimator):
    """Mean and standard deviation of the predictions of trees."""

    def fit(self, X: Any, y: Any) -> "ForestSpread":
        """Fits a hundred trees."""
        self.forest_ = RandomForestRegressor(min_samples_leaf=2, random_state=0).fit(X, y)
        return self

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Mean of the trees, and their spread."""
        trees = np.stack([tree.predict(X) for tree in self.forest_.estimators_])
        return (trees.mean(0), trees.std(0) + 1e-9) if return_std else trees.mean(0)


ESTIMATORS = {
    "table network": table_network,
    "linear": linear,
    "sklearn process": sklearn_process,
    "forest spread": forest,
    "gp network": gp_network,
}


def measure(table: str, name: str, n_rows: int) -> dict[str, Any]:
    """Realised coverage of one estimator on one table, and the warnings of its report."""
    train, test = split(table, 0)
    train = Table(train.X.iloc[:n_rows], train.y[:n_rows])
    test = Table(test.X.iloc[:1000], test.y[:1000])
    began = time.process_time()
    fitted, answer = ESTIMATORS[name](train)
    if name in ("sklearn process", "forest spread"):
        page = report(fitted, numbers(train.X, train.X), train.y)
    else:
        page = fitted.report() if name == "table network" else fitted.report(None)
    seconds = time.process_time() - began
    return {
        "table": table,
        "estimator": name,
        "rows": len(train.y),
        "unseen": len(test.y),
        "coverage": coverage(answer(test), test.y),
        "warnings": page.warnings,
        "held out": page.sections[
            "Held-out rows" if name != "gp network" else "Prior against rows"
        ],
        "seconds": seconds,
    }


def coverage(predictive: Any, y: np.ndarray) -> float:
    """Share of targets inside their 90% interval."""
    u = predictive.cdf(torch.as_tensor(y, dtype=torch.float64))
    return float(((u > 0.05) & (u < 0.95)).double().mean())


def measured(path: Path) -> list[dict[str, Any]]:
    """What earlier runs measured."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def summarise(found: list[dict[str, Any]]) -> None:
    """Prints what was warned of wrongly or missed, and the shares."""
    rows = []
    for each in found:
        holds = LOW <= each["coverage"] <= HIGH
        of_width = any("intervals are" in text for text in each["warnings"])
        of_shape = any("shape or location" in text for text in each["warnings"])
        rows.append((each["estimator"], holds, of_width, of_width or of_shape))
        if of_width == holds:
            print(
                f"{each['table']:12} {each['estimator']:16} covers {each['coverage']:.3f} of "
                f"{each['unseen']:4} unseen rows, {'warned' if of_width else 'not warned'}"
            )
    frame = pd.DataFrame(rows, columns=["estimator", "holds", "width", "any"])
    shares = f"{'width':>7}{'any':>7}"
    print(f"\n{'warned of':17}{'outside':>8}{shares}{'inside':>10}{shares}")
    for name, part in [*frame.groupby("estimator", sort=False), ("all", frame)]:
        cells = ""
        for kind, width in ((part[~part.holds], 8), (part[part.holds], 10)):
            cells += f"{len(kind):>{width}}{kind.width.mean():7.2f}{kind['any'].mean():7.2f}"
        print(f"{name:17}{cells}")


def main() -> None:
    """Measures what earlier runs have not, and prints all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--estimators", nargs="+", choices=ESTIMATORS, default=[*ESTIMATORS])
    parser.add_argument("--results", type=Path, default=Path("runs/report_warnings.jsonl"))
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    known = {(each["table"], each["estimator"]) for each in measured(arguments.results)}
    for name in arguments.estimators:
        for table in regression_tables() + further_regression_tables():
            if (table, name) not in known:
                found = measure(table, name, arguments.rows)
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(found) + "\n")
    summarise(measured(arguments.results))


if __name__ == "__main__":
    main()
