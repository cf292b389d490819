r"""Bayesian neural networks as priors over tables, from linear models to deep nets.

    a_l = g_l standardise(W_l h_{l-1}) + b_l,   h_l = activation_l(a_l),   scores = W h_L
Standardising the pre-activations over rows makes this a prior on functions rather than weights: the
gain g_l, log-uniform from 0.3 to 5, determines the nonlinearity of a layer for any width and number
of inputs. First-layer weights are heavy-tailed, so inputs differ in relevance. Two networks of five
have no hidden layer: generalised linear models, the most common case among small tables.

References:
    Neal, Bayesian Learning for Neural Networks, 1996.
    Tran et al., All you need is a good functional prior for Bayesian deep learning, 2022,
    arXiv:2011.12829.
"""

import torch
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.inputs import draw_inputs, heavy_weights
from amortized.priors.tabular.mechanisms import draw_activation
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

_N_SCORES = 6
# Architectures per batch; tasks of a group share depth, width and activations, but not weights.
_N_GROUPS = 4


class NeuralNetworkPrior(TabularPrior):
    """Tables with random neural networks as targets; arguments as in ``TabularPrior``."""

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        columns = draw_inputs(n_tasks, n_features, n_rows)
        groups = columns.chunk(_N_GROUPS)
        return columns, torch.cat([_network(group) for group in groups])


def _network(columns: Tensor) -> Tensor:
    n_tasks, n_inputs, _ = columns.shape
    hidden = columns
    for layer in range(max(0, draw_integer(-1, 3))):
        width = int(log_uniform(3.0, 40.0, 1))
        fan_in = (n_tasks, width, hidden.shape[1])
        weights = heavy_weights(*fan_in) if layer == 0 else torch.randn(fan_in)
        if layer == 0:  # inputs differ in relevance, in the same way for all units
            weights = weights * heavy_weights(n_tasks, 1, n_inputs)
        gain = log_uniform(0.3, 5.0, n_tasks, 1, 1)
        hidden = draw_activation()(
            standardise(weights @ hidden) * gain + torch.randn(n_tasks, width, 1)
        )
    last = heavy_weights(n_tasks, _N_SCORES, hidden.shape[1])
    return last @ hidden
