"""Joint densities of tables: outliers beside an isolation forest, outputs beside independent ones.

outliers    a twentieth of the rows get cells of other rows, so that each cell alone is usual;
            area under the curve of `PFNDensity.score_held_out` and of `IsolationForest`
outputs     correlated columns of real tables as outputs; mean log density of held-out rows,
            joint and as the sum of those of the single outputs, in nats

python benchmarks/table_densities.py
"""

import argparse
import warnings

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_linnerud, load_wine
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import KFold

from amortized import PFNRegressor
from amortized.estimators import PFNDensity

Numbers = NDArray[np.float64]


def outlier_tables() -> dict[str, Numbers]:
    """Tables of numbers."""
    return {
        "iris": load_iris().data,
        "wine": load_wine().data,
        "diabetes": load_diabetes(scaled=False).data[:200],
        "breast cancer, means": load_breast_cancer().data[:200, :10],
        "breast cancer, errors": load_breast_cancer().data[:200, 10:20],
    }


def output_tables() -> dict[str, tuple[Numbers, Numbers]]:
    """Inputs and correlated outputs."""
    iris, wine, cancer = load_iris().data, load_wine().data, load_breast_cancer().data[:200]
    blood = load_diabetes(scaled=False).data[:200]
    exercise, body = load_linnerud(return_X_y=True)
    return {
        "linnerud: weight, waist, pulse": (exercise, body),
        "iris: petal length, width": (iris[:, :2], iris[:, 2:]),
        "wine: phenols, flavanoids": (wine[:, [0, 1, 2, 9]], wine[:, [5, 6]]),
        "diabetes: s1, s2": (blood[:, :4], blood[:, 4:6]),
        "breast cancer: radius, area, perimeter": (cancer[:, [1, 4, 8]], cancer[:, [0, 3, 2]]),
    }


def outliers(table: Numbers) -> tuple[float, float]:
    """Areas under the curves of the density and of the forest."""
    rng, table = np.random.default_rng(0), table.copy()
    rows = rng.choice(len(table), len(table) // 20, replace=False)
    table[rows] = np.stack([rng.permutation(column)[: len(rows)] for column in table.T], axis=1)
    planted = np.isin(np.arange(len(table)), rows)
    forests = [IsolationForest(random_state=seed).fit(table) for seed in range(5)]
    areas = [roc_auc_score(planted, -forest.score_samples(table)) for forest in forests]
    density = PFNDensity(n_orders=1).fit(table)
    return roc_auc_score(planted, -density.score_held_out(3)), float(np.mean(areas))


def outputs(x: Numbers, y: Numbers) -> tuple[float, float]:
    """Mean log densities of held-out rows, joint and independent."""
    joint, alone = [], []
    for learned, held in KFold(3, shuffle=True, random_state=0).split(x):
        estimator = PFNRegressor(n_estimators=2).fit(x[learned], y[learned])
        joint.append(estimator.log_density(x[held], y[held]))
        alone.append(np.zeros(len(held)))
        for target in y.T:
            one = PFNRegressor(n_estimators=2).fit(x[learned], target[learned])
            alone[-1] += one.log_density(x[held], target[held])
    return float(np.concatenate(joint).mean()), float(np.concatenate(alone).mean())


def main() -> None:
    """Print both tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    warnings.simplefilter("ignore", UserWarning)
    print("| outliers of | density | isolation forest |\n| --- | --- | --- |")
    found = {name: outliers(table) for name, table in outlier_tables().items()}
    for name, (density, forest) in found.items():
        print(f"| {name} | {density:.3f} | {forest:.3f} |")
    density, forest = np.mean(list(found.values()), axis=0)
    print(f"| mean | {density:.3f} | {forest:.3f} |")
    print("\n| outputs | joint | independent |\n| --- | --- | --- |")
    for name, (x, y) in output_tables().items():
        print("| {} | {:.3f} | {:.3f} |".format(name, *outputs(x, y)))


if __name__ == "__main__":
    main()
