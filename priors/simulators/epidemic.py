r"""The SIR epidemic of simulation-based inference benchmarks: two latents, ten noisy counts.

In a population of a million with one infected, day by day,

.. math:: S' = S - \beta S I / N, \quad I' = I + \beta S I / N - \gamma I,

and every 17 days from the first, ten times in all, the infected among 1,000 people are counted:
:math:`y = \mathrm{Binomial}(1000, I / N) / 1000`. :math:`\beta \sim U(0.01, 1.5)`,
:math:`\gamma \sim U(0.02, 0.25)`.

This is the SIR task of Chang et al. (2025), arXiv:2410.15320.
"""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import constraints

from amortized.priors.program_prior import ProgramPrior
from amortized.priors.simulators.uniform import from_unconstrained, sample_uniform
from amortized.program.likelihood_summary import (
    Inputs,
    LikelihoodSummary,
    Mask,
    Targets,
    gauss_newton_summary,
)

_POPULATION, _TESTED, _DAYS = 1e6, 1000.0, 17
_CONTACT, _RECOVERY = (0.01, 1.5), (0.02, 0.25)
_TO_CONTACT, _TO_RECOVERY = from_unconstrained(_CONTACT), from_unconstrained(_RECOVERY)


class CountShares(dist.TorchDistribution):
    """Shares of positive tests: independent binomials divided by 1,000.

    Args:
        share: true shares, ``(*batch, n)``.
    """

    arg_constraints = {"share": constraints.unit_interval}
    support = constraints.independent(constraints.unit_interval, 1)

    def __init__(self, share: Tensor) -> None:
        self.share = share.clamp(1e-9, 1 - 1e-6)
        super().__init__(share.shape[:-1], share.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: "CountShares | None" = None) -> "CountShares":
        return CountShares(self.share.expand(*batch_shape, -1))

    def sample(self, sample_shape: Any = ()) -> Tensor:
        share = self.share.expand(self._extended_shape(torch.Size(sample_shape)))
        return torch.binomial(torch.full_like(share, _TESTED), share) / _TESTED

    def log_prob(self, value: Tensor) -> Tensor:
        count = (_TESTED * value).round()
        chosen = torch.lgamma(torch.full_like(count, _TESTED + 1))
        chosen = chosen - torch.lgamma(count + 1) - torch.lgamma(_TESTED - count + 1)
        fit = count * self.share.log() + (_TESTED - count) * torch.log1p(-self.share)
        return (chosen + fit).sum(-1)


class EpidemicPrior(ProgramPrior):
    """The SIR epidemic with uniform priors; a dataset is one series of ten counts.

    Example:
        >>> y = EpidemicPrior().sample(3, 10, 0, seed=0).y_context
        >>> y.shape, bool((y <= 1).all())
        (torch.Size([3, 10]), True)
    """

    ordered = 10

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor:
        """The Pyro program for one epidemic."""
        contact = sample_uniform("contact", _CONTACT, x)
        recovery = sample_uniform("recovery", _RECOVERY, x)
        share = infected_share(contact, recovery, len(x))
        return pyro.sample("y", CountShares(share), obs=y)

    def likelihood_summary(self, x: Inputs, y: Targets, mask: Mask) -> LikelihoodSummary:
        """Gauss-Newton approximation for arcsine-transformed counts, started on a grid."""
        n, y = y.shape[-1], y.double()

        def predict(u: Tensor) -> Tensor:
            contact, recovery = _rates(u)
            return _stabilised(infected_share(contact, recovery, n))

        observed = _stabilised(y)
        line = torch.linspace(-3.0, 3.0, 61, dtype=y.dtype, device=y.device)
        table = torch.cartesian_prod(line, line)
        misfit = torch.cdist(observed, predict(table)).square() + table.square().sum(-1)
        start = table[misfit.argmin(-1)]
        summary = gauss_newton_summary(predict, observed, start, prior_sd=1.0)
        return summary.where(mask.all(-1))


def _rates(u: Tensor) -> tuple[Tensor, Tensor]:
    """Contact and recovery rate from their unconstrained values."""
    return _TO_CONTACT(u[..., 0]), _TO_RECOVERY(u[..., 1])


def _stabilised(share: Tensor) -> Tensor:
    """Anscombe's arcsine transformation of a share, with standard deviation one."""
    share = (_TESTED * share + 0.375) / (_TESTED + 0.75)
    return 2 * (_TESTED + 0.5) ** 0.5 * share.clamp(0.0, 1.0).sqrt().arcsin()


def infected_share(
    contact: Float[Tensor, "*batch"], recovery: Float[Tensor, "*batch"], n: int
) -> Float[Tensor, "*batch n"]:
    """Share of infected on days 0, 17, 34 and so on, computed in daily steps."""
    infected = torch.full_like(contact, 1 / _POPULATION)
    susceptible = 1 - infected
    shares = [infected]
    for _ in range(n - 1):
        for _ in range(_DAYS):
            new = contact * susceptible * infected
            susceptible, infected = susceptible - new, infected + new - recovery * infected
        shares.append(infected)
    return torch.stack(shares, -1)
