"""The contract of a Markov kernel, and chains that apply one."""

import copy
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.arrays import as_tensor
from amortized.progress import with_progress
from amortized.validation import generator_from, whole_number

__all__ = ["Kernel", "run_chains"]


class Kernel(ABC):
    r"""A Markov kernel that leaves its declared target invariant.

    .. math:: \int \pi(u) \, K(u, u') \, du = \pi(u')

    A subclass sets ``target`` and defines `step`. `amortized.mcmc.validate` tests that the kernel
    keeps what it declares.

    Attributes:
        target: the density, such as a `Target`.

    Example:
        >>> class Reflection(Kernel):
        ...     def __init__(self, target):
        ...         self.target = target
        ...     def step(self, state, generator):
        ...         return -state
    """

    target: Any

    @abstractmethod
    def step(
        self, state: Float[Tensor, "*batch dim"], generator: torch.Generator
    ) -> Float[Tensor, "*batch dim"]:
        """One move of every point, each by itself.

        Args:
            state: points in unconstrained space; the last dimension is that of a point.
            generator: the only source of randomness.
        """

    def on(self, target: Any) -> "Kernel":
        """The same kernel for another target."""
        other = copy.copy(self)
        other.target = target
        return other

    @property
    def parts(self) -> tuple["Kernel", ...]:
        """The kernels of which this one is made, if any."""
        return ()


def private_seed(generator: torch.Generator) -> int:
    """A seed for code that draws inside `amortized.seeding.seeded`, from a generator."""
    return int(torch.randint(2**62, (), generator=generator))


def positive(name: str, value: float | Tensor, dim: int) -> float | Tensor:
    """A positive number, or one for each coordinate, unchanged.

    Raises:
        ValueError: if it is no finite number above 0, or there are not ``dim`` of them.
    """
    numbers = as_tensor(value, name)
    if numbers.ndim > 1 or numbers.numel() not in (1, dim) or not bool((numbers > 0).all()):
        raise ValueError(f"Expected a positive {name}, a number or {dim} of them; got {value}.")
    return value if isinstance(value, float | Tensor) else numbers


@torch.no_grad()
def run_chains(
    kernel: Kernel,
    start: Float[Tensor, "chains dim"],
    n_draws: int = 1000,
    *,
    n_warmup: int = 0,
    seed: int = 0,
) -> Float[Tensor, "chains draws dim"]:
    """Chains of a kernel from given points, all at once.

    Args:
        kernel: the kernel.
        start: the first point of each chain.
        n_draws: draws of each chain.
        n_warmup: moves before the first draw.
        seed: equal seeds give equal draws.

    Raises:
        ValueError: if a number is out of range, or the points are of another dimension.

    Example:
        >>> import torch
        >>> from amortized.mcmc import RandomWalk, Target
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 1)
        >>> run_chains(RandomWalk(normal, 2.0), torch.zeros(4, 1), 100).shape
        torch.Size([4, 100, 1])
    """
    n_draws = whole_number("n_draws", n_draws, 1)
    n_warmup = whole_number("n_warmup", n_warmup, 0)
    if as_tensor(start, "start", dtype=None).shape[-1] != kernel.target.dim:
        raise ValueError(
            f"Expected start of shape (chains, {kernel.target.dim}); got {tuple(start.shape)}."
        )
    generator = generator_from(seed)
    state = start
    draws = []
    for i in with_progress(range(n_warmup + n_draws), type(kernel).__name__, "move"):
        state = kernel.step(state, generator)
        if i >= n_warmup:
            draws.append(state)
    return torch.stack(draws, -2)
