r"""Joint predictions of several queries from single predictives, by the chain rule.

.. math:: p(y^*_1, \ldots, y^*_m \mid D) = \prod_i p(y^*_i \mid D, y^*_1, \ldots, y^*_{i-1}).

For an exact predictive the order of the queries does not matter; for a network it matters slightly.

References:
    Bruinsma et al., Autoregressive conditional neural processes (2023), arXiv 2303.14468.
    Hassan et al., Efficient autoregressive inference for transformer probabilistic models (2025),
    arXiv 2510.09477: new rows that attend to a cached context.
"""

from jaxtyping import Float
from torch import Tensor

from amortized.seeding import seeded
from amortized.uncertainty.growing_context import Data, GrowingContext, Predict, tasks_of
from amortized.validation import whole_number


def joint_log_prob(
    predict: Predict,
    x_context: Data,
    y_context: Data,
    x_query: Data,
    y_query: Data,
    *,
    refresh: int = 1,
) -> Float[Tensor, " batch"]:
    """Joint log density of all query targets of each task, in nats.

    Args:
        predict: a PFN, or a function ``(x_context, y_context, x_query)`` to the predictive.
        x_context: inputs of the known rows, ``(batch, context, features)``.
        y_context: their targets, ``(batch, context)``.
        x_query: inputs of the queries in the order of the chain rule, ``(batch, query, features)``.
        y_query: the targets whose density is evaluated, ``(batch, query)``.
        refresh: number of targets after which a PFN encodes the context again: 1 is exact, larger
            values are faster and less accurate; see `benchmarks/joint_predictions.py`.

    Example:
        >>> import torch
        >>> def coin_flips(x, y, z):  # N(0, 1) noise about an unknown N(0, 1)
        ...     n = y.shape[1]
        ...     mean = (y.sum(1, keepdim=True) / (n + 1)).expand(z.shape[:2])
        ...     return torch.distributions.Normal(mean, (1 + 1 / (n + 1)) ** 0.5)
        >>> x, y = torch.zeros(1, 2, 0), torch.zeros(1, 2)
        >>> round(joint_log_prob(coin_flips, x, y, x, y).item(), 4)  # N(0, I + 1/3)
        -2.0933
    """
    known_x, known_y, queries, targets = tasks_of(predict, x_context, y_context, x_query, y_query)
    context = GrowingContext(predict, known_x, known_y, queries.shape[1], refresh)
    total = known_y.new_zeros(len(known_y))
    for i in range(queries.shape[1]):
        x, y = queries[:, i : i + 1], targets[:, i : i + 1]
        total = total + context.predictive(x).log_prob(y).squeeze(1)
        context.append(x, y)
    return total


def joint_sample(
    predict: Predict,
    x_context: Data,
    y_context: Data,
    x_query: Data,
    n_samples: int = 100,
    *,
    refresh: int = 1,
    seed: int = 0,
) -> Float[Tensor, "samples batch query"]:
    """Draws the targets of all queries of each task jointly: curves instead of points.

    The arguments are those of `joint_log_prob`, with a number of joint draws and their seed.

    Example:
        >>> import torch
        >>> from amortized.pretrained import load
        >>> x = torch.linspace(-2, 2, 5).reshape(1, 5, 1)
        >>> joint_sample(load("gp-1d"), x, x[..., 0], x + 0.1, 3).shape
        torch.Size([3, 1, 5])
    """
    n_samples = whole_number("n_samples", n_samples)
    known_x, known_y, queries, _ = tasks_of(predict, x_context, y_context, x_query)
    n_tasks, n_query = queries.shape[:2]
    context = GrowingContext(predict, known_x, known_y, n_query, refresh, n_samples)
    with seeded(seed):
        for i in range(n_query):
            x = queries[:, i : i + 1].repeat(n_samples, 1, 1)
            context.append(x, context.predictive(x).sample())
    return context.y[:, known_y.shape[1] :].reshape(n_samples, n_tasks, n_query)
