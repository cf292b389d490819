"""Targets: the densities that Markov kernels leave invariant."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.program.density import ProgramDensity
from amortized.program.vectorised import Program
from amortized.validation import number_between, whole_number

__all__ = ["Target", "Tempered", "program_target"]

Sample = Callable[[int, torch.Generator], Tensor]


class Target:
    """An unnormalised log density on R^dim, with exact draws from it where they are known.

    Two targets are the same only if they are one object.

    Args:
        log_density: ``(..., dim) -> (...)``, up to a constant; differentiable for kernels that
            use gradients. For several datasets the first dimension is that of the datasets.
        dim: the number of coordinates.
        sample: exact draws, called as ``sample(n, generator) -> (n, dim)``; needed only to
            validate kernels.
        parts: the target of each dataset, for a target of several.

    Example:
        >>> import torch
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 2)
        >>> normal.log_density(torch.ones(3, 2))
        tensor([-1., -1., -1.])
    """

    def __init__(
        self,
        log_density: Callable[[Tensor], Tensor],
        dim: int,
        *,
        sample: Sample | None = None,
        parts: Callable[[int], "Target"] | None = None,
    ) -> None:
        self.dim = whole_number("dim", dim, 1)
        self._log_density, self.sample, self._parts = log_density, sample, parts

    def log_density(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The log density, -inf where it is not finite.

        Raises:
            ValueError: if there is not one number for each point.
        """
        value = self._log_density(u)
        if value.shape != u.shape[:-1]:  # would be broadcast, and mix the points
            raise ValueError(
                f"Expected a log density of shape {tuple(u.shape[:-1])} for points of shape "
                f"{tuple(u.shape)}; got {tuple(value.shape)}. Sum over the last dimension only."
            )
        return torch.where(value < torch.inf, value, -torch.inf)  # NaN too

    def value_and_gradient(self, u: Float[Tensor, "*batch dim"]) -> tuple[Tensor, Tensor]:
        """The log density and its gradient, which is 0 where it is not finite."""
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            value = self.log_density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient.nan_to_num(0.0, 0.0, 0.0)

    def of_dataset(self, index: int) -> "Target":
        """The target of one of the datasets; of a single one, itself."""
        return self if self._parts is None else self._parts(index)


@dataclass(frozen=True)
class Tempered:
    r"""The density between a reference and a target at a temperature.

    .. math:: \log \pi_\beta(u) = (1 - \beta) \log q(u) + \beta \log \pi(u)

    Args:
        target: the density at ``beta=1``.
        beta: between 0 and 1.
        reference: the density q at ``beta=0``; None for a constant.
    """

    target: Any
    beta: float
    reference: Any = None

    def __post_init__(self) -> None:
        number_between("beta", self.beta, 0, 1, least=True, most=True)

    @property
    def dim(self) -> int:
        """The number of coordinates."""
        return self.target.dim

    @property
    def sample(self) -> Sample | None:
        """Exact draws, known at the two ends only."""
        if self.beta == 1:
            return self.target.sample
        return self.reference.sample if self.beta == 0 and self.reference is not None else None

    def log_density(self, u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """The log density."""
        value = torch.zeros(u.shape[:-1], dtype=u.dtype)
        if self.beta > 0:
            value = value + self.beta * self.target.log_density(u)
        if self.beta < 1 and self.reference is not None:
            value = value + (1 - self.beta) * self.reference.log_density(u)
        return value

    value_and_gradient = Target.value_and_gradient

    def of_dataset(self, index: int) -> "Tempered":
        """The tempered target of one of the datasets."""
        reference = None if self.reference is None else self.reference.of_dataset(index)
        return Tempered(self.target.of_dataset(index), self.beta, reference)


def target_of_density(density: ProgramDensity, sample: Sample | None = None) -> Target:
    """The posterior of a program as a target: for one dataset, or for each of several."""

    def log_density(u: Tensor) -> Tensor:
        together = u.reshape(density.n_datasets, -1, density.dim)
        return density.log_density(together).reshape(u.shape[:-1])

    def part(index: int) -> Target:
        return target_of_density(density.take(torch.tensor([index])))

    parts = part if density.n_datasets > 1 else None
    return Target(log_density, density.dim, sample=sample, parts=parts)


def program_target(program: Program, x: Any, y: Any) -> Target:
    """The posterior of a Pyro program's latents given one dataset, in unconstrained space.

    Args:
        program: ``program(x, y=None)`` that observes ``y`` at site "y"; discrete latents are
            summed out.
        x: inputs, ``(n, n_features)``.
        y: observations, ``(n,)`` or ``(n, *event)``.

    Raises:
        ValueError: if the program does not fit the data; see `ProgramDensity`.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def coin(x, y=None):
        ...     p = pyro.sample("p", dist.Beta(1.0, 1.0))
        ...     return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)
        >>> target = program_target(coin, torch.zeros(2, 0), [1.0, 0.0])
        >>> u = torch.zeros(1, dtype=torch.float64)  # p = 1/2
        >>> round(target.log_density(u).exp().item(), 4)
        0.0997
    """
    inputs, observed = as_tensor(x, "x"), as_tensor(y, "y", allow_nan=True)
    return target_of_density(ProgramDensity(program, inputs[None], observed[None]))
