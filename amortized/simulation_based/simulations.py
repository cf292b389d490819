"""Simulations of a program; failed simulations are counted and left out."""

import time
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from joblib import Parallel, delayed
from joblib.parallel import get_active_backend
from torch import Tensor
from tqdm import tqdm

from amortized.program.simulation import ProgramSimulator
from amortized.seeding import seeded

_AT_ONCE = 10_000  # simulations of one vectorised run
_IN_A_JOB = 25  # of a simulator that runs one at a time
_JOBS_AT_ONCE = 64  # between two steps of the progress bar


@dataclass(frozen=True)
class Simulations:
    """Latents and the data simulated at them.

    Attributes:
        u: the latents in unconstrained space.
        x: inputs.
        y: data, ``(n, rows, *event)``.
        n_calls: simulations asked for, failed ones included.
        n_failed: those that raised, or whose data are not finite; they are left out.
        seconds: time that they took.
    """

    u: Float[Tensor, "n dim"]
    x: Float[Tensor, "n rows features"]
    y: Tensor
    n_calls: int
    n_failed: int
    seconds: float

    def __len__(self) -> int:
        return len(self.u)

    def joined(self, other: "Simulations") -> "Simulations":
        """Both together."""
        return Simulations(
            torch.cat([self.u, other.u]),
            torch.cat([self.x, other.x]),
            torch.cat([self.y, other.y]),
            self.n_calls + other.n_calls,
            self.n_failed + other.n_failed,
            self.seconds + other.seconds,
        )


def simulate(
    simulator: ProgramSimulator,
    u: Float[Tensor, "n dim"],
    x: Float[Tensor, "n rows features"],
    *,
    seed: int,
    n_jobs: int = 1,
    progress: bool = False,
) -> Simulations:
    """Runs a simulator at given latents: vectorised if it can be, otherwise one by one.

    Where it runs one by one, simulation i depends on ``seed`` and i only, not on ``n_jobs``; an
    exception is a failed simulation.

    Args:
        simulator: simulator of the program.
        u: the latents in unconstrained space.
        x: inputs of each dataset.
        seed: equal seeds give equal data.
        n_jobs: processes, as joblib counts them, for a simulator that cannot be vectorised. A
            backend of processes, such as Dask's or Ray's, is chosen by ``joblib.parallel_config``
            around the call.
        progress: whether a bar is shown.

    Raises:
        ValueError: if every simulation fails.
    """
    began = time.perf_counter()
    parts = []
    try:
        with seeded(seed):
            for rows in torch.arange(len(u)).split(_AT_ONCE):
                parts.append(simulator.at_once(u[rows], x[rows]))
        y, worked, reason = torch.cat(parts), torch.ones(len(u), dtype=torch.bool), None
    except Exception:  # not vectorised, or some simulations raise
        y, worked, reason = _one_by_one(simulator, u, x, seed, n_jobs, progress)
    if y.shape[1:2] != x.shape[1:2]:
        raise ValueError(
            f"Expected the site 'y' of shape ({x.shape[1]},), one target per row; got "
            f"{tuple(y.shape[1:])}. Draw it inside a plate of that size or with to_event."
        )
    worked = worked & y.flatten(1).isfinite().all(-1)
    n_failed = int((~worked).sum())
    if n_failed == len(u):
        raise ValueError(
            f"Expected finite data of the simulator; all {n_failed} simulations failed"
            + (f", the last one with {reason}." if reason else ": they have NaN or infinite data.")
        )
    return Simulations(
        u[worked], x[worked], y[worked], len(u), n_failed, time.perf_counter() - began
    )


def _one_by_one(
    simulator: ProgramSimulator, u: Tensor, x: Tensor, seed: int, n_jobs: int, progress: bool
) -> tuple[Tensor, Bool[Tensor, " n"], str | None]:
    """The data, NaN where a simulation failed; which did not; and why the last of them did."""
    lots = torch.arange(len(u)).split(_IN_A_JOB)
    jobs = [delayed(_some)(simulator, u[rows], x[rows], rows, seed) for rows in lots]
    # Programs run one at a time in a process, so threads would wait for each other for ever.
    backend, _ = get_active_backend(prefer="processes")
    of_threads = n_jobs != 1 and getattr(backend, "supports_sharedmem", False)
    workers = Parallel(n_jobs=n_jobs, backend="loky" if of_threads else None)
    results: list[Any] = []
    with tqdm(total=len(u), unit="simulation", disable=not progress) as bar, workers as parallel:
        for first in range(0, len(jobs), _JOBS_AT_ONCE):
            done = [each for lot in parallel(jobs[first : first + _JOBS_AT_ONCE]) for each in lot]
            results += done
            bar.update(len(done))
    data = [each for each in results if isinstance(each, Tensor)]
    reasons = [each for each in results if not isinstance(each, Tensor)]
    if not data:
        return torch.full((len(u), x.shape[1]), torch.nan), torch.zeros(len(u)).bool(), reasons[-1]
    shapes = {each.shape for each in data}
    if len(shapes) > 1:
        raise ValueError(
            f"Expected data of one shape from the simulator; got {sorted(map(tuple, shapes))}."
        )
    lost = torch.full_like(data[0], torch.nan)
    y = torch.stack([each if isinstance(each, Tensor) else lost for each in results])
    worked = torch.tensor([isinstance(each, Tensor) for each in results])
    return y, worked, reasons[-1] if reasons else None


def _some(
    simulator: ProgramSimulator, u: Tensor, x: Tensor, numbers: Tensor, seed: int
) -> list[Tensor | str]:
    """A few simulations: their data, or what they raised."""
    found: list[Tensor | str] = []
    for at, inputs, number in zip(u, x, numbers.tolist(), strict=True):
        try:
            with seeded(seed * 1_000_003 + number), warnings.catch_warnings():
                found.append(simulator.one(at, inputs))
        except Exception as reason:
            found.append(f"{type(reason).__name__}: {reason}")
    return found
