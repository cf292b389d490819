"""Replaces the prior at latent sites of a program at run time."""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Distribution, Transform
from torch.distributions.transforms import _InverseTransform

from amortized.program.vectorised import Program


class _Replace(Messenger):
    def __init__(self, latent_prior: Mapping[str, Distribution], dtype: torch.dtype) -> None:
        super().__init__()
        self.latent_prior, self.dtype = latent_prior, dtype
        self.seen: set[str] = set()

    def _pyro_sample(self, message: Any) -> None:
        new = self.latent_prior.get(message["name"])
        if new is None:
            return
        self.seen.add(message["name"])
        old, new = message["fn"], _in_precision(callable_in_pyro(new), self.dtype)
        shape = old.shape()
        new = new.expand(shape[: len(shape) - len(new.event_shape)])
        n_more = len(old.event_shape) - len(new.event_shape)
        message["fn"] = new.to_event(n_more) if n_more > 0 else new


def callable_in_pyro(distribution: Distribution) -> Distribution:
    """Converts a torch distribution to one of Pyro's, which a sample site can call.

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


def _in_precision(part: Any, dtype: torch.dtype) -> Any:
    """Converts the numbers in a distribution, or a part of one, to the dtype of the data.

    A user's ``Normal(0.0, 1.0)`` is float32, and matrix products do not accept mixed dtypes.
    """
    if isinstance(part, Tensor):
        return part.to(dtype) if part.is_floating_point() else part
    if isinstance(part, list | tuple):
        return type(part)(_in_precision(each, dtype) for each in part)
    if not isinstance(part, Distribution | Transform):
        return part
    if isinstance(part, _InverseTransform):
        return _in_precision(part.inv, dtype).inv
    ours = copy(part)
    if isinstance(ours, Transform):
        ours._inv = None  # a cached inverse would refer to the old transform
    vars(ours).update({name: _in_precision(each, dtype) for name, each in vars(ours).items()})
    return ours


@dataclass(frozen=True)
class _WithLatentPrior:
    """The program returned by `with_latent_prior`; a class, so that it can be pickled."""

    program: Program
    latent_prior: Mapping[str, Distribution]

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Any:
        with _Replace(self.latent_prior, x.dtype) as replaced:
            result = self.program(x, y)
        unknown = set(self.latent_prior) - replaced.seen
        if unknown:
            raise ValueError(
                f"Expected latent_prior to name latents of the program; got {sorted(unknown)}."
            )
        return result


def with_latent_prior(model: Program, latent_prior: Mapping[str, Distribution]) -> Program:
    """Returns the program with other distributions at some of its latent sites.

    Args:
        model: a Pyro program ``model(x, y=None)``.
        latent_prior: distributions by latent name; each is expanded to the latent's shape.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def line(x, y=None):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     return pyro.sample("y", dist.Normal(slope * x[:, 0], 1.0).to_event(1), obs=y)
        >>> steep = with_latent_prior(line, {"slope": dist.Normal(1e6, 1.0)})
        >>> bool(steep(torch.ones(3, 1)).min() > 1e5)
        True
    """
    return _WithLatentPrior(model, latent_prior)
