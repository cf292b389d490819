r"""Strongly correlated columns with informative small differences, such as spectra and sensors.

    x_j = l_j f_{g(j)} + delta e_j,     score = m(W e)
Columns of a group g share a factor f and have a correlation :math:`\rho` from one half to 0.9997
(:math:`\delta^2 = (1 - \rho) / \rho` for equal loadings). The target depends only on the specific
parts e, mostly linearly; for equal loadings and weights that sum to zero it is exactly a contrast
of columns, such as the sign of x_1 - x_2, which no single column reveals. In a third of the tasks
columns are instead readings along smooth curves, and weak components of these determine the target.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.inputs import heavy_weights
from amortized.priors.tabular.mechanisms import apply_by_task
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_SCORES = 4
_FAMILIES = ("linear", "additive", "quadratic", "perceptron")
_ODDS = (0.7, 0.1, 0.1, 0.1)


class ContrastPrior(TabularPrior):
    """Tables with contrasts of correlated columns as targets; arguments as in ``TabularPrior``."""

    _noiseless = 0.7

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        columns, parts = _with_factors(n_tasks, n_features, n_rows)
        scores = _answers(parts, contrast=True)
        curved = (torch.rand(n_tasks) < 1 / 3).nonzero()[:, 0]
        if len(curved):
            columns[curved], parts = _curves(len(curved), n_features, n_rows)
            scores[curved] = _answers(parts, contrast=False)
        return columns, scores

    def _dress(self, columns: Float[Tensor, "batch columns rows"]) -> Tensor:
        return columns  # a transformation of one column would hide the contrast


def _with_factors(n_tasks: int, n_columns: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Columns with common factors, and their specific parts."""
    own = torch.randn(n_tasks, n_columns, n_rows)
    n_factors = draw_integer(1, 3)
    group = torch.randint(n_factors, (n_tasks, n_columns, 1)).expand(-1, -1, n_rows)
    factors = torch.randn(n_tasks, n_factors, n_rows)
    unequal = log_uniform(0.5, 2.0, n_tasks, n_columns, 1) * torch.randn(n_columns, 1).sign()
    loadings = torch.where(torch.rand(n_tasks, 1, 1) < 0.6, 1.0, unequal)
    apart = log_uniform(3e-4, 0.5, n_tasks, 1, 1)
    spread = (apart / (1 - apart)).sqrt()
    return loadings * factors.gather(1, group) + spread * own, own


def _curves(n_tasks: int, n_columns: int, n_rows: int) -> tuple[Tensor, Tensor]:
    """Readings along smooth curves, and the curves' components in order of size."""
    n_parts = draw_integer(2, 12)
    parts = torch.randn(n_tasks, n_parts, n_rows)
    at = torch.linspace(0, 1, n_columns)[:, None]
    centre, width = torch.rand(n_tasks, 1, n_parts), log_uniform(0.05, 1.0, n_tasks, 1, n_parts)
    bumps = torch.exp(-0.5 * ((at - centre) / width).square())
    size = log_uniform(0.2, 0.95, n_tasks, 1, 1) ** torch.arange(float(n_parts))
    columns = (bumps * size) @ parts
    noise = log_uniform(1e-4, 0.1, n_tasks, 1, 1)
    return columns + noise * torch.randn_like(columns), parts


def _answers(parts: Tensor, *, contrast: bool) -> Tensor:
    """Effects of a few weighted sums of the specific parts, many of them contrasts."""
    n_tasks, n_parts, _ = parts.shape
    weights = heavy_weights(n_tasks, _N_SCORES, n_parts)
    if contrast and n_parts > 1:
        balanced = weights - weights.mean(-1, keepdim=True)
        # In some tasks a single pair of columns determines the target.
        pair = torch.zeros_like(weights)
        both = torch.rand(n_tasks, _N_SCORES, n_parts).argsort(-1)[..., :2]
        pair.scatter_(-1, both, torch.tensor([1.0, -1.0]).expand(both.shape))
        kind = torch.randint(3, (n_tasks, 1, 1))
        weights = torch.where(kind == 0, weights, torch.where(kind == 1, balanced, pair))
    causes = standardise(weights @ parts)
    family = torch.multinomial(torch.tensor(_ODDS), n_tasks, replacement=True)
    scores = apply_by_task(family, _FAMILIES, causes, _N_SCORES)
    # The first linear effect is a single weighted sum.
    alone = (family == 0) & (torch.rand(n_tasks) < 0.7)
    return torch.where(alone[:, None, None], causes, scores)
