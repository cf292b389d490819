r"""What algorithm is in-context learning? A small network for linear regression, and its nearest.

    python benchmarks/in_context_algorithm.py [--noise 0.5] [--layers 1 4] [--steps 1500]

A PFN is trained on tasks of four weights, :math:`w \sim N(0, I / 4)`, standard normal inputs and a
known noise. On 2,000 new tasks its predictive mean is compared with the predictions of

- ridge regression with the prior's own penalty, which is the Bayesian answer;
- least squares of the smallest norm;
- one and twenty steps of gradient descent on the squared error from w = 0, at the step that is best
  for these tasks and this number of rows;
- the mean of the three nearest neighbours; and zero.

Printed is the mean squared difference of the network's mean from each, for several numbers of rows;
the name of the nearest one; and the gap of the network's log density to the exact predictive, in
nats. With as many rows as weights the predictions of least squares have no finite variance, so that
their mean square says little.
"""

import argparse
import time

import torch
from torch import Tensor

from amortized import train
from amortized.networks import PFNConfig
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.training import TrainingConfig

D = 4
ROWS = (2, 4, 8, 16, 32)
N_TASKS, N_QUERY = 2000, 4


def ridge(x: Tensor, y: Tensor, noise: float) -> Tensor:
    """The posterior mean of the weights."""
    eye = torch.eye(D, dtype=x.dtype)
    return torch.linalg.solve(x.mT @ x + D * noise**2 * eye, x.mT @ y.unsqueeze(-1)).squeeze(-1)


def descent(x: Tensor, y: Tensor, step: float, n_steps: int) -> Tensor:
    """Weights after steps of gradient descent from zero."""
    w = x.new_zeros(len(x), D)
    for _ in range(n_steps):
        error = (x @ w.unsqueeze(-1)).squeeze(-1) - y
        w = w - step * (x.mT @ error.unsqueeze(-1)).squeeze(-1) / y.shape[1]
    return w


def best_descent(x: Tensor, y: Tensor, z: Tensor, target: Tensor, n_steps: int) -> Tensor:
    """Predictions by the step size that predicts these tasks best."""
    found = []
    for step in torch.logspace(-2, 1, 40):
        answer = (z @ descent(x, y, float(step), n_steps).unsqueeze(-1)).squeeze(-1)
        loss = (answer - target).square().mean().nan_to_num(torch.inf)
        found.append((float(loss), answer))
    return min(found, key=lambda each: each[0])[1]


def nearest_neighbours(x: Tensor, y: Tensor, z: Tensor) -> Tensor:
    """Means of the targets of the three nearest rows, or of fewer."""
    k = min(3, y.shape[1])
    chosen = torch.cdist(z, x).topk(k, largest=False).indices
    return y.unsqueeze(1).expand(-1, z.shape[1], -1).gather(2, chosen).mean(-1)


def predictions(x: Tensor, y: Tensor, z: Tensor, target: Tensor, noise: float) -> dict[str, Tensor]:
    """By every algorithm."""
    least = (torch.linalg.pinv(x) @ y.unsqueeze(-1)).squeeze(-1)
    return {
        "Bayes": (z @ ridge(x, y, noise).unsqueeze(-1)).squeeze(-1),
        "OLS": (z @ least.unsqueeze(-1)).squeeze(-1),
        "GD1": best_descent(x, y, z, target, 1),
        "GD20": best_descent(x, y, z, target, 20),
        "3-NN": nearest_neighbours(x, y, z),
        "zero": torch.zeros_like(target),
    }


def compare(noise: float, n_layers: int, n_steps: int) -> None:
    """Train a network, and print its distances."""
    prior = LinearRegressionPrior(D, weight_scale=D**-0.5, variance=noise**2, intercept=False)
    size = PFNConfig(
        n_features=D,
        max_context=ROWS[-1],
        d_model=64,
        n_layers=n_layers,
        d_hidden=128,
        n_bars=100,
        frequencies=(0.05, 1.0),
    )
    config = TrainingConfig(
        n_steps=n_steps, n_tasks=32, n_context=(1, ROWS[-1]), n_query=16, seed=1
    )
    began = time.process_time()
    network = train(prior, size, config, progress=False)
    seconds = time.process_time() - began
    print(f"\nnoise {noise}, {n_layers} blocks, {n_steps} steps, {seconds:.0f} CPU seconds")
    for n in ROWS:
        batch = prior.sample(N_TASKS, n, N_QUERY, seed=n)
        with torch.no_grad():
            predictive = network(batch.x_context, batch.y_context, batch.x_query)
        rows = (batch.x_context.double(), batch.y_context.double(), batch.x_query.double())
        gap = prior.posterior_predictive(batch).log_prob(batch.y_query)
        gap = gap - predictive.log_prob(batch.y_query)
        each = predictions(*rows, batch.y_query.double(), noise)
        if n == ROWS[0]:
            print(f"{'rows':>5}" + "".join(f"{name:>9}" for name in each) + "  nearest  gap")
        off = {name: (predictive.mean - value).square().mean() for name, value in each.items()}
        line = "".join(f"{value:>9.4f}" for value in off.values())
        print(f"{n:>5}{line}  {min(off, key=lambda name: off[name]):<8}{gap.mean():.3f}")


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.5])
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--steps", type=int, default=1500)
    arguments = parser.parse_args()
    for noise in arguments.noise:
        for n_layers in arguments.layers:
            compare(noise, n_layers, arguments.steps)


if __name__ == "__main__":
    main()
