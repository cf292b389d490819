r"""A Pyro program with several observations as a generator: the bootstrap particle filter.

Step t runs the program up to its t-th observed site, with the latents drawn so far in their places
and the new ones drawn from the program; the potential is the density of the observation. So

.. math:: \prod_t p(z_t \mid z_{<t}) \, p(y_t \mid z_{\le t})

is the program's joint density, and the evidence that of all observations.
"""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortized.generators.generator import Generator
from amortized.generators.sequences import sample_sequences
from amortized.mcmc.kernel import private_seed
from amortized.one_at_a_time import ONE_AT_A_TIME
from amortized.posterior import Posterior
from amortized.program.support import log_prob
from amortized.program.vectorised import (
    FunctionalSamplers,
    Program,
    draw,
    is_deterministic,
    is_factor,
    is_observation,
    is_subsample,
    quiet_program,
)
from amortized.seeding import seeded

__all__ = ["ProgramGenerator", "sample_program"]


class _Reached(Exception):
    """Stops a run of a program after an observation."""


class _UpTo(Messenger):
    """A run with known latents, which draws the others and stops after an observation.

    Attributes:
        drawn: the latents that were drawn.
        log_potential: log potential of this observation, and of those that the latents known do not
            account for.
    """

    def __init__(self, known: Mapping[str, Tensor], last: int, counted: int) -> None:
        super().__init__()
        self.known, self._last, self._counted = known, last, counted
        self.drawn: dict[str, Tensor] = {}
        self.log_potential: Any = 0.0
        self._n_observed = 0

    def _pyro_sample(self, message: Any) -> None:
        if is_subsample(message) or is_deterministic(message) or message["is_observed"]:
            return
        name = message["name"]
        if name in self.known:
            message["value"] = self.known[name]
        else:
            message["value"] = self.drawn[name] = draw(message["fn"])

    def _pyro_post_sample(self, message: Any) -> None:
        if message["name"] in self.drawn:
            self._weigh_scaled(message)
        if not (is_observation(message) or is_factor(message)):
            return
        if self._n_observed >= self._counted:
            each = log_prob(message["fn"], message["value"])
            total = scale_and_mask(each, message["scale"], message["mask"]).sum()
            self.log_potential = self.log_potential + total
        self._n_observed += 1
        if self._n_observed > self._last:
            raise _Reached

    def _weigh_scaled(self, message: Any) -> None:
        """A latent under `poutine.scale` is drawn from its distribution, not from a power of it."""
        scale: Any = message["scale"]
        if isinstance(scale, Tensor) or scale != 1:
            each = log_prob(message["fn"], message["value"])
            scaled = scale_and_mask(each, scale, message["mask"])
            self.log_potential = (
                self.log_potential + (scaled - scale_and_mask(each, mask=message["mask"])).sum()
            )


class ProgramGenerator(Generator):
    """The latents of a Pyro program, drawn from one observation to the next.

    The state holds ``"latents"``, those drawn so far by name, and ``"log_potential"``, the log
    density of the last observation. Latents may be discrete, and need no enumeration.

    Args:
        program: a Pyro program with at least one observed site, whose sites are the same in every
            run, and whose draws `torch.func.vmap` can batch.
        data: its arguments by name.

    Attributes:
        observed: names of the observed sites and factors, in their order.

    Raises:
        ValueError: if the program fails, or observes nothing.
    """

    def __init__(self, program: Program, data: Mapping[str, Any]) -> None:
        self._program, self._data = program, dict(data)
        try:
            with ONE_AT_A_TIME, seeded(0), torch.no_grad():
                trace = pyro.poutine.trace(program).get_trace(**self._data)
        except Exception as reason:
            raise ValueError(
                f"Expected a Pyro program that runs with the arguments {sorted(self._data)}; got "
                f"{type(reason).__name__}: {reason}"
            ) from reason
        sites = {n: s for n, s in trace.nodes.items() if s["type"] == "sample"}
        self.observed = [n for n, s in sites.items() if is_observation(s) or is_factor(s)]
        if not self.observed:
            raise ValueError("Expected a program that observes something; got no observed site.")
        self.n_steps = len(self.observed)

    def start(self, n: int, generator: torch.Generator) -> dict[str, Any]:
        return self._run({"latents": {}, "n": torch.zeros(n)}, 0, generator)

    def extend(self, state: dict[str, Any], t: int, generator: torch.Generator) -> dict[str, Any]:
        return self._run(state, t, generator)

    def potential(self, state: dict[str, Any], t: int) -> Tensor:
        """The log density of the observation of step t."""
        return state["log_potential"]

    def value(self, state: dict[str, Any], t: int) -> Tensor:
        return state["log_potential"]  # the latents are in the state, all of them

    def named(self, state: dict[str, Any]) -> dict[str, Tensor]:
        return state["latents"]

    def _run(self, state: dict[str, Any], t: int, generator: torch.Generator) -> dict[str, Any]:
        # Latents after the last observation belong to its step.
        last = t if t < self.n_steps - 1 else self.n_steps

        def one(known: dict[str, Tensor], _: Tensor) -> tuple[dict[str, Tensor], Tensor]:
            run = _UpTo(known, last, t)
            try:
                with run:
                    self._program(**self._data)
            except _Reached:
                pass
            return run.drawn, torch.as_tensor(run.log_potential)

        with seeded(private_seed(generator)), quiet_program(), FunctionalSamplers():
            run = torch.func.vmap(one, randomness="different")
            drawn, log_potential = run(state["latents"], state["n"])
        latents = {**state["latents"], **drawn}
        return {"latents": latents, "log_potential": log_potential.double(), "n": state["n"]}


def sample_program(
    program: Program,
    data: Mapping[str, Any],
    n_particles: int = 1000,
    *,
    n_runs: int = 8,
    ess_threshold: float = 0.5,
    seed: int = 0,
) -> Posterior:
    """The posterior of a program with several observed sites, by particles between them.

    Where `amortized.infer` weighs whole runs of a program, this weighs and resamples after each
    observed site. That helps programs in which latents and observations alternate, as in time
    series, also with discrete latents that cannot be enumerated.

    Args:
        program: a Pyro program; see `ProgramGenerator`.
        data: its arguments by name.
        n_particles: number of particles of each run.
        n_runs: independent runs; see `sample_sequences`.
        ess_threshold: as for `sample_sequences`.
        seed: equal seeds give equal draws.

    Returns:
        weighted draws of all latents, and the evidence with its error.

    Example:
        >>> import pyro.distributions as dist
        >>> def walk(y):
        ...     z = 0.0
        ...     for t in range(len(y)):
        ...         z = pyro.sample(f"z{t}", dist.Normal(z, 1.0))
        ...         pyro.sample(f"y{t}", dist.Normal(z, 0.5), obs=y[t])
        >>> found = sample_program(walk, {"y": torch.tensor([0.3, 1.0, 1.4])}, 500)
        >>> found.names, round(found.log_evidence.item())
        (['z0', 'z1', 'z2'], -4)
    """
    generator = ProgramGenerator(program, data)
    return sample_sequences(
        generator,
        generator.potential,
        n_particles,
        n_runs=n_runs,
        ess_threshold=ess_threshold,
        seed=seed,
    )
