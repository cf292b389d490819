"""A program's density, traced plainly: neither the library's nor a reference's."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution, biject_to

from trust_zoo.entry import Entry


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
        laws: dict[str, Any] = {name: site.get("fn") for name, site in trace.nodes.items()}
        each = {
            name: laws[name].enumerate_support(expand=False).flatten()
            for name, site in trace.nodes.items()
            if site["type"] == "sample"
            and not site["is_observed"]
            and not _is_subsample(laws[name])
            and laws[name].support.is_discrete
        }
        shapes = {name: laws[name].shape() for name in each}
        sizes = [math.prod(shape) for shape in shapes.values()]
        values = [v for v, size in zip(each.values(), sizes, strict=True) for _ in range(size)]
        joint = (
            torch.cartesian_prod(*values).reshape(-1, len(values)) if each else torch.zeros(1, 0)
        )
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


@contextmanager
def doubles() -> Iterator[None]:
    """Meanwhile constants in programs are doubles."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
