"""The out-of-range flag of the network ``gp``: false alarms, and planted shifts it detects.

Datasets come from the network's prior, 5% of them should be flagged; then each is changed in one of
several ways. Standardised datasets are those that an estimator hands to the network: there a moved
or rescaled answer is no change at all.

    python benchmarks/out_of_range.py [--datasets 300]
"""

import argparse
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from amortized import load
from amortized.diagnostics.data.out_of_range import TrainingRange
from amortized.priors import Prior, named_prior

SIZES = ((20, 1), (30, 3))
Shift = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def scale_of(y: Tensor) -> Tensor:
    """Standard deviation of each dataset's answers."""
    return y.std(1, keepdim=True)


def outliers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A tenth of the answers ten standard deviations away."""
    hit = torch.rand_like(y) < 0.1
    hit[:, 0] = True
    return x, y + 10 * scale_of(y) * hit * torch.randn_like(y).sign()


def heavy_tails(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Cauchy noise of the size of the answers."""
    noise = torch.distributions.StudentT(1.0).sample(y.shape)
    return x, y + scale_of(y) * noise


def clusters(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Half of the rows eight units away, all else equal."""
    x = x.clone()
    x[:, ::2] += 8.0
    return x, y


RAW: Mapping[str, Shift] = {
    "answers moved by 5": lambda x, y: (x, y + 5),
    "answers 10 times": lambda x, y: (x, 10 * y),
    "inputs moved by 4": lambda x, y: (x + 4, y),
    "inputs 4 times": lambda x, y: (4 * x, y),
}
BOTH: Mapping[str, Shift] = {
    "a tenth outliers": outliers,
    "Cauchy noise": heavy_tails,
    "exponentiated answers": lambda x, y: (x, scale_of(y) * torch.exp(2 * y / scale_of(y))),
    "inputs in two clusters": clusters,
}


def datasets(prior: Prior, n_context: int, n_features: int, n: int) -> tuple[Tensor, Tensor]:
    """Fresh datasets of one size."""
    prior.n_features = (n_features, n_features)  # type: ignore[attr-defined]
    batch = prior.sample(n, n_context, 0, seed=987)
    return batch.x_context, batch.y_context


def main() -> None:
    """Prints one table for raw and one for standardised datasets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=300)
    n = parser.parse_args().datasets
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = load("gp")
    for standardised in (False, True):
        print(f"\n{'standardised' if standardised else 'raw':>26}", end="")
        print("".join(f"{f'{n_context} x {f}':>10}" for n_context, f in SIZES) + f"{'mean':>10}")
        table: dict[str, list[float]] = {}
        for n_context, n_features in SIZES:
            prior = named_prior("gp")
            x, y = datasets(prior, n_context, n_features, n)
            inside = TrainingRange(network, prior, n_context, n_features, standardised=standardised)
            table.setdefault("false alarms", []).append(inside(x, y).flagged().mean())
            for name, shift in (BOTH if standardised else {**RAW, **BOTH}).items():
                table.setdefault(name, []).append(inside(*shift(x, y)).flagged().mean())
        for name, shares in table.items():
            cells = "".join(f"{share:10.3f}" for share in shares)
            print(f"{name:>26}{cells}{np.mean(shares):10.3f}", flush=True)


if __name__ == "__main__":
    main()
