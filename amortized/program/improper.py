r"""Improper priors, replaced by a proper prior whose density is divided out of the likelihood.

.. math:: p(y \mid \theta) \cdot 1 = q(\theta) \, \frac{p(y \mid \theta)}{q(\theta)}

The posterior is the same, and methods that start from draws of the prior can be used. The evidence
is an integral over a measure of infinite mass and cannot be compared with others.
"""

from typing import Any

import pyro
import torch
from pyro.distributions import ImproperUniform, Normal, TransformedDistribution
from pyro.poutine.messenger import Messenger
from torch.distributions import Transform

from amortized.program.support import bijection_to
from amortized.program.vectorised import Program

_WIDTH = 10.0  # standard deviation of q in unconstrained space


class WithProperDraws:
    """A program with proper priors in place of improper ones, and factors that correct for them.

    Args:
        program: a Pyro program.

    Example:
        >>> import pyro.distributions as dist
        >>> def flat(x, y):
        ...     mean = pyro.sample("mean", dist.ImproperUniform(dist.constraints.real, (), ()))
        ...     return pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
        >>> trace = pyro.poutine.trace(WithProperDraws(flat)).get_trace(None, torch.zeros(()))
        >>> mean = trace.nodes["mean"]["value"]
        >>> bool((trace.log_prob_sum() - dist.Normal(mean, 1.0).log_prob(torch.zeros(()))) < 1e-3)
        True
    """

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, *data: Any) -> Any:
        """Runs the program."""
        with _Proper() as proper:
            result = self.program(*data)
        for name, (fn, value) in proper.drawn.items():
            pyro.factor(f"{name} is improper", -fn.log_prob(value).sum())
        return result


class _Proper(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, tuple[Any, Any]] = {}

    def __enter__(self) -> Any:
        self.drawn = {}
        return super().__enter__()

    def _pyro_sample(self, message: Any) -> None:
        if isinstance(message["fn"], ImproperUniform) and not message["is_observed"]:
            message["fn"] = _proper(message["fn"])

    def _pyro_post_sample(self, message: Any) -> None:
        if isinstance(message["fn"], _Substitute) and not message["is_observed"]:
            self.drawn[message["name"]] = message["fn"], message["value"]


class _Substitute(TransformedDistribution):
    """The proper distribution that replaces an improper one."""


def _proper(fn: Any) -> Any:
    transform: Transform = bijection_to(fn.support)
    shape = transform.inverse_shape(fn.shape())
    n = transform.domain.event_dim
    base = (
        Normal(torch.zeros(shape), _WIDTH).to_event(n) if n else Normal(torch.zeros(shape), _WIDTH)
    )
    return _Substitute(base, [transform])


def improper_sites(program: Program, *data: Any) -> list[str]:
    """Names of the latents of a program whose prior is improper; none if the program fails."""
    found = _Find()
    try:
        with torch.no_grad(), found, _Proper():
            program(*data)
    except Exception:  # errors of the program are raised when its density is built
        pass
    return found.names


class _Find(Messenger):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def _pyro_post_sample(self, message: Any) -> None:
        if isinstance(message["fn"], _Substitute):
            self.names.append(message["name"])
