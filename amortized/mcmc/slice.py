"""Slice sampling, one coordinate after another.

References:
    Neal, Slice sampling (2003), figures 3 (stepping out) and 5 (shrinkage).
"""

from typing import Any

import torch
from torch import Tensor

from amortized.mcmc.kernel import Kernel, positive
from amortized.validation import whole_number

__all__ = ["Slice"]

_MOST_SHRINKS = 200  # an interval of width 1 is below the resolution of float64 long before


class Slice(Kernel):
    """Slice sampling of every coordinate in turn; it has no step size that must fit.

    Args:
        target: the density.
        width: first length of the interval, a number or one for each coordinate.
        max_steps: the interval grows to at most so many widths.

    Example:
        >>> import torch
        >>> from amortized.mcmc import Target, run_chains
        >>> exponential = Target(lambda u: torch.where(u < 0, -torch.inf, -u).sum(-1), 1)
        >>> draws = run_chains(Slice(exponential), torch.ones(1000, 1), 10, n_warmup=10)
        >>> round(draws.mean().item(), 1)
        1.0
    """

    def __init__(self, target: Any, width: float | Tensor = 2.0, max_steps: int = 8) -> None:
        self.target, self.width = target, positive("width", width, target.dim)
        self.max_steps = whole_number("max_steps", max_steps, 1)

    def step(self, state: Tensor, generator: torch.Generator) -> Tensor:
        width = torch.as_tensor(self.width, dtype=state.dtype).expand(state.shape[-1])
        for coordinate in range(state.shape[-1]):
            state = self._along(state, coordinate, float(width[coordinate]), generator)
        return state

    def _along(
        self, state: Tensor, coordinate: int, width: float, generator: torch.Generator
    ) -> Tensor:
        def uniform() -> Tensor:
            return torch.rand(state.shape[:-1], generator=generator, dtype=state.dtype)

        def at(value: Tensor) -> Tensor:
            moved = state.clone()
            moved[..., coordinate] = value
            return moved

        def inside(value: Tensor) -> Tensor:
            return self.target.log_density(at(value)) > level

        level = self.target.log_density(state) + uniform().log()
        here = state[..., coordinate]
        low = here - width * uniform()
        high = low + width
        left = (self.max_steps * uniform()).floor()  # steps allowed to the left; the rest is right
        right = self.max_steps - 1 - left
        low = _stepped_out(low, -width, left, inside)
        high = _stepped_out(high, width, right, inside)
        new, pending = here.clone(), torch.ones_like(here, dtype=torch.bool)
        for _ in range(_MOST_SHRINKS):
            trial = low + (high - low) * uniform()
            found = pending & inside(trial)
            new = torch.where(found, trial, new)
            pending = pending & ~found
            if not pending.any():
                break
            low = torch.where(pending & (trial < here), trial, low)
            high = torch.where(pending & (trial >= here), trial, high)
        return at(new)


def _stepped_out(end: Tensor, step: float, n_left: Tensor, inside: Any) -> Tensor:
    """Moves an end of the interval outwards while it is inside the slice and steps are left."""
    while True:
        grows = (n_left > 0) & inside(end)
        if not grows.any():
            return end
        end = torch.where(grows, end + step, end)
        n_left = n_left - 1
