r"""Student-t processes over tables: Gaussian process draws whose scale is heavy-tailed.

    f(x) = c + s_1 g(x) + s_2 sum_j g_j(x_j) + s_3 w^T x,    s_i ~ |t_nu|,  nu in {1, 2, 4, inf}
g is a Gaussian process with separate relevances of the inputs and a smoothness from Matern-1/2 to
the Gaussian kernel; g_j are one-dimensional, monotone or not. A Gaussian process divided by the
root of a chi-square variable over its degrees of freedom is a Student-t process. Here each part has
its own scale, so one part often dominates: functions that are nearly linear, nearly additive, or
neither.

References:
    Shah, Wilson and Ghahramani, Student-t processes as alternatives to Gaussian processes, 2014,
    arXiv:1402.4306.
"""

import torch
from torch import Tensor

from amortized.priors.tabular.columns import standardise
from amortized.priors.tabular.inputs import draw_inputs
from amortized.priors.tabular.mechanisms import additive, fourier, linear
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_SCORES = 4


class StudentProcessPrior(TabularPrior):
    """Tables with Student-t processes as targets; arguments as in ``TabularPrior``."""

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        columns = draw_inputs(n_tasks, n_features, n_rows)
        freedom = torch.tensor([1.0, 2.0, 4.0, 1e3])[torch.randint(4, (n_tasks, 1, 1))]
        scores = torch.zeros(n_tasks, _N_SCORES, n_rows)
        for part in (_smooth, additive, linear):
            chi2 = torch.distributions.Chi2(freedom.expand(-1, _N_SCORES, -1)).sample()
            scale = torch.randn(n_tasks, _N_SCORES, 1) * (freedom / chi2.clamp_min(1e-4)).sqrt()
            scores = scores + scale * standardise(part(columns, _N_SCORES))
        return columns, scores


def _smooth(columns: Tensor, n_scores: int) -> Tensor:
    return fourier(columns, n_scores, n_frequencies=96)
