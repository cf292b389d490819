"""Success per sample on planted paths: particles, best of n, and beam search.

In each of 500 problems one path of 12 steps is right. A generator takes the right step with chance
0.6, and a wrong one otherwise. A verifier gives every prefix a noisy score, normal around 1 or -1
for right and wrong ones; the same prefix always gets the same score. A method answers with the most
probable path that it has seen, given all its scores and the generator. Cost is counted in steps of
the generator, in units of whole paths (12 steps).

    python benchmarks/planted_paths.py

Then two constraints at the end of a sequence: effective draws and errors of the evidence, with and
without a lookahead.
"""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from amortized import load
from amortized.generators import CurveGenerator, Generator, learn_lookahead, sample_sequences

N_STEPS, N_PROBLEMS, RIGHT, N_WRONG = 12, 500, 0.6, 3
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
WIDTH = 4  # samples for each sequence of a beam


class Planted(Generator):
    """Prefixes of planted problems, as hashes: sequences are one problem after another."""

    n_steps = N_STEPS

    def __init__(self, noise: float) -> None:
        self.noise = noise

    def start(self, n: int, generator: torch.Generator) -> dict[str, Tensor]:
        problem = torch.arange(N_PROBLEMS).repeat_interleave(n // N_PROBLEMS)
        state = {
            "hash": _mixed(problem + 1),
            "right": torch.ones(n, dtype=torch.bool),
            "score": torch.zeros(n, dtype=torch.float64),
            "total": torch.zeros(n, dtype=torch.float64),
        }
        return self.extend(state, 0, generator)

    def extend(
        self, state: dict[str, Tensor], t: int, generator: torch.Generator
    ) -> dict[str, Tensor]:
        n = len(state["hash"])
        uniform = torch.rand(n, generator=generator, dtype=torch.float64)
        wrong = torch.randint(1, N_WRONG + 1, (n,), generator=generator)
        token = torch.where(uniform < RIGHT, 0, wrong)
        right = state["right"] & (token == 0)
        hashed = _mixed(state["hash"] * 31 + token + 1)
        noise = torch.special.ndtri(((hashed >> 11) & (2**40 - 1)).double().add(0.5) / 2**40)
        score = torch.where(right, 1.0, -1.0).double() + self.noise * noise
        # The log of the likelihood ratio of right and wrong, and of the generator's chance.
        chance = torch.where(token == 0, RIGHT, (1 - RIGHT) / N_WRONG).double()
        total = state["total"] + 2 * score / self.noise**2 + chance.log()
        return {"hash": hashed, "right": right, "score": score, "total": total}

    def potential(self, state: dict[str, Tensor], t: int) -> Tensor:
        """The likelihood ratio of the last score."""
        return 2 * state["score"] / self.noise**2

    def value(self, state: dict[str, Tensor], t: int) -> Tensor:
        return state["right"]

    def named(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"right": state["right"], "total": state["total"]}


def _mixed(x: Tensor) -> Tensor:
    """Scrambles 64-bit integers (the finaliser of SplitMix64, with signed arithmetic)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -4658895280553007687
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -7723592293110705685
    return x ^ ((x >> 31) & (2**33 - 1))


def success(right: Tensor, total: Tensor) -> float:
    """How often the most probable path is the right one."""
    best = total.view(N_PROBLEMS, -1).argmax(1, keepdim=True)
    return float(right.view(N_PROBLEMS, -1).gather(1, best).double().mean())


def particles(noise: float, n: int) -> tuple[float, float]:
    """Success of particles, and the cost in paths."""
    planted = Planted(noise)
    found = sample_sequences(planted, planted.potential, n, n_runs=N_PROBLEMS, seed=n)
    return success(found._draws["right"], found._draws["total"]), n


def best_of(noise: float, n: int) -> tuple[float, float]:
    """Success of independent paths."""
    planted, generator = Planted(noise), torch.Generator().manual_seed(n)
    state = planted.start(N_PROBLEMS * n, generator)
    for t in range(1, N_STEPS):
        state = planted.extend(state, t, generator)
    return success(state["right"], state["total"]), n


def beam(noise: float, n: int, by: str) -> tuple[float, float]:
    """Success of a beam of n, each extended WIDTH times, by the total or the last score."""
    planted, generator = Planted(noise), torch.Generator().manual_seed(n)
    state = planted.start(N_PROBLEMS * n * WIDTH, generator)
    for t in range(1, N_STEPS + 1):
        kept = state[by].view(N_PROBLEMS, -1).topk(n, 1).indices
        kept = (kept + torch.arange(N_PROBLEMS)[:, None] * n * WIDTH).flatten()
        state = {name: part[kept] for name, part in state.items()}
        if t < N_STEPS:
            wide = {name: part.repeat_interleave(WIDTH, 0) for name, part in state.items()}
            state = planted.extend(wide, t, generator)
    return success(state["right"], state["total"]), n * WIDTH


def needed(curve: list[tuple[float, float]], level: float) -> float:
    """Cost at which success reaches a level, between sizes on a log scale."""
    before: tuple[float, float] | None = None
    for rate, cost in curve:
        if rate >= level:
            if before is None:
                return cost
            share = (level - before[0]) / (rate - before[0])
            return float(before[1] * (cost / before[1]) ** share)
        before = (rate, cost)
    return math.inf


METHODS: dict[str, Callable[..., tuple[float, float]]] = {
    "particles": particles,
    "best of n": best_of,
    "beam, all scores": lambda noise, n: beam(noise, n, "total"),
    "beam, last score": lambda noise, n: beam(noise, n, "score"),
}


def planted() -> None:
    """Success against cost, for three verifiers."""
    for noise in (1.0, 1.5, 2.0):
        print(f"\nverifier noise {noise}: success at a cost of so many paths")
        print(f"{'':<18}" + "".join(f"{n:>7}" for n in SIZES) + "   50% at  80% at")
        for name, method in METHODS.items():
            sizes = [n for n in SIZES if "beam" not in name or n <= SIZES[-1] // WIDTH]
            curve = [method(noise, n) for n in sizes]
            at = {cost: rate for rate, cost in curve}
            cells = "".join(f"{at[n]:7.3f}" if n in at else " " * 7 for n in SIZES)
            marks = "".join(f"{needed(curve, level):8.1f}" for level in (0.5, 0.8))
            print(f"{name:<18}{cells} {marks}", flush=True)


class Walk(Generator):
    """A random walk of 12 steps."""

    n_steps = 12

    def start(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randn(n, 1, generator=generator, dtype=torch.float64)

    def extend(self, state: Tensor, t: int, generator: torch.Generator) -> Tensor:
        return state + self.start(len(state), generator)


def last_above(bound: float, n_steps: int) -> Callable[[Tensor, int], Tensor]:
    """The constraint that a sequence ends above a bound."""
    return lambda state, t: torch.where((t < n_steps - 1) | (state[:, -1] > bound), 0.0, -torch.inf)


def compared(
    name: str,
    generator: Any,
    bound: float,
    exact: float,
    lookaheads: dict[str, Any],
    n: int,
    n_runs: int,
) -> None:
    """Evidence and effective draws by several lookaheads."""
    print(f"\n{name}: probability {exact:.5f}, {n} particles, {n_runs} runs")
    high = last_above(bound, generator.n_steps)
    for label, lookahead in lookaheads.items():
        began = time.perf_counter()
        found = sample_sequences(generator, high, n, lookahead=lookahead, n_runs=n_runs)
        ratio = found.diagnostics["log_evidences"].exp() / exact
        error = float(ratio.std()) / math.sqrt(n_runs)
        ess = float(found.diagnostics["ess"][:, -1].mean())
        print(
            f"  {label:<28} Z / exact {float(ratio.mean()):.3f} +- {error:.3f}, of one run "
            f"+- {float(ratio.std()):.2f}; last ESS {ess:.1f}; {time.perf_counter() - began:.1f} s",
            flush=True,
        )


def main() -> None:
    """Prints all tables."""
    planted()
    walk, high = Walk(), last_above(10.0, 12)
    learnt = learn_lookahead(walk, high, lambda state, t: state)
    exact = float(stats.norm.sf(10 / math.sqrt(12)))
    both = {"without lookahead": None, "with a learnt one": learnt}
    compared("a random walk of 12 steps that ends above 10", walk, 10.0, exact, both, 200, 200)
    epochs = [0.02, 0.04, 0.06, 0.1, 0.16]  # as shares of the whole training
    curve = CurveGenerator(
        load("learning-curve"), epochs, [0.42, 0.55, 0.61, 0.66, 0.70], [0.24, 0.4, 0.6, 1.0]
    )
    long_run = float((curve.draw(20_000, seed=1)[:, -1] > 0.92).double().mean())
    both = {
        "without lookahead": None,
        "with the network's forecast": lambda state, t: curve.log_chance_above(state, 3, 0.92),
    }
    title = "a learning curve that ends above 0.92, by the network"
    compared(title, curve, 0.92, long_run, both, 50, 60)


if __name__ == "__main__":
    main()
