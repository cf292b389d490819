"""Rejects sample sites whose density would not be that of their distribution."""

from typing import Any

import torch
from pyro.distributions import Delta, ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch.distributions import Independent, TransformedDistribution
from torch.distributions.transforms import Transform

from amortized.program.support import check_constraint, is_everywhere, is_transformed
from amortized.program.vectorised import is_observation, is_subsample
from amortized.seeding import seeded

_N_DRAWS, _RARE = 1000, 1e-3  # draws that rounding may put onto the end of a domain


def check_laws(trace: Any) -> None:
    """Checks every sample site of a traced program.

    Raises:
        ValueError: if an observation is not a tensor; if a latent is a `Delta`; if the density of a
            latent is raised to a power by `pyro.poutine.scale`, and so is not that of its draws; or
            if a transform is applied to values outside of its domain, where it has no inverse.
    """
    for name, site in trace.nodes.items():
        if site["type"] != "sample" or is_subsample(site):
            continue
        if is_observation(site) and not isinstance(site["value"], Tensor):
            kind = type(site["value"]).__name__
            raise ValueError(
                f"Expected a tensor as the observation at '{name}'; got {kind}. Write "
                "obs=torch.as_tensor(...)."
            )
        if not site["is_observed"] and is_point_mass(site["fn"]):
            raise ValueError(
                f"Expected latents with a density; got '{name}', a Delta, which has one value. "
                f"Write pyro.deterministic('{name}', value); a log density of its own goes into "
                f"pyro.factor('{name}_density', ...)."
            )
        if not site["is_observed"] and (torch.as_tensor(site["scale"]) != 1).any():
            raise ValueError(
                f"Expected latents outside of pyro.poutine.scale; got '{name}' with a scale: a "
                "power of its density is not the density that it is drawn from. Scale only the "
                "observations."
            )
        transform = leaves_domain(site["fn"])
        if transform is not None:
            raise ValueError(
                f"Expected the base distribution at '{name}' to lie in the domain of its "
                f"transforms; got draws outside of that of {transform}, where it cannot be "
                "inverted, and the density would not integrate to 1. Use another base, such as "
                "dist.HalfNormal or dist.LogNormal for positive numbers."
            )


def is_point_mass(fn: Any) -> bool:
    """Whether a distribution is a `Delta`, also inside of transforms and plates.

    Example:
        >>> is_point_mass(Delta(torch.zeros(2)).to_event(1))
        True
    """
    while isinstance(
        fn, Independent | MaskedDistribution | ExpandedDistribution | TransformedDistribution
    ):
        fn = fn.base_dist
    return isinstance(fn, Delta)


def leaves_domain(fn: Any) -> Transform | None:
    """The transform of a distribution that is applied outside its domain, found by draws.

    Example:
        >>> from torch.distributions import Normal, PowerTransform, TransformedDistribution
        >>> squared = TransformedDistribution(Normal(0.0, 1.0), PowerTransform(torch.tensor(2.0)))
        >>> leaves_domain(squared)
        PowerTransform()
    """
    while isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        fn = fn.base_dist
    if not is_transformed(fn) or is_everywhere(fn.transforms[0].domain):
        return None
    with seeded(0), torch.no_grad():
        value = fn.base_dist.sample(torch.Size([_N_DRAWS]))
    for transform in fn.transforms:
        inside = check_constraint(transform.domain, value)
        if (~inside).double().mean() > _RARE:
            return transform
        value = transform(value)
    return None
