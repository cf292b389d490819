r"""Samplers that return weighted points, whose mean weight estimates a normalising constant.

Points and weights are properly weighted for a density :math:`\gamma` with integral Z if for every
function f

.. math:: E\left[\frac1N \sum_i w_i f(u_i)\right] = \int \gamma(u) f(u) \, du,

so that f = 1 says that the mean weight is an unbiased estimate of Z. `validate` tests this.

References:
    Neal, Annealed importance sampling (2001), arXiv physics/9803008.
    Del Moral, Doucet and Jasra, Sequential Monte Carlo samplers (2006).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.mcmc.kernel import Kernel
from amortized.mcmc.target import Target, Tempered
from amortized.sampling.steps.resampling import systematic_resample
from amortized.validation import number_between, whole_number

__all__ = ["AnnealedSampler", "ImportanceSampler", "WeightedSampler"]

Weighted = tuple[Float[Tensor, "runs n dim"], Float[Tensor, "runs n"]]


class WeightedSampler(ABC):
    """A sampler of weighted points.

    Attributes:
        target: the unnormalised density that the weighted points represent.
    """

    target: Any

    @abstractmethod
    def sample(self, n_runs: int, generator: torch.Generator) -> Weighted:
        """Points and log weights of independent runs; the mean weight of a run estimates Z."""


class AnnealedSampler(WeightedSampler):
    """SMC along fixed temperatures with moves by any kernel; its evidence is unbiased.

    The points are drawn from the reference. At each temperature they are weighted by the ratio of
    the new density to the last one, resampled where the weights are uneven, and moved by the
    kernel at the new temperature. Without resampling this is annealed importance sampling.

    Args:
        kernel: kernel of the target; it is used at each temperature.
        reference: a `Target` with exact draws, whose log density is normalised.
        temperatures: increasing, the last one 1.
        n_points: points of each run.
        ess_threshold: a run is resampled where the effective sample size is below this share of
            its points; 0 never resamples.

    Raises:
        ValueError: if the temperatures do not rise to 1, or the reference cannot be sampled.

    Example:
        >>> import torch
        >>> from amortized.mcmc import RandomWalk, Target
        >>> def draw(n, generator):
        ...     return torch.randn(n, 1, generator=generator, dtype=torch.float64)
        >>> start = Target(lambda u: torch.distributions.Normal(0, 1).log_prob(u[..., 0]), 1,
        ...                sample=draw)
        >>> narrow = Target(lambda u: -50 * u[..., 0].square(), 1)
        >>> sampler = AnnealedSampler(RandomWalk(narrow, 0.3), start, [0.1, 0.4, 1.0], 500)
        >>> _, log_weights = sampler.sample(20, torch.Generator().manual_seed(0))
        >>> round(log_weights.exp().mean().item(), 1)  # sqrt(2 pi) / 10
        0.3
    """

    def __init__(
        self,
        kernel: Kernel,
        reference: Target,
        temperatures: Sequence[float],
        n_points: int = 100,
        ess_threshold: float = 0.5,
    ) -> None:
        steps = [0.0, *temperatures]
        steps = [number_between("temperature", t, 0, 1, least=True, most=True) for t in steps]
        if len(steps) < 2 or steps[-1] != 1 or any(b <= a for a, b in zip(steps, steps[1:])):  # noqa: B905
            raise ValueError(
                f"Expected temperatures that rise from above 0 to 1; got {list(temperatures)}."
            )
        _refuse_without_draws("reference", reference)
        _refuse_other_dim("reference", reference, kernel.target)
        self.target, self.n_points = kernel.target, whole_number("n_points", n_points, 1)
        self.ess_threshold = number_between(
            "ess_threshold", ess_threshold, 0, 1, least=True, most=True
        )
        self._reference, self._steps = reference, steps
        self._kernels = [kernel.on(Tempered(kernel.target, beta, reference)) for beta in steps[1:]]

    @torch.no_grad()
    def sample(self, n_runs: int, generator: torch.Generator) -> Weighted:
        u = _exact_draws(self._reference, n_runs, self.n_points, generator)
        log_weights = torch.zeros(u.shape[:-1], dtype=torch.float64)
        for before, beta, kernel in zip(self._steps, self._steps[1:], self._kernels, strict=False):
            gain = self.target.log_density(u) - self._reference.log_density(u)
            log_weights = log_weights + (beta - before) * gain
            u, log_weights = _resampled(u, log_weights, self.ess_threshold, generator)
            u = kernel.step(u, generator)
        return u, log_weights


def _refuse_without_draws(name: str, law: Target) -> None:
    if law.sample is None:
        raise ValueError(f"Expected a {name} with exact draws; give Target(..., sample=...).")


def _exact_draws(law: Target, n_runs: int, n: int, generator: torch.Generator) -> Tensor:
    assert law.sample is not None
    total = whole_number("n_runs", n_runs, 1) * n
    drawn = law.sample(total, generator)
    if drawn.shape != (total, law.dim):
        raise ValueError(
            f"Expected exact draws of shape ({total}, {law.dim}) from Target(..., sample=...); got "
            f"{tuple(drawn.shape)}."
        )
    return drawn.reshape(n_runs, n, -1)


def _refuse_other_dim(name: str, law: Target, target: Any) -> None:
    if law.dim != target.dim:
        raise ValueError(
            f"Expected a {name} of the target's {target.dim} coordinates; got one of {law.dim}."
        )


def _resampled(
    u: Tensor, log_weights: Tensor, ess_threshold: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Resamples the runs with uneven weights; the mean weight of each stays the same."""
    n = log_weights.shape[-1]
    log_mean = log_weights.logsumexp(-1, keepdim=True) - math.log(n)
    shares = (log_weights - log_mean).exp().nan_to_num(1.0)
    uneven = shares.sum(-1).square() < ess_threshold * n * shares.square().sum(-1)
    uniforms = 1 - torch.rand(len(u), 1, generator=generator, dtype=torch.float64)
    ancestors = systematic_resample(shares, uniforms)
    ancestors = torch.where(uneven[:, None], ancestors, torch.arange(n))
    log_weights = torch.where(uneven[:, None], log_mean.expand(-1, n), log_weights)
    return u.gather(1, ancestors.unsqueeze(-1).expand_as(u)), log_weights


class ImportanceSampler(WeightedSampler):
    """Importance sampling from a target that can be sampled.

    Args:
        target: the density.
        proposal: a `Target` with exact draws, whose log density is normalised.
        n_points: points of each run.
    """

    def __init__(self, target: Any, proposal: Target, n_points: int = 100) -> None:
        _refuse_without_draws("proposal", proposal)
        _refuse_other_dim("proposal", proposal, target)
        self.target, self.proposal = target, proposal
        self.n_points = whole_number("n_points", n_points, 1)

    def sample(self, n_runs: int, generator: torch.Generator) -> Weighted:
        u = _exact_draws(self.proposal, n_runs, self.n_points, generator)
        return u, self.target.log_density(u) - self.proposal.log_density(u)
