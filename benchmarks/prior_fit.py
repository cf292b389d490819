"""Does the prior fit these rows? Ten planted mismatches with gp-1d, and false alarms.

Every dataset is drawn from the network's prior and changed in one way. "report" is the share of
datasets whose calibrated p-value is below .05, "fit" the share of which ``PFNRegressor.fit``
warns, and "first" the statistic with the least p-value most often.

    python benchmarks/prior_fit.py [--datasets 100] [--rows 40] [--network gp-1d] [--features 1]
"""

import argparse
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from pyro.distributions import Uniform
from torch import Tensor

from amortized import load
from amortized.diagnostics.data.held_out import held_out_rows, held_out_statistics
from amortized.diagnostics.data.prior_fit import _expected, _p_values, far_too_narrow
from amortized.priors import named_prior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior, uniform_inputs

FALSE_ALARM_SIZES = (20, 32, 50)
NOISE = 0.02  # of gp-1d
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def scale_of(y: Tensor) -> Tensor:
    """Standard deviation of each dataset's targets."""
    return y.std(1, keepdim=True)


def outliers(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Two rows three standard deviations of the targets away."""
    y = y.clone()
    for own in y:
        hit = torch.randperm(len(own))[:2]
        own[hit] += 3 * own.std() * torch.randn(2).sign()
    return x, y


def discrete(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Targets rounded to eleven levels."""
    low, high = y.amin(1, keepdim=True), y.amax(1, keepdim=True)
    return x, low + (10 * (y - low) / (high - low)).round() / 10 * (high - low)


def drift(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A linear drift over the order of rows, by a fifth of the targets' deviation in all."""
    return x, y + 0.2 * scale_of(y) * torch.linspace(-1, 1, y.shape[1])


def heavy_tails(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Added noise of the prior's size, but of Student's t with one and a half degrees."""
    return x, y + NOISE * torch.distributions.StudentT(1.5).sample(y.shape)


def rough(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
    """A Matern-1/2 process in place of the infinitely smooth one, other latents as in the prior."""
    prior = GaussianProcessPrior(
        "matern12",
        lengthscale=Uniform(0.1, 0.6),
        outputscale=Uniform(0.1, 1.0),
        noise=NOISE,
        inputs=uniform_inputs(-2.0, 2.0),
    )
    batch = prior.sample(len(x), x.shape[1], 0, seed=5)
    return batch.x_context, batch.y_context


def multimodal(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Each target moved up or down by three standard deviations of the noise."""
    return x, y + 3 * NOISE * torch.randn_like(y).sign()


def heteroscedastic(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Added noise that grows from a fourth to eight times the prior's over the range of x."""
    size = NOISE * torch.exp((x[..., 0] + 2) / 4 * math.log(32)) / 4
    return x, y + size * torch.randn_like(y)


def duplicated(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """A fourth of the rows replaced by copies of others."""
    n = x.shape[1] // 4
    return torch.cat((x[:, n:], x[:, n : 2 * n]), 1), torch.cat((y[:, n:], y[:, n : 2 * n]), 1)


CHANGES: Mapping[str, Change] = {
    "noise x 10": lambda x, y: (x, y + NOISE * math.sqrt(99) * torch.randn_like(y)),
    "outliers": outliers,
    "discrete targets": discrete,
    "drift": drift,
    "heavy tails": heavy_tails,
    "wrong smoothness": rough,
    "multimodal noise": multimodal,
    "heteroscedastic": heteroscedastic,
    "shifted inputs": lambda x, y: (x + 1, y),
    "duplicated rows": duplicated,
}


def datasets(name: str, n_rows: int, n_features: int, n: int) -> tuple[Tensor, Tensor]:
    """Fresh datasets of a named prior, in the units of its network."""
    prior = named_prior(name)
    prior.n_features = (n_features, n_features)  # type: ignore[attr-defined]
    batch = prior.sample(n, n_rows, 0, seed=4321)
    x, y = batch.x_context, batch.y_context
    if prior.units == "standardised":
        x = (x - x.mean(1, keepdim=True)) / x.std(1, keepdim=True, correction=0)
        y = (y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True, correction=0)
    return x, y


def rates(network: Any, x: Tensor, y: Tensor) -> tuple[float, float, str]:
    """Shares of datasets that the report and that fit speak against, and the first statistic."""
    expected = _expected(network, None, x.shape[1], x.shape[2], 0)
    assert expected is not None
    held_out = held_out_rows(network, x, y, 0)
    raw = network.config.units == "raw"
    each, combined = _p_values(expected, held_out_statistics(held_out, x, y, raw))
    names = np.array(list(each))[np.argmin(np.stack(list(each.values())), 0)]
    first = Counter(names.tolist()).most_common(1)[0][0]
    return float((combined < 0.05).mean()), float(far_too_narrow(held_out).mean()), first


def main() -> None:
    """Prints false alarms by size, then detections."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=100)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--network", default="gp-1d")
    parser.add_argument("--features", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = load(args.network)
    print(f"{'':>24}{'report':>8}{'fit':>8}  first", flush=True)
    false = []
    for n_rows in FALSE_ALARM_SIZES:
        x, y = datasets(args.network, n_rows, args.features, 167)
        false.append(rates(network, x, y))
        report, fit, first = false[-1]
        print(f"{f'false alarms, {n_rows} rows':>24}{report:8.3f}{fit:8.3f}  {first}", flush=True)
    report, fit = (float(np.mean([row[i] for row in false])) for i in (0, 1))
    print(f"{'false alarms, all':>24}{report:8.3f}{fit:8.3f}", flush=True)
    if args.network != "gp-1d":
        return
    x, y = datasets(args.network, args.rows, 1, args.datasets)
    detected = []
    for name, change in CHANGES.items():
        start = time.perf_counter()
        detected.append(rates(network, *change(x, y)))
        report, fit, first = detected[-1]
        seconds = time.perf_counter() - start
        print(f"{name:>24}{report:8.3f}{fit:8.3f}  {first} ({seconds:.0f} s)", flush=True)
    for label, of in (("mean", np.mean), ("least", np.min)):
        print(f"{label:>24}" + "".join(f"{of([d[i] for d in detected]):8.3f}" for i in (0, 1)))


if __name__ == "__main__":
    main()
