r"""Counts, grades and zero-inflated amounts as targets of a structural causal model.

counts      Poisson with rate :math:`e^{a + b s}`, or with a gamma-distributed rate in addition
grades      the score cut into 3 to 10 ordered levels
amounts     zero with a probability that falls with another score, otherwise log-normal around s
A third of the counts are zero-inflated. Numbers of visits, claims, rings or stars and expenses
have such distributions: not continuous, heteroscedastic, and with a point mass.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import level_codes, log_uniform, standardise
from amortized.priors.tabular.families.structural_causal import StructuralCausalPrior

_LARGEST_LOG_RATE = 6.0


class CountPrior(StructuralCausalPrior):
    """Structural causal models with counts, grades and amounts as targets; arguments as there."""

    def _respond(self, scores: Float[Tensor, "batch scores rows"]) -> Float[Tensor, "batch rows"]:
        scores = standardise(scores)
        score, other = scores[:, 0], scores[:, -1]
        n_tasks = len(score)
        noise = log_uniform(0.02, 1.0, n_tasks, 1) * (torch.rand(n_tasks, 1) < 0.7)
        noisy = score + noise * torch.randn_like(score)
        grades = level_codes(noisy, torch.randint(3, 11, (n_tasks,)).to(score.dtype))
        kind = torch.multinomial(torch.tensor([0.5, 0.2, 0.3]), n_tasks, replacement=True)[:, None]
        y = torch.where(kind == 0, _counts(score, other), torch.where(kind == 1, grades, 0.0))
        y = torch.where(kind == 2, _amounts(noisy, other), y)
        # Without any variation the score itself is used instead.
        return torch.where((y == y[:, :1]).all(-1, keepdim=True), noisy, y)


def _zero(other: Tensor) -> Tensor:
    """Rows that are set to zero, with a probability that falls with the other score."""
    n_tasks = len(other)
    slope = 3 * torch.rand(n_tasks, 1)
    return torch.rand_like(other) < torch.sigmoid(torch.randn(n_tasks, 1) - 0.5 - slope * other)


def _counts(score: Tensor, other: Tensor) -> Tensor:
    n_tasks = len(score)
    log_rate = 3 * torch.rand(n_tasks, 1) - 1 + log_uniform(0.2, 1.5, n_tasks, 1) * score
    rate = log_rate.clamp_max(_LARGEST_LOG_RATE).exp()
    shape = log_uniform(0.5, 10.0, n_tasks, 1).expand_as(score)
    varied = torch.distributions.Gamma(shape, shape).sample()
    rate = torch.where(torch.rand(n_tasks, 1) < 0.5, rate, rate * varied)
    inflated = _zero(other) & (torch.rand(n_tasks, 1) < 1 / 3)
    return torch.poisson(rate).masked_fill(inflated, 0.0)


def _amounts(noisy: Tensor, other: Tensor) -> Tensor:
    size = (log_uniform(0.2, 1.5, len(noisy), 1) * noisy).clamp(-8, 5).exp()
    return size.masked_fill(_zero(other), 0.0)
