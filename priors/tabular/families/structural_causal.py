r"""Structural causal models: tables observed from a random graph of random mechanisms.

Node k of a graph has a few values per row. It reads earlier nodes, applies one of its task's
mechanisms and adds noise:
    h_k = f_k(W_k [h_j : j in parents(k)]) + sigma_k e_k.
Columns and target are then chosen among all values of all nodes. Values that are not chosen remain
hidden, as confounders, mediators or colliders. A target may be a cause of its columns, an effect of
them, or neither.

All tasks of a batch have the same number of nodes but their own graphs, weights, mechanisms, noise
and columns. Mechanisms of one task are similar (nearly linear relations, or rules), because each
task first draws probabilities of the families.

References:
    Pearl, Causality, 2009. Hollmann et al., TabPFN, 2022, arXiv:2207.01848 (priors of this kind).
"""

import torch
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.inputs import draw_inputs, heavy_weights, shape_some
from amortized.priors.tabular.mechanisms import apply_by_task, linear
from amortized.priors.tabular.tabular_prior import TableDraw, TabularPrior

# Mean probabilities of the families; smooth and additive relations are the most common.
_FAMILIES = {
    "linear": 3.0,
    "additive": 2.0,
    "perceptron": 2.0,
    "trees": 2.0,
    "discretise": 1.0,
    "soft_clusters": 0.7,
    "quadratic": 0.8,
    "product": 0.8,
    "fourier": 1.0,
}


class StructuralCausalPrior(TabularPrior):
    """Tables from random structural causal models; arguments as in ``TabularPrior``.

    Example:
        >>> prior = StructuralCausalPrior("classification", n_features=5)
        >>> batch = prior.sample(4, 60, 40, seed=0)
        >>> batch.x_context.shape, batch.y_query.shape
        (torch.Size([4, 60, 5]), torch.Size([4, 40]))
    """

    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        n_nodes = int(log_uniform(2.0, 13.0, 1))
        # A third more values than columns, so that some always stay hidden.
        size = max(3, -(-(4 * n_features // 3 + 3) // n_nodes))
        taste = _draw_taste(n_tasks)
        columns, scores = _observe(_walk(taste, n_nodes, size, n_rows), n_features)
        # In half of the tasks the target is a final effect, with observed columns as its causes.
        last = (torch.rand(n_tasks) < 0.5).nonzero()[:, 0]
        columns[last] = shape_some(columns[last])
        scores[last] = _effect(taste[last], columns[last], scores.shape[1])
        return columns, scores


def _draw_taste(n_tasks: int) -> Tensor:
    """Probabilities of the families for each task, ``(batch, family)``."""
    # A small Dirichlet concentration gives few families per task but all of them over tasks.
    appetite = torch.tensor(list(_FAMILIES.values())).expand(n_tasks, -1) * 0.3
    return torch.distributions.Gamma(appetite, 1.0).sample() + 1e-6


def _walk(taste: Tensor, n_nodes: int, size: int, n_rows: int) -> Tensor:
    """Values of all nodes, ``(batch, node, size, rows)``, in topological order."""
    n_tasks = len(taste)
    noise = log_uniform(0.005, 0.4, n_tasks, 1, 1)
    density = log_uniform(0.1, 1.0, n_tasks, 1)
    root_rate = 0.4 * torch.rand(n_tasks, 1, 1).square()
    nodes = draw_inputs(n_tasks, size, n_rows)[:, None]
    for _ in range(1, n_nodes):
        causes = standardise(_read_parents(nodes, density))
        family = torch.multinomial(taste, 1)[:, 0]
        effect = apply_by_task(family, tuple(_FAMILIES), causes, size)
        # Some values are deterministic functions of their causes, which preserves categories.
        own = noise * log_uniform(0.3, 3.0, n_tasks, size, 1) * (torch.rand(n_tasks, size, 1) < 0.8)
        effect = effect + own * torch.randn_like(effect)
        is_root = (torch.rand(n_tasks, 1, 1) < root_rate).flatten().nonzero()[:, 0]
        effect[is_root] = draw_inputs(len(is_root), size, n_rows)
        nodes = torch.cat([nodes, standardise(effect)[:, None]], 1)
    return nodes


def _effect(taste: Tensor, columns: Tensor, n_effects: int) -> Tensor:
    """Effects of a few mixtures of the columns through one more mechanism."""
    causes = standardise(linear(columns, draw_integer(1, 6)))
    family = torch.multinomial(taste, 1)[:, 0] if len(taste) else taste.new_zeros(0)
    return apply_by_task(family, tuple(_FAMILIES), causes, n_effects)


def _read_parents(nodes: Tensor, density: Tensor) -> Tensor:
    """Weighted sums of the values of a random, non-empty set of earlier nodes."""
    n_tasks, n_earlier, size, n_rows = nodes.shape
    chosen = torch.rand(n_tasks, n_earlier) < density
    chosen[torch.arange(n_tasks), torch.randint(n_earlier, (n_tasks,))] = True
    weights = heavy_weights(n_tasks, size, n_earlier, size) * chosen[:, None, :, None]
    return weights.flatten(2) @ nodes.flatten(1, 2)


def _observe(nodes: Tensor, n_features: int) -> tuple[Tensor, Tensor]:
    """Chooses the columns and the target's scores among all values of all nodes."""
    n_tasks, n_nodes, size, n_rows = nodes.shape
    tasks = torch.arange(n_tasks)
    target = torch.randint(n_nodes, (n_tasks,))
    # Later nodes have more ancestors; the first one is a root.
    target = torch.maximum(target, torch.randint(n_nodes, (n_tasks,)))
    scores = nodes[tasks, target]
    scores = scores[:, : draw_integer(1, size)]
    # Random keys choose the columns; values of one node tend to be observed or hidden together.
    key = torch.rand(n_tasks, n_nodes, size) + torch.randn(n_tasks, n_nodes, 1) * 0.5
    key[tasks, target, : scores.shape[1]] += 1e3
    picked = key.flatten(1).argsort(-1)[:, :n_features]
    return nodes.flatten(1, 2)[tasks[:, None], picked], scores
