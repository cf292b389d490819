r"""Missing observations, given as NaN: their terms are left out of the likelihood.

If the elements of an observation are independent given the latents, the integral over the missing
ones is 1. The missing elements of a multivariate normal are integrated out by giving them mean 0,
variance :math:`1 / 2 \pi` and no covariance, so that they have a density of 1 at 0. A distribution
with an attribute ``integrates_missing`` that is true, such as that of a state-space model, is given
NaN as it is.
"""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal

from amortized.program.support import point_in
from amortized.program.vectorised import Program, is_observation


class WithMissing:
    """A program whose observations may be NaN where they are missing.

    Args:
        program: a Pyro program.

    Example:
        >>> import pyro, pyro.distributions as dist
        >>> def points(x, y):
        ...     with pyro.plate("rows", len(y)):
        ...         return pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)
        >>> y = torch.tensor([0.0, torch.nan])
        >>> trace = pyro.poutine.trace(WithMissing(points)).get_trace(None, y)
        >>> trace.log_prob_sum()
        tensor(-0.9189)
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, *data: Any) -> Any:
        """Runs the program."""
        with _LeaveOut():
            return self.program(*data)


def may_miss(program: Any) -> bool:
    """Whether a program, or one that it wraps, interprets NaN as a missing observation."""
    while program is not None:
        if isinstance(program, WithMissing):
            return True
        program = getattr(program, "program", None)
    return False


class _LeaveOut(Messenger):
    def _pyro_sample(self, message: Any) -> None:
        value = message["value"]
        if is_observation(message) and value.is_floating_point():
            missing = torch.isnan(value)
            message["fn"], message["value"] = _without(
                message["fn"], value, missing, message["name"]
            )


def _without(fn: Any, value: Tensor, missing: Tensor, name: str) -> tuple[Any, Tensor]:
    """The distribution without the missing elements, and the value without NaN."""
    if getattr(fn, "integrates_missing", False):
        return fn, value
    n = 0
    while isinstance(fn, Independent):
        n, fn = n + fn.reinterpreted_batch_ndims, fn.base_dist
    if isinstance(fn, MultivariateNormal | LowRankMultivariateNormal):
        law: Any = _normal(fn, missing)
        return (law.to_event(n) if n else law), torch.where(missing, 0.0, value)
    if fn.event_shape:
        raise ValueError(
            f"Expected the elements of '{name}' to be independent or jointly normal where some "
            f"are missing (NaN); got {type(fn).__name__} of event shape {tuple(fn.event_shape)}. "
            "Leave such rows out, or draw the missing numbers as latents of the program."
        )
    point = point_in(fn)
    value = torch.where(missing, 0.0 if point is None else point, value)
    shape = torch.broadcast_shapes(fn.batch_shape, value.shape)
    law = fn.expand(shape).mask(~missing.expand(shape))
    return (law.to_event(n) if n else law), value


def _normal(fn: Any, missing: Tensor) -> Any:
    either = missing.unsqueeze(-1) | missing.unsqueeze(-2)
    alone = torch.eye(missing.shape[-1], dtype=fn.mean.dtype) / (2 * math.pi)
    covariance = torch.where(either, alone, fn.covariance_matrix)
    return dist.MultivariateNormal(torch.where(missing, 0.0, fn.mean), covariance)
