"""Simulates data of a Pyro program at given latents.

Latents are vectors u in unconstrained space with the layout of `amortized.program.density`, so
that a program can be simulated under any other prior over its latents. The observation needs no
density: only draws of the site "y" are used.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_map

from amortized.program.sites import (
    Place,
    Unconstrain,
    first_run,
    has_density,
    lay_out,
    observations,
    run_for_latents,
    trace_program,
)
from amortized.program.vectorised import (
    FunctionalSamplers,
    Program,
    draw,
    precision,
    quiet_program,
    run_program,
    warn_of_parameters,
)
from amortized.seeding import seeded


class ProgramSimulator:
    """Draws data of a program at given latents, for many tasks at once.

    Args:
        model: a Pyro program ``model(x, y=None)`` for one dataset, with the site "y".
        x: inputs of one dataset, from which the latents are determined, ``(n, n_features)``.

    Attributes:
        layout: ``{name: (slice into u, unconstrained shape)}``.
        dim: length of u.
        has_density: whether the program's observations know their density.

    Raises:
        ValueError: if the program fails, has no site "y", has discrete latents, or has no latents.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def noise(x, y=None):
        ...     sd = pyro.sample("sd", dist.LogNormal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(0.0, sd).expand([len(x)]).to_event(1), obs=y)
        >>> simulator = ProgramSimulator(noise, torch.zeros(2, 0))
        >>> latents, y = simulator(torch.full((4, 1), -9.0), torch.zeros(4, 50, 0))
        >>> y.shape, bool(y.abs().max() < 0.01)
        (torch.Size([4, 50]), True)
    """

    def __init__(self, model: Program, x: Float[Tensor, "n features"]) -> None:
        self.model = model
        with seeded(0), precision(x.dtype):
            sites = first_run(lambda: run_program(model, x))
            if "y" not in sites:
                raise ValueError(
                    f"Expected the program to have a sample site 'y'; got {sorted(sites)}. Name "
                    "the observation: pyro.sample('y', ..., obs=y)."
                )
            trace = trace_program(model, x, sites["y"])
            warn_of_parameters(trace)
            self.layout = lay_out(trace)
        self.has_density = all(
            has_density(site["fn"], site["value"]) for site in observations(trace).values()
        )
        self.dim = self.layout.dim

    def __call__(
        self, u: Float[Tensor, "batch dim"], x: Float[Tensor, "batch n features"]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The latents in their own units, and data drawn at them with torch's generator."""
        values = self._for_all(self._run, u, x)
        y = values.pop("y")
        if y.shape[:2] != x.shape[:2]:
            raise ValueError(
                f"Expected the site 'y' of shape ({x.shape[1]},), one target per row; got "
                f"{tuple(y.shape[1:])}. Draw it inside a plate of that size or with to_event."
            )
        return values, y.to(x.dtype)

    def at_once(
        self, u: Float[Tensor, "batch dim"], x: Float[Tensor, "batch n features"]
    ) -> Tensor:
        """Data drawn in one vectorised run; raises where the program cannot be vectorised."""
        with torch.no_grad(), quiet_program(), precision(x.dtype), FunctionalSamplers():
            return torch.func.vmap(self._run, randomness="different")(u, x)["y"].to(x.dtype)

    def one(self, u: Float[Tensor, " dim"], x: Float[Tensor, "n features"]) -> Tensor:
        """Data of a single dataset, by one plain run of the program."""
        with torch.no_grad(), quiet_program(), precision(x.dtype), FunctionalSamplers():
            return self._run(u, x)["y"].to(x.dtype)

    def _run(self, u: Tensor, x: Tensor) -> dict[str, Tensor]:
        """The latents and the data of one dataset."""
        drawn: dict[str, Tensor] = {}

        def draw_site(message: Any) -> None:
            drawn[message["name"]] = message["value"] = draw(message["fn"])

        with Place(self.layout, u, draw_site) as placed:
            self.model(x)
        return placed.values | {"y": drawn["y"]}

    def sample_prior(self, x: Float[Tensor, "batch n features"]) -> Float[Tensor, "batch dim"]:
        """Draws u from the program's own prior, one for each dataset."""

        def run(_: Tensor, x: Tensor) -> Tensor:
            messenger = Unconstrain(self.layout)
            run_for_latents(messenger, self.model, x)
            return messenger.vector()

        return self._for_all(run, x.new_empty(len(x), 0), x)

    def _for_all(self, run: Callable[[Tensor, Tensor], Any], u: Tensor, x: Tensor) -> Any:
        """One vectorised run, or task by task if `vmap` fails."""
        with torch.no_grad(), quiet_program(), precision(x.dtype), FunctionalSamplers():
            try:
                return torch.func.vmap(run, randomness="different")(u, x)
            except Exception:  # a fault of the program itself comes again in the loop
                runs = [run(*pair) for pair in zip(u, x, strict=True)]
                return tree_map(lambda *values: torch.stack(values), *runs)
