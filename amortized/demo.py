"""The demo, ``make demo``: three answers to one Gaussian-process regression on real data.

A pretrained network in one forward pass, NUTS under the same prior, and scikit-learn's Gaussian
process with maximum-likelihood hyperparameters, for weekly CO2 at Mauna Loa (a series) and
scikit-learn's diabetes data (ten features). Prints a table and plots the predictive bands.
"""

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.datasets import load_diabetes
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.distributions import AffineTransform, Distribution, Normal, TransformedDistribution

from amortized.estimators import PFNRegressor
from amortized.infer import infer
from amortized.priors import named_prior

Array = NDArray[np.float64]
FIGURE = Path("demo.png")
LEVELS = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)


class Data(NamedTuple):
    """A real dataset, split into training and test rows.

    Attributes:
        name: name of the dataset.
        unit: unit of the target.
        X: training inputs, ``(n, n_features)``.
        y: training targets, ``(n,)``.
        X_test: held-out inputs.
        y_test: held-out targets.
    """

    name: str
    unit: str
    X: Array
    y: Array
    X_test: Array
    y_test: Array


def carbon_dioxide() -> Data:
    """Three years of weekly CO2 at Mauna Loa, with 60 weeks for training."""
    from statsmodels.datasets import co2

    series = co2.load_pandas().data["co2"].dropna().iloc[-156:]
    weeks = (series.index - series.index[0]).days.to_numpy()[:, None] / 365.25
    X, X_test, y, y_test = train_test_split(weeks, series.to_numpy(), train_size=60, random_state=0)
    return Data("CO2, 60 weeks, 1 feature", "CO2 (ppm)", X, y, X_test, y_test)


def diabetes() -> Data:
    """Progression of diabetes in 442 patients, with 100 for training."""
    X, y = load_diabetes(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, train_size=100, random_state=0)
    return Data("diabetes, 100 patients, 10 features", "progression (score)", X, y, X_test, y_test)


def by_network(data: Data) -> Distribution:
    """One forward pass of the pretrained network ``gp``."""
    return PFNRegressor("gp").fit(data.X, data.y).predict_distribution(data.X_test)


def by_nuts(data: Data) -> Distribution:
    """NUTS under the network's prior, given the same standardised data."""
    center, scale = data.X.mean(axis=0), data.X.std(axis=0)
    y_center, y_scale = data.y.mean(), data.y.std()
    posterior = infer(
        named_prior("gp"),
        (data.X - center) / scale,
        (data.y - y_center) / y_scale,
        method="nuts",
        n_draws=1000,
        n_chains=2,
        n_warmup=300,
    )
    predictive = posterior.predictive(torch.as_tensor((data.X_test - center) / scale))
    return TransformedDistribution(predictive, AffineTransform(float(y_center), float(y_scale)))


def by_maximum_likelihood(data: Data) -> Distribution:
    """scikit-learn's Gaussian process, with the best hyperparameters of six optimisations."""
    n_features = data.X.shape[1]
    kernel = ConstantKernel() * Matern(np.ones(n_features), (1e-2, 1e3), nu=2.5) + WhiteKernel()
    center, scale = data.X.mean(axis=0), data.X.std(axis=0)
    model = GaussianProcessRegressor(
        kernel, normalize_y=True, n_restarts_optimizer=5, random_state=0
    ).fit((data.X - center) / scale, data.y)
    mean, std = model.predict((data.X_test - center) / scale, return_std=True)
    return Normal(torch.as_tensor(mean), torch.as_tensor(std))


METHODS: Mapping[str, Callable[[Data], Distribution]] = {
    "PFN": by_network,
    "NUTS": by_nuts,
    "GP, type-II ML": by_maximum_likelihood,
}


def quantiles(predictive: Distribution, levels: Tensor = LEVELS) -> Tensor:
    """Quantiles of each held-out target, ``(levels, rows)``."""
    return torch.stack([predictive.icdf(level.expand(predictive.batch_shape)) for level in levels])


def scores(predictive: Distribution, y: Tensor) -> tuple[float, float, float]:
    """Mean NLPD (nats), mean CRPS (unit of y) and coverage of the central 90% interval."""
    nlpd = -predictive.log_prob(y).mean().item()
    # The pinball loss averaged over levels is half the CRPS.
    levels = (torch.arange(99, dtype=torch.float64) + 1) / 100
    error = y - quantiles(predictive, levels)
    crps = 2 * torch.maximum(levels[:, None] * error, (levels[:, None] - 1) * error).mean().item()
    low, _, high = quantiles(predictive)
    return nlpd, crps, ((low <= y) & (y <= high)).double().mean().item()


def draw(axis: matplotlib.axes.Axes, data: Data, predictive: Distribution) -> None:
    """Median and 90% band of the held-out targets, and the targets."""
    low, median, high = quantiles(predictive)
    if data.X.shape[1] == 1:
        order = np.argsort(data.X_test[:, 0])
        position = data.X_test[order, 0]
        axis.plot(data.X[:, 0], data.y, "k.", markersize=4, label="known")
        axis.set_xlabel("time (years)")
    else:
        order = np.argsort(median.numpy())
        position = np.arange(len(order), dtype=float)
        axis.set_xlabel("held-out patients, by predicted median")
    axis.fill_between(position, low[order], high[order], alpha=0.3, label="90% band")
    axis.plot(position, median[order], label="median")
    axis.plot(
        position, data.y_test[order], "o", color="C3", markersize=2.5, alpha=0.6, label="held out"
    )


def main() -> None:
    """Runs every method on every dataset, prints the table and saves the figure."""
    warnings.simplefilter("ignore")
    datasets = [carbon_dioxide(), diabetes()]
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(len(datasets), len(METHODS), sharey="row", sharex="row")
    by_network(datasets[0])  # exclude loading and start-up from the timing
    for row, data in zip(axes, datasets, strict=True):
        print(f"\n{data.name}")
        print(f"{'':>16} {'NLPD':>8} {'CRPS':>8} {'90% cov.':>9} {'s':>9} {'slower':>8}")
        fastest = None
        for axis, (name, method) in zip(row, METHODS.items(), strict=True):
            began = time.perf_counter()
            predictive = method(data)
            quantiles(predictive)
            seconds = time.perf_counter() - began
            fastest = seconds if fastest is None else fastest
            nlpd, crps, coverage = scores(predictive, torch.as_tensor(data.y_test))
            print(
                f"{name:>16} {nlpd:8.3f} {crps:8.3f} {coverage:9.2f} {seconds:9.3f} "
                f"{seconds / fastest:7.0f}x",
                flush=True,
            )
            draw(axis, data, predictive)
            axis.set_title(f"{name}: {seconds:.2g} s, NLPD {nlpd:.2f}")
        row[0].set_ylabel(data.unit)
        row[0].legend(fontsize=8)
    figure.savefig(FIGURE, dpi=120)
    print(f"\nThe figure is in {FIGURE.resolve()}")


if __name__ == "__main__":
    main()
