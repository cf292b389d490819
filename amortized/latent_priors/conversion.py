"""Conversion of everything a user may pass as ``latent_prior``, except distributions by name."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.fitting import fit_draws, stacked
from amortized.program.density import ProgramDensity


@runtime_checkable
class Draws(Protocol):
    """An earlier answer: weighted draws, and the mixture if the answer is one.

    `amortized.posterior.Posterior` has these members.
    """

    mixture: GaussianMixture | None
    batch_shape: torch.Size

    def weighted_draws(self) -> tuple[dict[str, Tensor], Tensor]:
        """Draws by name, ``(n, *batch, *event)``, and their normalised log weights."""
        ...


def is_by_name(latent_prior: Any) -> bool:
    """Whether it consists of distributions by name, which replace sites of the program itself."""
    return isinstance(latent_prior, Mapping) and all(
        isinstance(value, Distribution) for value in latent_prior.values()
    )


def mixture_over_u(latent_prior: Any, density: ProgramDensity) -> GaussianMixture:
    """Converts a latent prior to a mixture over u, of batch shape ``()`` or ``(batch,)``.

    Args:
        latent_prior: a `GaussianMixture`; an earlier posterior; draws of all latents in their own
            units, ``{name: (n, *event)}``; or draws of u, ``(n, dim)``.
        density: the program's own density, which defines the layout of u.

    Raises:
        ValueError: if it is none of these.
    """
    if isinstance(latent_prior, GaussianMixture):
        return latent_prior
    if isinstance(latent_prior, Draws):
        return latent_prior.mixture or _of_posterior(latent_prior, density)
    if isinstance(latent_prior, Mapping) and all(map(torch.is_tensor, latent_prior.values())):
        return fit_draws(_unconstrained(latent_prior, density, ())[0])
    if isinstance(latent_prior, Tensor) and latent_prior.ndim == 2:
        return fit_draws(latent_prior.to(density.y.dtype))
    raise ValueError(
        "Expected latent_prior to be distributions by name of the latent, a GaussianMixture over "
        "unconstrained space, an earlier posterior, draws by name, or draws of u of shape "
        f"(n, dim); got {type(latent_prior).__name__}."
    )


def _of_posterior(posterior: Draws, density: ProgramDensity) -> GaussianMixture:
    """A mixture fitted to the draws of each dataset."""
    if posterior.batch_shape not in ((), (density.n_datasets,)):
        raise ValueError(
            "Expected a posterior of one dataset, or of as many as there are data for, "
            f"{density.n_datasets}; got one of batch shape {tuple(posterior.batch_shape)}. Call "
            "once for each, or give as many datasets."
        )
    draws, log_weights = posterior.weighted_draws()
    u = _unconstrained(draws, density, posterior.batch_shape)
    weights = log_weights.exp().reshape(len(log_weights), -1).T
    fits = [fit_draws(rows, weights=w) for rows, w in zip(u, weights, strict=True)]
    return stacked(fits) if posterior.batch_shape else fits[0]


def _unconstrained(
    draws: Mapping[str, Tensor], density: ProgramDensity, batch_shape: torch.Size | tuple[int, ...]
) -> Tensor:
    """Converts draws in their own units to u, ``(batch, n, dim)``."""
    ours = {
        name: (value if batch_shape else value.unsqueeze(1)).movedim(0, 1).to(density.y.dtype)
        for name, value in draws.items()
    }
    n = next(iter(ours.values())).shape[0]
    u, inside = density.take(torch.arange(n)).unconstrain_and_check(ours)
    inside = inside & u.isfinite().all(-1)
    if not inside.all():
        raise ValueError(
            f"Expected draws in the supports of the program's latents, {density.supports}; got "
            f"{int((~inside).sum())} of {inside.numel()} outside. Remove them, or give the "
            "program latents that may lie there."
        )
    return u
