r"""Smooth targets without noise: physics, simulators, response surfaces, cycles.

A few independent, uniform or normal columns matter. The target is
    waves       sums or products of sines of single columns, with 0.2 to 4 periods over the range
    ridge       a sine or a bump of one weighted sum
    polynomial  products of up to three columns, weighted
    ratio       one positive sum over another, or its exponential
    process     a Gaussian process of long lengthscale
    distance    a function of the distance from a point
Nothing is transformed, rounded or perturbed, except for slight noise in a fifth of the tasks. Other
priors always generate kinks or noise, so a network trained only on them stays uncertain.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.mechanisms import fourier
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_SCORES = 2
_MOST_CAUSES = 6


class SmoothPrior(TabularPrior):
    """Tables with smooth functions as targets; arguments as in ``TabularPrior``."""

    _noiseless = 0.9

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        flat = (2 * torch.rand(n_tasks, n_features, n_rows) - 1) * 3**0.5
        normal = torch.randn_like(flat).clamp(-3, 3)
        columns = torch.where(torch.rand(n_tasks, 1, 1) < 0.6, flat, normal)
        n_causes = draw_integer(1, min(_MOST_CAUSES, n_features))
        causes = columns[:, :n_causes]
        family = torch.randint(len(_FAMILIES), (n_tasks,))
        scores = causes.new_empty(n_tasks, _N_SCORES, n_rows)
        for number, function in enumerate(_FAMILIES):
            tasks = (family == number).nonzero()[:, 0]
            if len(tasks):
                scores[tasks] = standardise(function(causes[tasks]))
        order = torch.rand(n_tasks, n_features).argsort(-1)
        return columns[torch.arange(n_tasks)[:, None], order], scores

    def _dress(self, columns: Float[Tensor, "batch columns rows"]) -> Tensor:
        return columns

    def _respond(self, scores: Float[Tensor, "batch scores rows"]) -> Float[Tensor, "batch rows"]:
        n_tasks = len(scores)
        noise = log_uniform(1e-3, 0.2, n_tasks, 1) * (torch.rand(n_tasks, 1) < 0.2)
        return scores[:, 0] + noise * torch.randn_like(scores[:, 0])


def _waves(causes: Tensor) -> Tensor:
    n_tasks, n_causes, _ = causes.shape
    shape = (n_tasks, _N_SCORES, n_causes, 1)
    # The range is about three and a half.
    speed = log_uniform(0.2, 4.0, *shape) * (2 * math.pi / 3.5)
    angle = causes[:, None] * speed + 2 * math.pi * torch.rand(shape)
    size = log_uniform(0.1, 1.0, *shape)
    product = torch.rand(n_tasks, 1, 1) < 0.3
    return torch.where(product, (1 + size * angle.sin()).prod(2), (size * angle.sin()).sum(2))


def _ridge(causes: Tensor) -> Tensor:
    n_tasks, n_causes, _ = causes.shape
    a = standardise(torch.randn(n_tasks, _N_SCORES, n_causes) @ causes)
    a = a * log_uniform(0.5, 6.0, n_tasks, 1, 1) + torch.randn(n_tasks, 1, 1)
    return torch.where(torch.rand(n_tasks, 1, 1) < 0.6, a.sin(), torch.exp(-a.square()))


def _polynomial(causes: Tensor) -> Tensor:
    n_tasks, n_causes, _ = causes.shape
    which = torch.randint(n_causes, (n_tasks, 8, 3))
    factors = causes[torch.arange(n_tasks)[:, None, None], which]
    degree = torch.randint(1, 4, (n_tasks, 8, 1, 1))
    factors = factors.masked_fill(torch.arange(3)[:, None] >= degree, 1.0)
    return torch.randn(n_tasks, _N_SCORES, 8) @ factors.prod(2)


def _ratio(causes: Tensor) -> Tensor:
    n_tasks, n_causes, _ = causes.shape
    above, below = torch.randn(2, n_tasks, _N_SCORES, n_causes)
    over = 1 + log_uniform(0.1, 1.0, n_tasks, 1, 1) * standardise(above @ causes)
    under = 1.2 + log_uniform(0.1, 1.0, n_tasks, 1, 1) * torch.tanh(below @ causes)
    rate = log_uniform(0.3, 1.5, n_tasks, 1, 1) * standardise(above @ causes)
    return torch.where(torch.rand(n_tasks, 1, 1) < 0.6, over / under, rate.clamp_max(5.0).exp())


def _process(causes: Tensor) -> Tensor:
    return fourier(causes * log_uniform(0.2, 1.0, len(causes), 1, 1), _N_SCORES, n_frequencies=64)


def _distance(causes: Tensor) -> Tensor:
    n_tasks, n_causes, _ = causes.shape
    away = causes[:, None] - torch.randn(n_tasks, _N_SCORES, n_causes, 1)
    distance = away.square().mean(2).sqrt()
    speed = log_uniform(1.0, 6.0, n_tasks, 1, 1)
    return torch.where(torch.rand(n_tasks, 1, 1) < 0.5, distance, (speed * distance).cos())


_FAMILIES = (_waves, _ridge, _polynomial, _ratio, _process, _distance)
