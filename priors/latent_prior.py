"""Gives a program another prior over its latents, at run time."""

from collections.abc import Mapping
from copy import copy
from typing import Any

from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, Independent

from amortized.priors.vectorised import Program


class _Replace(Messenger):
    def __init__(self, latent_prior: Mapping[str, Distribution]) -> None:
        super().__init__()
        self.latent_prior = latent_prior
        self.seen: set[str] = set()

    def _pyro_sample(self, message: Any) -> None:
        new = self.latent_prior.get(message["name"])
        if new is None:
            return
        self.seen.add(message["name"])
        old, new = message["fn"], callable_in_pyro(new)
        shape = old.shape()
        new = new.expand(shape[: len(shape) - len(new.event_shape)])
        n_more = len(old.event_shape) - len(new.event_shape)
        message["fn"] = Independent(new, n_more, validate_args=False) if n_more > 0 else new


def callable_in_pyro(distribution: Distribution) -> Distribution:
    """A torch distribution as one of Pyro's, which a sample site can call.

    Example:
        >>> from torch.distributions import Normal
        >>> callable_in_pyro(Normal(0.0, 1.0)).shape()
        torch.Size([])
    """
    if isinstance(distribution, TorchDistributionMixin):
        return distribution
    family = type(distribution)
    ours = copy(distribution)
    ours.__class__ = type(family.__name__, (family, TorchDistributionMixin), {})
    return ours


def with_latent_prior(model: Program, latent_prior: Mapping[str, Distribution]) -> Program:
    """The same program with other distributions at some of its latent sites.

    Args:
        model: a Pyro program ``model(x, y=None)``.
        latent_prior: distributions by name of the latent; each is expanded to the latent's shape.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def line(x, y=None):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(slope * x[:, 0], 1.0).to_event(1), obs=y)
        >>> steep = with_latent_prior(line, {"slope": dist.Normal(1e6, 1.0)})
        >>> bool(steep(torch.ones(3, 1)).min() > 1e5)
        True
    """

    def program(x: Tensor, y: Tensor | None = None) -> Any:
        with _Replace(latent_prior) as replaced:
            result = model(x, y)
        unknown = set(latent_prior) - replaced.seen
        if unknown:
            raise ValueError(
                f"Expected latent_prior to name latents of the program; got {sorted(unknown)}."
            )
        return result

    return program
