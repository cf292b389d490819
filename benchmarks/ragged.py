"""Lists of datasets of different sizes: one call of `infer` against a call for each.

    python benchmarks/ragged.py

CPU seconds of `infer(prior, x, y, method="dt")` for 64 linear regressions with the network
"dt-linear", and the largest difference of a posterior mean between the two ways.
"""

import time
from collections.abc import Callable
from typing import Any

import torch

from amortized import infer
from amortized.latent_priors.problems import PROBLEMS

SIZES = {
    "63 of 5 rows, 1 of 50": [5] * 63 + [50],
    "8 sizes, 5 to 40": [5 * (1 + i % 8) for i in range(64)],
    "40 sizes, 5 to 44": [5 + i % 40 for i in range(64)],
}


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the least of three CPU times."""
    seconds = []
    for _ in range(3):
        began = time.process_time()
        result = function()
        seconds.append(time.process_time() - began)
    return result, min(seconds)


def main() -> None:
    """Print the table."""
    torch.manual_seed(0)
    prior = PROBLEMS["dt-linear"].program()
    print(f"{'64 datasets':>24}{'one call':>10}{'one each':>10}{'ratio':>7}{'off':>10}")
    for name, sizes in SIZES.items():
        tasks = [prior.sample(1, n, 0, seed=i) for i, n in enumerate(sizes)]
        x, y = [t.x_context[0] for t in tasks], [t.y_context[0] for t in tasks]
        together, fast = timed(lambda x=x, y=y: infer(prior, x, y, method="dt"))
        each, slow = timed(
            lambda x=x, y=y: [infer(prior, *d, method="dt") for d in zip(x, y, strict=True)]
        )
        alone = torch.stack([one.mixture.mean for one in each])
        off = (together.mixture.mean - alone).abs().max()
        print(f"{name:>24}{fast:>10.3f}{slow:>10.3f}{slow / fast:>7.1f}{off:>10.1e}")


if __name__ == "__main__":
    main()
