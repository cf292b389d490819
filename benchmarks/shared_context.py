"""Joint samples that share the encoding of their dataset, beside a copy of it for each.

    python benchmarks/shared_context.py

CPU seconds for 100 joint samples of 50 queries given 150 rows by the network "gp", with the rows
appended to the cache (``refresh=50``), and the largest difference of a draw between the two ways.
"""

import time

import torch

from amortized import load
from amortized.uncertainty import joint_sample

N_SAMPLES, N_CONTEXT, N_QUERY = 100, 150, 50


def main() -> None:
    """Prints the table."""
    torch.set_num_threads(1)
    network, generator = load("gp"), torch.Generator().manual_seed(0)
    x, z = (4 * torch.rand(1, n, 1, generator=generator) - 2 for n in (N_CONTEXT, N_QUERY))
    data = (x, torch.sin(2 * x[..., 0]), z)
    copies = tuple(part.repeat(N_SAMPLES, *[1] * (part.ndim - 1)) for part in data)
    ways = {"shared": (data, N_SAMPLES), "a copy for each": (copies, 1)}
    draws, seconds = {}, {}
    for name, (given, n) in ways.items():
        spent = []
        for _ in range(2):
            began = time.process_time()
            draws[name] = joint_sample(network, *given, n, refresh=N_QUERY).flatten(0, 1)
            spent.append(time.process_time() - began)
        seconds[name] = min(spent)
        print(f"{name:>16} {seconds[name]:6.2f} s", flush=True)
    off = (draws["shared"] - draws["a copy for each"]).abs().max()
    print(f"{'ratio':>16} {seconds['a copy for each'] / seconds['shared']:6.2f}, off by {off:.1e}")


if __name__ == "__main__":
    main()
