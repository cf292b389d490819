r"""Checks a closed form q: log p(latents, y) - log q(latents) must be constant, the log evidence.

The two densities are compared at draws of q, at points up to a thousand times further from the mean
of q, and at draws of the prior. A bound, a cap or a mixture component that the draws of q never
reach affects at least some of these points. The supports must agree as well: where one density is
0, the other must be 0.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints

from amortized.program.density import ProgramDensity
from amortized.seeding import seeded

_N_OWN, _N_FAR, _N_PRIOR = 32, 96, 64
_FARTHEST = 1000.0
_TOLERANCE = 1e-7  # relative to the larger of the two log densities
_AT_ONCE = 4_000_000  # likelihood terms held in memory together


@runtime_checkable
class ClosedForm(Protocol):
    """A candidate posterior, for latents ``{name: (n, batch, *event)}``."""

    def sample(self, n: int) -> dict[str, Tensor]: ...

    def log_prob(self, latents: Mapping[str, Tensor]) -> Tensor: ...


def proved_evidence(density: ProgramDensity, answer: ClosedForm) -> Float[Tensor, " batch"]:
    """The log evidence under a closed form of the posterior, after checking that it is correct.

    Raises:
        ValueError: if it is not; the message gives a point at which the densities differ.
    """
    with torch.no_grad():
        u = _points(density, answer)
        latents = density.constrain(u)
        closed = answer.log_prob({name: value.transpose(0, 1) for name, value in latents.items()}).T
        size = max(1, _AT_ONCE // (u.shape[1] * density.y[0].numel()))
        joint = torch.cat(
            [
                part.log_density(u[rows]) - part.log_jacobian(u[rows])
                for rows in torch.arange(len(u)).split(size)
                for part in [density.take(rows)]
            ]
        )
    constant = joint - closed
    own = constant[:, :_N_OWN]
    evidence = own.where(own.isfinite(), torch.nan).nanmedian(-1).values
    off = (constant - evidence[:, None]).abs()
    agree = off <= _TOLERANCE * (1 + torch.maximum(joint.abs(), closed.abs()))
    agree &= joint.isfinite() & closed.isfinite()
    wrong = ~(agree | (joint.isneginf() & closed.isneginf()))
    wrong[:, _N_OWN:] &= _well_inside(density, latents)[:, _N_OWN:]
    if wrong.any():
        raise ValueError(_where(latents, wrong, joint, closed, evidence))
    return evidence


def _points(density: ProgramDensity, answer: ClosedForm) -> Float[Tensor, "batch points dim"]:
    """Draws of the closed form, then distant points, then draws of the prior."""
    with seeded(0):
        draws = answer.sample(_N_OWN + _N_FAR)
        u = density.unconstrain({name: value.transpose(0, 1) for name, value in draws.items()})
        prior = density.sample_prior(_N_PRIOR).to(u.dtype)
        factor = _FARTHEST ** torch.linspace(0.0, 1.0, _N_FAR, dtype=u.dtype)[:, None]
    centre = u.mean(1, keepdim=True)
    far = centre + factor * (u[:, _N_OWN:] - centre)
    return torch.cat([u[:, :_N_OWN], far, prior], 1)


def _well_inside(
    density: ProgramDensity, latents: Mapping[str, Tensor]
) -> Bool[Tensor, "batch points"]:
    """Where rounding cannot decide: torch itself clips a probability of 1e-20 to 1e-16."""
    inside = []
    for name, support in density.supports.items():
        value, low, high = latents[name], 1e-30, 1e30
        if isinstance(support, type(constraints.real)):
            value = value.abs() + low
        elif hasattr(support, "upper_bound") and hasattr(support, "lower_bound"):
            value = (value - support.lower_bound) / (support.upper_bound - support.lower_bound)
            low, high = 1e-6, 1 - 1e-6
        elif isinstance(support, type(constraints.simplex)):
            low, high = 1e-6, 1 - 1e-6
        elif hasattr(support, "lower_bound"):
            value = value - support.lower_bound
        between = (value > low) & (value < high)
        inside.append(between.reshape(*between.shape[:2], -1).all(-1))
    return torch.stack(inside).all(0)


def _where(
    latents: Mapping[str, Tensor], wrong: Tensor, joint: Tensor, closed: Tensor, evidence: Tensor
) -> str:
    """Describes the first point that refutes a closed form, and the kind of difference."""
    i, j = (int(index) for index in wrong.nonzero()[0])
    place = ", ".join(f"{name} = {_short(value[i, j])}" for name, value in latents.items())
    if joint[i, j].isneginf():
        how = "the program's density is 0 and that of the closed form is not"
    elif closed[i, j].isneginf():
        how = "the program's density is not 0 and that of the closed form is"
    else:
        off = (joint - closed)[i, j] - evidence[i]
        how = f"the log densities differ by {off.item():.3g} more than elsewhere"
    return f"at {place} {how}"


def _short(value: Any) -> str:
    numbers = [f"{number:.3g}" for number in value.flatten()[:4].tolist()]
    many = ", ".join(numbers) + (", ..." if value.numel() > 4 else "")
    return many if value.ndim == 0 else f"[{many}]"
