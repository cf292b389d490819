"""A second opinion on each reference, by the program's own density and by tempered particles.

Nothing here is shared with the references, which are sums over grids of densities written in numpy,
nor with the library: a program is traced plainly, and particles go from its prior to its posterior
by reweighting, resampling and differential evolution.

References:
    ter Braak, A Markov chain Monte Carlo version of differential evolution (2006).
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, biject_to

from trust_zoo.entry import Entry
from trust_zoo.reference import Array, Reference

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


class _Placed(Messenger):
    """Puts coordinates into latents, and adds up the two halves of the log density."""

    def __init__(self, u: Tensor | None, discrete: dict[str, Tensor]) -> None:
        super().__init__()
        self.u, self.discrete = u, discrete
        self.values: dict[str, Tensor] = {}
        self.coordinates: list[Tensor] = []
        self.log_prior = self.log_likelihood = torch.zeros(())
        self.at = 0

    def _pyro_sample(self, message: Any) -> None:
        law = message["fn"]
        if _is_subsample(law):
            return
        if message["infer"].get("_deterministic"):
            self.values[message["name"]] = message["value"]
        elif message["is_observed"]:
            within = _inside(law, message["value"])
            log_prob = torch.where(within, law.log_prob(message["value"]).sum(), -math.inf)
            self.log_likelihood = self.log_likelihood + log_prob
        else:
            self._place(message)

    def _place(self, message: Any) -> None:
        name, law = message["name"], message["fn"]
        if name in self.discrete:
            value = self.discrete[name]
        else:
            value = self.values[name] = self._continuous(law)
        message["value"], message["done"] = value, True
        self.log_prior = self.log_prior + law.log_prob(value).sum()

    def _continuous(self, law: Any) -> Tensor:
        to_support = biject_to(law.support)
        if self.u is None:
            value = law.sample()
            u = to_support.inv(value)
        else:
            shape = to_support.inverse_shape(law.shape())
            u = self.u[self.at : self.at + math.prod(shape)].reshape(shape)
            value = to_support(u)
        self.at += u.numel()
        self.coordinates.append(u.reshape(-1))
        jacobian = to_support.log_abs_det_jacobian(u, value).sum()
        self.log_prior = self.log_prior + jacobian
        return value


def _is_subsample(law: Any) -> bool:
    """Whether a site is a plate's own, of its indices."""
    return type(law).__name__ == "_Subsample"


def _inside(law: Any, value: Tensor) -> Tensor:
    """Whether a value is in the support, asked of the base where a law is transformed."""
    while True:
        if isinstance(law, TransformedDistribution):
            for transform in reversed(law.transforms):
                value = transform.inv(value)
            law = law.base_dist
        elif isinstance(law, Independent) or type(law).__name__ == "MaskedDistribution":
            law = law.base_dist
        else:
            return law.support.check(value).all()


class PlainDensity:
    """The two halves of a program's log density in unconstrained coordinates.

    Discrete latents are summed over all their joint values.
    """

    def __init__(self, entry: Entry) -> None:
        self.program = entry.easier or entry.program
        self.y = torch.as_tensor(np.asarray(entry.y, dtype=float))
        x = np.zeros((len(self.y), 1)) if entry.x is None else entry.x
        self.x = torch.as_tensor(np.asarray(x, dtype=float))
        trace = pyro.poutine.trace(self.program).get_trace(self.x, self.y)
        each = {
            name: site["fn"].enumerate_support(expand=False).flatten()
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
            and not site["is_observed"]
            and not _is_subsample(site["fn"])
            and site["fn"].support.is_discrete
        }
        shapes = {name: trace.nodes[name]["fn"].shape() for name in each}
        sizes = [math.prod(shape) for shape in shapes.values()]
        values = [v for v, size in zip(each.values(), sizes, strict=True) for _ in range(size)]
        joint = torch.cartesian_prod(*values).reshape(-1, len(values)) if each else torch.zeros(1, 0)
        self.assignments = {
            name: part.reshape(len(joint), *shapes[name])
            for name, part in zip(each, joint.split(sizes, 1) if each else [], strict=True)
        }
        self.batched = self._can_be_batched()

    def sample_prior(self) -> Tensor:
        """Coordinates of one draw of the continuous latents."""
        run = self._run(None, {n: v[0] for n, v in self.assignments.items()})
        return torch.cat([*run.coordinates, torch.zeros(0)])

    def _run(self, u: Tensor | None, discrete: dict[str, Tensor]) -> _Placed:
        with pyro.validation_enabled(False), _Placed(u, discrete) as run:
            self.program(self.x, self.y)
        return run

    def _both(self, u: Tensor) -> tuple[Tensor, Tensor]:
        def one(discrete: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
            run = self._run(u, discrete)
            return run.log_prior, run.log_likelihood

        if not self.assignments:
            return one({})
        prior, likelihood = torch.func.vmap(one)(self.assignments)
        log_prior = prior.logsumexp(0)
        return log_prior, (prior + likelihood).logsumexp(0) - log_prior

    def _over_particles(self, function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        if self.batched:
            return torch.func.vmap(function)

        def loop(u: Tensor) -> Any:
            rows = [function(each) for each in u]
            if isinstance(rows[0], dict):
                return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            return tuple(torch.stack(part) for part in zip(*rows, strict=True))

        return loop

    def _can_be_batched(self) -> bool:
        u = torch.stack([self.sample_prior() for _ in range(2)])
        try:
            torch.func.vmap(self._both)(u)
        except RuntimeError:  # an if on a latent's value
            return False
        return True

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Log prior, the Jacobian in it, and log likelihood of particles ``(n, dim)``."""
        log_prior, log_likelihood = self._over_particles(self._both)(u)
        return tuple(each.where(each.isfinite(), -math.inf) for each in (log_prior, log_likelihood))

    def constrained(self, u: Tensor) -> dict[str, Tensor]:
        """The latents of particles."""
        first = {name: value[0] for name, value in self.assignments.items()}
        return self._over_particles(lambda each: self._run(each, first).values)(u)


def check(entry: Entry, reference: Reference, n: int = 1000, sweeps: int = 0) -> Check:
    """Compares a reference with tempered particles.

    Args:
        entry: the program.
        reference: what it is compared with.
        n: particles on each of eight islands.
        sweeps: moves at each temperature; 0 for as many as the dimensions want.
    """
    with torch.random.fork_rng(), torch.no_grad(), _doubles():
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


@contextmanager
def _doubles() -> Iterator[None]:
    """Constants in programs are doubles meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def temper(density: PlainDensity, u: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Moves islands of particles ``(islands, n, dim)`` from the prior to the posterior."""
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
    islands, n, dim = u.shape
    for ours, others in ((slice(0, n // 2), slice(n // 2, n)), (slice(n // 2, n), slice(0, n // 2))):
        now, pool = u[:, ours], u[:, others]
        size = now.shape[:2]
        first, second = torch.randint(pool.shape[1], (2, *size))
        pick = lambda at: pool.gather(1, at[..., None].expand(*size, dim))  # noqa: E731
        reach = 2.38 / math.sqrt(2 * dim) * torch.exp(-3 * torch.rand(*size, 1).square())
        reach = torch.where(torch.rand(*size, 1) < 0.15, torch.ones(()), reach)
        moved = now + reach * (pick(first) - pick(second)) + 1e-6 * torch.randn_like(now)
        new = [each.reshape(size) for each in density(moved.flatten(0, 1))]
        gain = new[0] - log_prior[:, ours] + temperature * (new[1] - log_likelihood[:, ours])
        accepted = torch.rand(size).log() < gain.nan_to_num(-math.inf)
        u[:, ours] = torch.where(accepted[..., None], moved, now)
        log_prior[:, ours] = torch.where(accepted, new[0], log_prior[:, ours])
        log_likelihood[:, ours] = torch.where(accepted, new[1], log_likelihood[:, ours])


def _compared(draws: dict[str, Array], log_evidence: Array, right: Reference) -> Check:
    """The largest difference, islands weighed by their evidence, errors by the jackknife."""

    def differences(kept: Array) -> dict[str, float]:
        largest = log_evidence[kept].max()
        weights = np.exp(log_evidence[kept] - largest)
        found = {"log evidence": largest + np.log(weights.mean()) - right.log_evidence}
        weights = weights / weights.sum()
        for label, summary in right.latents.items():
            ours = draws[label][kept]
            for level, at in zip((0.05, 0.5, 0.95, 0.99), summary.quantiles, strict=True):
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
