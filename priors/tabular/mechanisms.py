"""Mechanisms: random functions from causes to effects, in several families.

Each maps standardised causes ``(batch, causes, rows)`` to effects ``(batch, effects, rows)`` with
separate weights for every task. Quantities that must be equal within a tensor (widths, depths,
numbers of trees, activations) are drawn once per call, and a call handles only a few tasks.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.tabular.columns import draw_integer, log_uniform, standardise
from amortized.priors.tabular.inputs import heavy_weights

Causes = Float[Tensor, "batch causes rows"]
Effects = Float[Tensor, "batch effects rows"]
Mechanism = Callable[[Tensor, int], Tensor]

ACTIVATIONS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.tanh,
    torch.relu,
    torch.abs,
    torch.sin,
    torch.sigmoid,
    torch.nn.functional.softplus,
    torch.nn.functional.elu,
    torch.sign,
    lambda a: torch.exp(-a.square()),
    lambda a: a.clamp(-1, 1),
    lambda a: a,
)


def draw_activation() -> Callable[[Tensor], Tensor]:
    """Draws an activation function: monotone, periodic, bump-shaped, piecewise linear or a step."""
    return ACTIVATIONS[draw_integer(0, len(ACTIVATIONS) - 1)]


def linear(causes: Causes, n_effects: int) -> Effects:
    """Weighted sums, from dense to almost a copy of one cause.

    Example:
        >>> linear(torch.randn(2, 3, 10), 4).shape
        torch.Size([2, 4, 10])
    """
    return heavy_weights(causes.shape[0], n_effects, causes.shape[1]) @ causes


def perceptron(causes: Causes, n_effects: int) -> Effects:
    """One hidden layer whose units have three activations, one of which often dominates."""
    n_tasks, n_hidden = causes.shape[0], draw_integer(2, 6)
    parts = []
    for _ in range(3):
        a = standardise(linear(causes, n_hidden)) * log_uniform(0.3, 5.0, n_tasks, 1, 1)
        part = draw_activation()(a + torch.randn(n_tasks, n_hidden, 1))
        parts.append(part * log_uniform(0.02, 1.0, n_tasks, 1, 1))
    hidden = torch.cat(parts, 1)
    return torch.randn(n_tasks, n_effects, hidden.shape[1]) @ hidden


def additive(causes: Causes, n_effects: int) -> Effects:
    r"""Sums of monotone effects, from linear to saturating to a threshold, as in dose response.

    :math:`\sum_j w_j \tanh((z_j - t_j) / s_j)` with s log-uniform from a step to a line.
    """
    n_tasks, n_causes, n_rows = causes.shape
    at = causes.gather(-1, torch.randint(n_rows, (n_tasks, n_causes, 1)))
    response = torch.tanh((causes - at) / log_uniform(0.02, 3.0, n_tasks, n_causes, 1))
    return linear(standardise(response), n_effects)


def quadratic(causes: Causes, n_effects: int) -> Effects:
    """A sum and a product of weighted sums: curvature, saddles and pairwise interactions."""
    crossed = linear(causes, n_effects) * linear(causes, n_effects)
    share = torch.rand(causes.shape[0], n_effects, 1)
    return share * standardise(crossed) + (1 - share) * standardise(linear(causes, n_effects))


def product(causes: Causes, n_effects: int) -> Effects:
    """One weighted sum gated or scaled by another: effect modification."""
    n_tasks = causes.shape[0]
    gate = torch.sigmoid(
        standardise(linear(causes, n_effects)) * log_uniform(0.5, 20.0, n_tasks, n_effects, 1)
        + torch.randn(n_tasks, n_effects, 1)
    )
    return standardise(linear(causes, n_effects)) * gate


def fourier(causes: Causes, n_effects: int, n_frequencies: int = 32) -> Effects:
    r"""Draws of a Gaussian process by random Fourier features.

    :math:`f(z) = \sqrt{2/m}\sum_k a_k \cos(\omega_k^\top z + \phi_k)`; Student-t frequencies with
    2 nu degrees of freedom belong to the Matern-nu kernel, normal ones to the Gaussian kernel.

    References:
        Rahimi and Recht, Random features for large-scale kernel machines, NeurIPS 2007.
    """
    n_tasks, n_causes, _ = causes.shape
    omega = torch.randn(n_tasks, n_frequencies, n_causes)
    # Half the degrees of freedom are those of Matern-1/2 (1), 3/2 (3) and 5/2 (5).
    freedom = torch.tensor([1.0, 3.0, 5.0, 1e3])[torch.randint(4, (n_tasks, 1))]
    chi2 = torch.distributions.Chi2(freedom.expand(n_tasks, n_frequencies)).sample()
    omega = omega * (freedom / chi2.clamp_min(1e-3)).sqrt().clamp_max(30.0)[..., None]
    relevance = heavy_weights(n_tasks, 1, n_causes).abs()
    relevance = relevance / relevance.square().sum(-1, keepdim=True).sqrt().clamp_min(1e-6)
    omega = omega * relevance * log_uniform(0.3, 3.0, n_tasks, 1, 1)
    phase = 2 * torch.pi * torch.rand(n_tasks, n_frequencies, 1)
    basis = torch.cos(torch.baddbmm(phase, omega, causes))
    return torch.randn(n_tasks, n_effects, n_frequencies) @ basis * (2 / n_frequencies) ** 0.5


def _distances(causes: Causes, n_centres: int) -> Tensor:
    """Squared distances to random rows, with a separate weight for each cause."""
    n_tasks, n_causes, n_rows = causes.shape
    weighted = causes * heavy_weights(n_tasks, n_causes, 1)
    rows = torch.randint(n_rows, (n_tasks, 1, n_centres)).expand(-1, n_causes, -1)
    centres = weighted.gather(-1, rows)
    cross = centres.transpose(1, 2) @ weighted
    square = weighted.square().sum(1, keepdim=True)
    return square - 2 * cross + centres.square().sum(1)[..., None]


def discretise(causes: Causes, n_effects: int) -> Effects:
    """The nearest of a few prototypes, represented by a random value: a categorical effect."""
    n_centres = draw_integer(2, 10)
    nearest = _distances(causes, n_centres).argmin(1)
    values = torch.randn(causes.shape[0], n_effects, n_centres)
    return values.gather(-1, nearest[:, None].expand(-1, n_effects, -1))


def soft_clusters(causes: Causes, n_effects: int) -> Effects:
    """Gaussian-mixture responsibilities as weights of component values."""
    distance = _distances(causes, draw_integer(2, 8))
    scale = distance.mean((1, 2), keepdim=True).clamp_min(1e-6)
    heat = log_uniform(0.03, 1.0, causes.shape[0], 1, 1)
    weight = torch.softmax(-distance / (scale * heat), 1)
    return torch.randn(causes.shape[0], n_effects, distance.shape[1]) @ weight


def trees(causes: Causes, n_effects: int) -> Effects:
    """Sums of random decision trees, each node with its own cause and threshold.

    A tree is an array: the children of node i are 2i + 1 and 2i + 2. All trees of all tasks are
    traversed level by level. Thresholds are values of random rows, so splits lie within the data.
    """
    n_tasks, n_causes, n_rows = causes.shape
    n_each, depth = draw_integer(1, 4), draw_integer(1, 4)
    n_trees, n_inner = n_each * n_effects, 2**depth - 1
    # A few causes are used in most splits, as in fitted trees.
    odds = heavy_weights(n_tasks, n_causes).abs() + 1e-3
    which = torch.multinomial(odds, n_trees * n_inner, replacement=True)
    at = torch.randint(n_rows, (n_tasks, n_trees * n_inner))
    threshold = causes[torch.arange(n_tasks)[:, None], which, at]
    which, threshold = (t.view(n_tasks, n_trees, n_inner) for t in (which, threshold))
    node = torch.zeros(n_tasks, n_trees, n_rows, dtype=torch.long)
    for level in range(depth):
        if level == 0:  # all rows are at the root, so no look-up is needed
            value = causes[torch.arange(n_tasks)[:, None], which[..., 0]]
            right = value > threshold[..., :1]
        else:
            right = causes.gather(1, which.gather(-1, node)) > threshold.gather(-1, node)
        node = 2 * node + 1 + right
    leaves = torch.randn(n_tasks, n_trees, n_inner + 1)
    value = leaves.gather(-1, node - n_inner)
    return value.view(n_tasks, n_each, n_effects, n_rows).sum(1)


MECHANISMS: dict[str, Mechanism] = {
    "linear": linear,
    "additive": additive,
    "perceptron": perceptron,
    "trees": trees,
    "discretise": discretise,
    "soft_clusters": soft_clusters,
    "quadratic": quadratic,
    "product": product,
    "fourier": fourier,
}


def apply_by_task(
    family: Tensor, names: tuple[str, ...], causes: Causes, n_effects: int
) -> Effects:
    """Applies to each task the mechanism given by ``family``; the effects are standardised.

    Args:
        family: index into ``names`` for each task, ``(batch,)``.
        names: keys of ``MECHANISMS``.
        causes: standardised causes.
        n_effects: number of effects.
    """
    out = causes.new_empty(causes.shape[0], n_effects, causes.shape[-1])
    for k, name in enumerate(names):
        tasks = (family == k).nonzero()[:, 0]
        if len(tasks):
            out[tasks] = MECHANISMS[name](causes[tasks], n_effects)
    return standardise(out)
