"""Combinations of Markov kernels, which keep the target that all their parts declare."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from amortized.mcmc.kernel import Kernel
from amortized.mcmc.target import Tempered
from amortized.validation import whole_number

__all__ = ["cycle", "mix", "repeat", "temper"]


class _Combination(Kernel):
    """Kernels of one target."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        if not kernels or not all(isinstance(kernel, Kernel) for kernel in kernels):
            raise TypeError(f"Expected at least one Kernel; got {list(kernels)}.")
        self._kernels = tuple(kernels)
        self.target = kernels[0].target
        refuse_other_targets(self)

    @property
    def parts(self) -> tuple[Kernel, ...]:
        return self._kernels

    def on(self, target: Any) -> Kernel:
        other = super().on(target)
        assert isinstance(other, _Combination)
        other._kernels = tuple(kernel.on(target) for kernel in self._kernels)
        return other


def refuse_other_targets(kernel: Kernel) -> None:
    """Raises an error where a part declares another target than the whole."""
    for part in kernel.parts:
        if part.target is not kernel.target and part.target != kernel.target:
            raise ValueError(
                f"Expected kernels of one target; got {type(part).__name__} with another one. "
                "Combine kernels of the same Target object, or move one with kernel.on(target)."
            )
        refuse_other_targets(part)


class _Cycle(_Combination):
    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        for kernel in self._kernels:
            state = kernel.step(state, generator)
        return state


class _Mixture(_Combination):
    def __init__(self, kernels: Sequence[Kernel], weights: Tensor) -> None:
        super().__init__(kernels)
        self._weights = weights

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        chosen = int(torch.multinomial(self._weights, 1, generator=generator))
        return self._kernels[chosen].step(state, generator)


def cycle(*kernels: Kernel) -> Kernel:
    """The kernels one after another, as one kernel.

    Raises:
        ValueError: if the kernels declare different targets.

    Example:
        >>> from amortized.mcmc import RandomWalk, Slice, Target
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 1)
        >>> both = cycle(RandomWalk(normal, 2.0), Slice(normal))
        >>> cycle(both, Slice(Target(lambda u: -u.abs().sum(-1), 1)))
        Traceback (most recent call last):
        ...
        ValueError: Expected kernels of one target; got Slice with another one. ...
    """
    return _Cycle(kernels)


def mix(*kernels: Kernel, weights: Sequence[float] | None = None) -> Kernel:
    """One of the kernels in each step, chosen at random for all points together.

    Args:
        kernels: kernels of one target.
        weights: positive chances, up to a factor; None for equal ones. They do not depend on the
            state: a choice that does would break invariance.

    Raises:
        ValueError: if the kernels declare different targets, or a weight is not positive.
    """
    chances = torch.tensor([1.0] * len(kernels) if weights is None else [float(w) for w in weights])
    good = (chances > 0) & chances.isfinite()
    if len(chances) != len(kernels) or not bool(good.all()):
        raise ValueError(f"Expected {len(kernels)} positive weights; got {chances.tolist()}.")
    return _Mixture(kernels, chances)


def repeat(kernel: Kernel, n: int) -> Kernel:
    """A kernel applied n times, as one kernel.

    Raises:
        ValueError: if n is less than 1.
    """
    return _Cycle([kernel] * whole_number("n", n, 1))


def temper(kernel: Kernel, beta: float, reference: Any = None) -> Kernel:
    """The same kernel for the tempered target, between a reference and the kernel's own.

    Args:
        kernel: kernel of the target at ``beta=1``.
        beta: between 0 and 1.
        reference: target at ``beta=0``, such as the prior; None for a constant.

    Raises:
        ValueError: if beta is out of range.

    Example:
        >>> import torch
        >>> from amortized.mcmc import RandomWalk, Target
        >>> normal = Target(lambda u: -0.5 * u.square().sum(-1), 1)
        >>> temper(RandomWalk(normal), 0.5).target.log_density(torch.ones(1))
        tensor(-0.2500)
    """
    return kernel.on(Tempered(kernel.target, beta, reference))
