"""Joint distributions of latents and data, from which kernels can be tested by simulation."""

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.mcmc.kernel import private_seed
from amortized.mcmc.target import Target, target_of_density
from amortized.program.density import ProgramDensity
from amortized.program.simulation import ProgramSimulator
from amortized.program.vectorised import Program
from amortized.seeding import seeded

__all__ = ["Joint", "ProgramJoint"]


@runtime_checkable
class Joint(Protocol):
    """What `validate` needs to know of a model; `ProgramJoint` gives it for a Pyro program."""

    def sample_latents(self, n: int, generator: torch.Generator) -> Tensor:
        """Draws of the latents from their prior, unconstrained, ``(n, 1, dim)``."""

    def sample_data(self, u: Tensor, generator: torch.Generator) -> Tensor:
        """One dataset for each of the latents ``(n, 1, dim)``, with n first."""

    def target(self, data: Tensor) -> Target:
        """The joint density of latents ``(n, 1, dim)`` and these data, ``(n, 1)``."""


class ProgramJoint:
    """Latents and data of a Pyro program, one dataset for each draw.

    Args:
        program: ``program(x, y=None)`` that observes ``y`` at site "y", without discrete latents.
        x: inputs of a dataset, ``(n, n_features)``.

    Raises:
        ValueError: if the program fails, or has no site "y", or discrete latents, or no latents.

    Example:
        >>> import torch
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> joint = ProgramJoint(NormalMeanPrior().model, torch.zeros(3, 0))
        >>> generator = torch.Generator().manual_seed(0)
        >>> u = joint.sample_latents(5, generator)
        >>> data = joint.sample_data(u, generator)
        >>> data.shape, joint.target(data).log_density(u).shape
        (torch.Size([5, 3]), torch.Size([5, 1]))
    """

    def __init__(self, program: Program, x: Any) -> None:
        self._x = as_tensor(x, "x")
        self._simulator = ProgramSimulator(program, self._x)
        self._density: ProgramDensity | None = None
        self._program = program

    def sample_latents(self, n: int, generator: torch.Generator) -> Float[Tensor, "n 1 dim"]:
        """Draws of the latents from their prior."""
        with seeded(private_seed(generator)):
            return self._simulator.sample_prior(self._inputs(n)).to(self._x).unsqueeze(1)

    def sample_data(self, u: Float[Tensor, "n 1 dim"], generator: torch.Generator) -> Tensor:
        """One dataset for each draw of the latents."""
        with seeded(private_seed(generator)):
            return self._simulator(u[:, 0], self._inputs(len(u)))[1]

    def target(self, data: Tensor) -> Target:
        """The posterior given each dataset."""
        if self._density is None:  # checked and compared with plain runs once
            self._density = ProgramDensity(self._program, self._x[None], data[:1])
        return target_of_density(self._density.of_data(self._inputs(len(data)), data))

    def _inputs(self, n: int) -> Tensor:
        return self._x.expand(n, *self._x.shape)
