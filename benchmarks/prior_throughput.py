"""Tasks per second: the table prior of our networks beside TabICL's generator.

Tables of 1,000 rows and 20 columns, classification and regression, drawn turn by turn in one
process on one device; on a CPU with one thread, counted in CPU seconds, so of one core. Ours is
the prior that the released networks are trained on. It draws the tasks of a batch together: 16 of
them for short tables in our recipes, one for tables of 1,000 rows; the ratio is that of 16.
TabICL's priors have their defaults but for the shape: "mlp_scm" is what its generator draws by
default, "mix_scm" what TabICL and "graph_scm" what TabICLv2 was trained on. Ours leaves out most
tasks that cannot be predicted, and draws twice as many to choose from; TabICL's filter is off by
default.

    pip install tabicl
    python benchmarks/prior_throughput.py --device cpu

References:
    | TabICL: A Tabular Foundation Model for In-Context Learning on Large Data
    | (Qu et al., 2025), arXiv:2502.05564
"""

import argparse
import random
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np
import torch

from amortized.priors.tabular.table_mixtures import table_prior

N_CONTEXT, N_QUERY, N_FEATURES = 900, 100, 20
N_TASKS, N_ROUNDS = 16, 6
TARGETS = ("classification", "regression")

Draw = Callable[[int], object]


def of_ours(target: str, n_tasks: int, device: str) -> Draw:
    """Draws ``N_TASKS`` tasks of our prior, in batches of ``n_tasks``; the argument is a seed."""
    prior = table_prior(target, n_features=N_FEATURES, max_classes=2)

    def draw(seed: int) -> None:
        for i in range(N_TASKS // n_tasks):
            prior.sample(n_tasks, N_CONTEXT, N_QUERY, seed=seed * N_TASKS + i, device=device)

    return draw


def of_tabicl(target: str, kind: str, device: str) -> Draw:
    """Draws ``N_TASKS`` tasks of one of TabICL's priors; the argument is a seed."""
    from tabicl.prior import PriorDataset

    tasks = PriorDataset(
        regression=target == "regression",
        batch_size=N_TASKS,
        min_features=N_FEATURES,
        max_features=N_FEATURES,
        max_seq_len=N_CONTEXT + N_QUERY,
        prior_type=kind,
        n_jobs=1,
        device=device,
    )

    def draw(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        tasks.get_batch()

    return draw


def tasks_per_second(ways: Mapping[str, Draw], device: str) -> dict[str, tuple[float, float]]:
    """Of all rounds after the first: the rate, and its standard error over rounds."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for seed in range(1 + N_ROUNDS):
        for name, draw in ways.items():
            began = clock()
            draw(seed)
            if device == "cuda":
                torch.cuda.synchronize()
            spent[name].append(clock() - began)
    rates = {}
    for name, seconds in spent.items():
        mean, spread = np.mean(seconds[1:]), np.std(seconds[1:], ddof=1)
        rate = N_TASKS / mean
        rates[name] = (float(rate), float(rate * spread / mean / N_ROUNDS**0.5))
    return rates


def main() -> None:
    """Print tasks per second of every generator, and how many times as fast ours is."""
    parser = argparse.ArgumentParser(description=__doc__)
    fastest = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=fastest)
    device = parser.parse_args().device
    torch.set_num_threads(1)
    kinds = ("mlp_scm", "mix_scm", "graph_scm") if find_spec("tabicl") else ()
    rates = []
    for target in TARGETS:
        ways = {f"ours, {n} a batch": of_ours(target, n, device) for n in (1, 4, 16)}
        best = list(ways)[-1]
        ways |= {f"TabICL, {kind}": of_tabicl(target, kind, device) for kind in kinds}
        rates.append(tasks_per_second(ways, device))
    print(f"{device}, torch {torch.__version__}, tasks of {N_CONTEXT + N_QUERY:,} x {N_FEATURES}")
    print(f"{'tasks per second':20}" + "".join(f"{t:>19} {'ours / it':>10}" for t in TARGETS))
    for name in ways:
        columns = (
            f"{r[name][0]:11.1f} +- {r[name][1]:4.1f} {r[best][0] / r[name][0]:10.1f}"
            for r in rates
        )
        print(f"{name:20}" + "".join(columns))
    if not kinds:
        print("TabICL is not installed: pip install tabicl")


if __name__ == "__main__":
    main()
