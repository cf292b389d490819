r"""Classes that generate their columns: mixtures of Gaussians, as in discriminant analysis.

    x | class c, cluster m ~ N(mu_cm, diag(s_cm)) + common factors,   score = (class means of c)
The target is the cause here: species, diagnoses, materials, digits. Columns differ in how well they
separate the classes (many not at all), clusters of one class may be far apart, and the covariance
may depend on the class (quadratic boundaries) or not (linear ones).
"""

import torch

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.inputs import draw_inputs, heavy_weights
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_SCORES = 3


class ClusterPrior(TabularPrior):
    """Tables whose target is a cluster's; arguments as in ``TabularPrior``."""

    # Membership is exact: the overlap comes from the clusters.
    _noiseless = 0.8

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        n_clusters = draw_integer(2, 12)
        odds = log_uniform(0.15, 1.0, n_tasks, n_clusters)
        which = torch.multinomial(odds, n_rows, replacement=True)[:, None]
        apart = torch.randn(n_tasks, n_features, n_clusters)
        # Relevance of columns is heavy-tailed; separation shrinks with the number of columns,
        # because the sum of many small differences would make every wide table trivial.
        relevance = heavy_weights(n_tasks, n_features, 1).abs()
        relevance = relevance / relevance.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
        apart = apart * relevance * log_uniform(1.0, 12.0, n_tasks, 1, 1)
        own_spread = torch.rand(n_tasks, 1, 1) < 0.5
        spread = log_uniform(0.4, 2.5, n_tasks, n_features, n_clusters) ** own_spread
        within = draw_inputs(n_tasks, n_features, n_rows)
        pick = which.expand(-1, n_features, -1)
        columns = apart.gather(-1, pick) + spread.gather(-1, pick) * within
        values = torch.randn(n_tasks, _N_SCORES, n_clusters)
        return standardise(columns), values.gather(-1, which.expand(-1, _N_SCORES, -1))
