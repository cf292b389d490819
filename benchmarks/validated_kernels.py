"""How often `amortized.mcmc.validate` finds seeded bugs, and how often it doubts what is right.

    python benchmarks/validated_kernels.py --repetitions 100

Every repetition takes another seed. The level is 0.01 for all tests of one call together, so right
kernels should fail in 1% of the repetitions; at the level 0.1 in 10%.
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import stats
from seeded_bugs import BUGS, DENSITY, LOG_EVIDENCE, PROGRAM, RIGHT

from amortized.mcmc import TemperedSMC, Validation

SLOW = {  # so many times fewer repetitions
    "NUTS": 20,
    "tempered SMC": 10,
    "slice, joint": 10,
    "cycle of four": 5,
    "slice": 2,
}


class Counted(NamedTuple):
    """Failures at each level, and the seconds of one repetition."""

    failures: list[int]
    seconds: float


def failures(run: Callable[[int], Validation], n: int, levels: tuple[float, ...]) -> Counted:
    """How many repetitions fail at each level, and the seconds of one."""
    began, p_values = time.perf_counter(), []
    for seed in range(n):
        checks = run(seed).checks
        tested = [check.p_value for check in checks if check.p_value is not None]
        sound = all(check.passed for check in checks if check.p_value is None)
        p_values.append(min(tested) * len(tested) if sound else 0.0)
    seconds = (time.perf_counter() - began) / n
    return Counted([sum(p < level for p in p_values) for level in levels], seconds)


def interval(count: int, n: int) -> str:
    """The share with its 95% interval (Clopper and Pearson)."""
    found = stats.binomtest(count, n).proportion_ci()
    return f"{count / n:6.3f} [{found.low:.3f}, {found.high:.3f}]"


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100)
    n = parser.parse_args().repetitions
    print("right kernels and samplers: share of repetitions that fail [95% interval]\n")
    print(f"{'':<22} {'runs':>5}  {'at level 0.01':<22} {'at level 0.1':<22} seconds a run")
    for name, run in RIGHT.items():
        runs = n // SLOW.get(name, 1)
        counts, seconds = failures(run, runs, (0.01, 0.1))
        shares = "   ".join(interval(count, runs) for count in counts)
        print(f"{name:<22} {runs:>5}  {shares}   {seconds:.2f}", flush=True)
    print("\nseeded bugs: share of repetitions that find the bug at level 0.01\n")
    for name, run in BUGS.items():
        (count,), seconds = failures(run, n, (0.01,))
        print(f"{name:<40} {n:>5}  {interval(count, n)}   {seconds:.2f}", flush=True)
    print("\nevidence of the package's tempered SMC, whose path is learnt from its particles\n")
    for particles in (64, 256):
        sampler = TemperedSMC(DENSITY, PROGRAM, particles)
        _, log_weights = sampler.sample(1000, torch.Generator().manual_seed(0))
        ratio = (log_weights[:, 0] - LOG_EVIDENCE).exp()
        error = ratio.std() / len(ratio) ** 0.5
        print(f"{particles:>5} particles: mean of Z / exact {ratio.mean():.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
