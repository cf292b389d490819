"""A second opinion on each reference, by the program's own density and by tempered particles.

Nothing here is shared with the references, which are sums over grids of densities written in numpy,
nor with the library: a program is traced plainly, and particles go from its prior to its posterior
by reweighting, resampling and differential evolution.

References:
    ter Braak, A Markov chain Monte Carlo version of differential evolution (2006).
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.plain_density import PlainDensity, doubles
from trust_zoo.reference import LEVELS, Array, Reference

N_ISLANDS = 8
ESS = 0.8  # share of the particles that a step of temperature leaves


class Check(NamedTuple):
    """How far the second answer is from the reference.

    Attributes:
        off: the largest difference: of means in standard deviations, of standard deviations as a
            share, of shares below quantiles, of the log evidence in nats.
        error: the standard error of that difference.
        what: it is of.
    """

    off: float
    error: float
    what: str

    @property
    def agrees(self) -> bool:
        """Whether it is within what chance explains, and chance explains little."""
        return self.off < max(0.03, 5 * self.error) and self.error < 0.1


def check(entry: Entry, reference: Reference, n: int = 1000, sweeps: int = 0) -> Check:
    """Compares a reference with tempered particles.

    Args:
        entry: the program.
        reference: what it is compared with.
        n: particles on each of eight islands.
        sweeps: moves at each temperature; 0 for as many as the dimensions want.
    """
    with torch.random.fork_rng(), torch.no_grad(), doubles():
        torch.manual_seed(0)
        density = PlainDensity(entry)
        u = torch.stack([density.sample_prior() for _ in range(N_ISLANDS * n)])
        if u.shape[1] == 0:
            off = abs(float(density(u[:1])[1][0]) - reference.log_evidence)
            return Check(off, 0.0, "log evidence")
        sweeps = sweeps or 10 + 4 * u.shape[1]
        u, log_evidence = temper(density, u.reshape(N_ISLANDS, n, -1), sweeps)
        values = density.constrained(u.flatten(0, 1))
    draws = {
        (name + (f"[{i}]" if value.ndim > 1 else "")): column.reshape(N_ISLANDS, n).numpy()
        for name, value in values.items()
        for i, column in enumerate(value.reshape(len(value), -1).double().T)
    }
    return _compared(draws, log_evidence.numpy(), reference)


def temper(density: PlainDensity, u: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Moves particles ``(islands, n, dim)``, n even, from the prior to the posterior."""
    islands, n, _ = u.shape
    log_evidence, temperature = torch.zeros(islands), 0.0
    log_prior, log_likelihood = (each.reshape(islands, n) for each in density(u.flatten(0, 1)))
    while temperature < 1:
        step = _next_step(log_likelihood.flatten(), 1 - temperature)
        temperature = 1.0 if step >= 1 - temperature else temperature + step
        weights = step * log_likelihood
        log_evidence += weights.logsumexp(1) - math.log(n)
        shares = torch.softmax(weights, 1).nan_to_num(1 / n)
        places = (torch.arange(n) + torch.rand(islands, 1)) / n
        chosen = torch.searchsorted(shares.cumsum(1), places).clamp(max=n - 1)
        chosen = chosen.gather(1, torch.rand(islands, n).argsort(1))
        u = u.gather(1, chosen[..., None].expand_as(u))
        log_prior, log_likelihood = log_prior.gather(1, chosen), log_likelihood.gather(1, chosen)
        last = 3 if temperature == 1 else 1
        for _ in range(last * sweeps):
            _evolve(density, temperature, u, log_prior, log_likelihood)
    return u, log_evidence


def _next_step(log_likelihood: Tensor, most: float) -> float:
    """The step in temperature that leaves the wanted share of effective particles."""

    def ess(step: float) -> float:
        shares = torch.softmax(step * log_likelihood, 0)
        return float(1 / shares.square().sum() / len(shares))

    alive = float((log_likelihood > -math.inf).double().mean())  # no step can do more
    if ess(most) >= ESS * alive:
        return most
    low, high = 0.0, most
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if ess(middle) >= ESS * alive else (low, middle)
    return high


def _evolve(
    density: PlainDensity, temperature: float, u: Tensor, log_prior: Tensor, log_likelihood: Tensor
) -> None:
    """Each half of an island moves along differences of pairs of the other, in place."""
    n = u.shape[1]
    for first, second in ((0, n // 2), (n // 2, 0)):
        ours, others = slice(first, first + n // 2), slice(second, second + n // 2)
        now = u[:, ours]
        moved = now + _step_between(u[:, others])
        new = [each.reshape(now.shape[:2]) for each in density(moved.flatten(0, 1))]
        gain = new[0] - log_prior[:, ours] + temperature * (new[1] - log_likelihood[:, ours])
        accepted = torch.rand(now.shape[:2]).log() < gain.nan_to_num(-math.inf)
        u[:, ours] = torch.where(accepted[..., None], moved, now)
        log_prior[:, ours] = torch.where(accepted, new[0], log_prior[:, ours])
        log_likelihood[:, ours] = torch.where(accepted, new[1], log_likelihood[:, ours])


def _step_between(pool: Tensor) -> Tensor:
    """A step for each particle, along the difference of two; now and then the whole of it."""
    islands, n, dim = pool.shape
    one, other = (
        pool.gather(1, torch.randint(n, (islands, n, 1)).expand(-1, -1, dim)) for _ in range(2)
    )
    reach = 2.38 / math.sqrt(2 * dim) * torch.exp(-3 * torch.rand(islands, n, 1).square())
    reach = torch.where(torch.rand(islands, n, 1) < 0.15, torch.ones(()), reach)
    return reach * (one - other) + 1e-6 * torch.randn(islands, n, dim)


def _compared(draws: dict[str, Array], log_evidence: Array, right: Reference) -> Check:
    """The largest difference, islands weighed by their evidence, errors by the jackknife."""

    def differences(kept: NDArray[np.intp]) -> dict[str, float]:
        largest = log_evidence[kept].max()
        weights = np.exp(log_evidence[kept] - largest)
        found = {"log evidence": largest + np.log(weights.mean()) - right.log_evidence}
        weights = weights / weights.sum()
        for label, summary in right.latents.items():
            ours = draws[label][kept]
            for level, at in zip(LEVELS, summary.quantiles, strict=True):
                found[f"{label} at {level}"] = float(weights @ (ours <= at).mean(1)) - level
            if summary.kurtosis <= 10 and summary.sd > 1e-9:
                mean = weights @ ours.mean(1)
                sd = np.sqrt(weights @ ((ours - mean) ** 2).mean(1))
                found[f"{label}, mean"] = (mean - summary.mean) / summary.sd
                found[f"{label}, sd"] = sd / summary.sd - 1
        return found

    everyone = np.arange(N_ISLANDS)
    whole = differences(everyone)
    parts = [differences(everyone[everyone != i]) for i in everyone]
    errors = {
        name: np.sqrt((N_ISLANDS - 1) * np.var([part[name] for part in parts])) for name in whole
    }
    worst = max(whole, key=lambda name: abs(whole[name]) / max(0.03, 5 * errors[name]))
    return Check(abs(float(whole[worst])), float(errors[worst]), worst)
