"""Targets of a table: classes or a number, derived from scores.

Scores are smooth columns ``(batch, scores, rows)``, the first of them the main one.

Classes come from the scores in one of three ways per task:
    rank cut    thresholds at drawn class proportions: any imbalance, ordered classes
    value cut   thresholds at values: proportions as they fall
    argmax      the largest of C random weighted sums of all scores: classes without an order
Noise in the scores makes classes overlap; label noise flips some; most tasks permute the classes.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.priors.tabular.columns import (
    bend,
    censor,
    contaminate,
    draw_integer,
    log_uniform,
    round_to_grid,
    standardise,
)

_SEVERAL = 10  # largest number of classes from which a two-class task is derived


def noise_scale(n_tasks: int, noiseless: float, high: float) -> Float[Tensor, "batch 1"]:
    """Draws a noise level per task: 0 with probability ``noiseless``, else up to ``high``."""
    level = log_uniform(0.02, high, n_tasks, 1)
    return level * (torch.rand(n_tasks, 1) >= noiseless)


def draw_noise(shape: torch.Size) -> Float[Tensor, "batch rows"]:
    """Unit noise: normal in two thirds of the tasks, else Student-t with 3 degrees of freedom."""
    noise = torch.randn(shape)
    heavy = (torch.rand(shape[0]) < 1 / 3).nonzero()[:, 0]
    chi2 = torch.randn(len(heavy), shape[1], 3).square().mean(-1).clamp_min(0.05)
    noise[heavy] = noise[heavy] / chi2.sqrt() / 3**0.5
    return noise


def draw_classes(
    scores: Float[Tensor, "batch scores rows"], max_classes: int, noiseless: float = 0.5
) -> Int[Tensor, "batch rows"]:
    """Draws class labels from scores; at least two labels unless all scores are constant.

    Two-class tasks are often one class of several against the rest.

    Args:
        scores: scores that determine the target, on any scale.
        max_classes: largest number of classes of a task, at least 2; half of the tasks have two.
        noiseless: probability that the scores determine the target without noise.

    Example:
        >>> y = draw_classes(torch.randn(5, 3, 100), 4)
        >>> y.shape, int(y.min()), bool(y.max() <= 3)
        (torch.Size([5, 100]), 0, True)
    """
    if max_classes == 2:
        return _one_against_rest(draw_classes(scores, _SEVERAL, noiseless))
    n_tasks, n_scores, n_rows = scores.shape
    scores = standardise(scores)
    n_classes = log_uniform(3.0, max_classes + 1.0, n_tasks).floor().clamp_max(max_classes)
    # A class needs several rows, so few rows allow only few classes.
    n_classes = n_classes.clamp_max(max(2, n_rows // 10)).long()
    n_classes = torch.where(torch.rand(n_tasks) < 0.55, 2, n_classes)
    # The more classes share the range of one score, the less noise they tolerate.
    noise = noise_scale(n_tasks, noiseless, 0.8) * (2 / n_classes[:, None]).sqrt()
    labels = _cut(scores[:, 0], n_classes, noise)
    by_argmax = torch.rand(n_tasks) < (0.4 if n_scores > 1 else 0.0)
    tasks = by_argmax.nonzero()[:, 0]
    labels[tasks] = _argmax(scores[tasks], n_classes[tasks], noiseless)
    labels = _at_least_two(labels, scores[:, 0])
    return _rename(flip_some(labels), n_classes)


def _one_against_rest(labels: Tensor) -> Tensor:
    """One of the classes that occur, chosen uniformly, against all others."""
    present = torch.nn.functional.one_hot(labels).amax(1)
    one = torch.rand(present.shape).masked_fill(present == 0, -1.0).argmax(-1, keepdim=True)
    return (labels == one).long()


def _cut(score: Tensor, n_classes: Tensor, noise: Tensor) -> Tensor:
    """Cuts one score into classes by rank or by value."""
    n_tasks, n_rows = score.shape
    score = score + noise * draw_noise(score.shape)
    most = int(n_classes.max())
    # A tenth of the tasks has several bands per class (low and high against the middle).
    n_bands = n_classes * torch.where(torch.rand(n_tasks) < 0.1, draw_integer(2, 3), 1)
    unused = torch.arange(3 * most) >= n_bands[:, None]
    # Dirichlet proportions, from balanced (large concentration) to very unequal.
    concentration = log_uniform(0.4, 60.0, n_tasks, 1).expand(-1, 3 * most)
    share = torch.distributions.Gamma(concentration, 1.0).sample()
    # In a quarter of the tasks one band may be forty times as frequent as another: rare events.
    rare = torch.rand(n_tasks, 1) < 0.25
    share = share * torch.where(rare, log_uniform(0.025, 1.0, *share.shape), 1.0)
    share = share / share.masked_fill(unused, 0.0).sum(-1, keepdim=True) + 0.008
    share = share.masked_fill(unused, 0.0)
    edges = (share.cumsum(-1) / share.sum(-1, keepdim=True))[:, :-1]
    ordered = score.sort(-1).values
    by_rank = ordered.gather(-1, (edges * n_rows).long().clamp_max(n_rows - 1))
    low, high = ordered[:, [int(0.03 * n_rows)]], ordered[:, [int(0.97 * (n_rows - 1))]]
    by_value = low + edges * (high - low)
    at = torch.where(torch.rand(n_tasks, 1) < 0.65, by_rank, by_value)
    at = at.masked_fill(unused[:, 1:], torch.inf)
    bands = torch.searchsorted(at.contiguous(), score.contiguous())
    return bands % n_classes[:, None]


def _at_least_two(labels: Tensor, score: Tensor) -> Tensor:
    """Splits tasks with a single class at the median score, or at random if scores are constant."""
    tasks = (labels == labels[:, :1]).all(-1).nonzero()[:, 0]
    score = score[tasks] + 1e-3 * torch.randn(len(tasks), score.shape[1])
    middle = score.median(-1, keepdim=True).values if len(tasks) else score
    labels[tasks] = (score > middle).long()
    return labels


def _argmax(scores: Tensor, n_classes: Tensor, noiseless: float) -> Tensor:
    """The largest of C random weighted sums of the scores, plus Gumbel noise."""
    n_tasks, n_scores, n_rows = scores.shape
    most = int(n_classes.max()) if n_tasks else 2
    logits = torch.randn(n_tasks, most, n_scores) @ scores
    logits = standardise(logits)
    logits = logits + 0.5 * torch.rand(n_tasks, 1, 1) * torch.randn(n_tasks, most, 1)
    gumbel = -torch.empty_like(logits).exponential_().clamp_min(1e-20).log()
    logits = logits + gumbel * noise_scale(n_tasks, noiseless, 0.6)[..., None]
    unused = torch.arange(most) >= n_classes[:, None]
    return logits.masked_fill(unused[..., None], -torch.inf).argmax(1)


def flip_some(labels: Tensor) -> Tensor:
    """In a sixth of the tasks, up to 15% of the rows get the label of a random row."""
    n_tasks, n_rows = labels.shape
    rate = 0.15 * torch.rand(n_tasks, 1) * (torch.rand(n_tasks, 1) < 1 / 6)
    other = labels.gather(-1, torch.randint(n_rows, (n_tasks, n_rows)))
    return torch.where(torch.rand(n_tasks, n_rows) < rate, other, labels)


def _rename(labels: Tensor, n_classes: Tensor) -> Tensor:
    """Permutes the class numbers in two thirds of the tasks; the others keep the order."""
    most = int(n_classes.max())
    unused = torch.arange(most) >= n_classes[:, None]
    key = torch.rand(len(labels), most)
    key = torch.where(torch.rand(len(labels), 1) < 1 / 3, torch.linspace(0, 1, most), key)
    names = (
        key.masked_fill(unused, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1, stable=True)
    )
    return names.gather(-1, labels)


def show_classes_in_context(labels: Int[Tensor, "batch rows"], n_context: int) -> Tensor:
    """An order of rows in which every class of the query also occurs in the context.

    The first row of each class moves to the front in tasks that need it; others keep their order.

    Args:
        labels: class numbers.
        n_context: number of context rows.

    Returns:
        Row indices ``(batch, rows)``.

    Example:
        >>> show_classes_in_context(torch.tensor([[0, 0, 0, 1], [0, 1, 1, 0]]), 2)
        tensor([[0, 3, 1, 2],
                [0, 1, 2, 3]])
    """
    one_hot = torch.nn.functional.one_hot(labels)  # (batch, rows, classes)
    first = (one_hot.cumsum(1) * one_hot == 1).any(-1)
    needs = first[:, n_context:].any(-1, keepdim=True)
    return (needs & ~first).to(torch.uint8).argsort(dim=-1, stable=True)


def compact_classes(labels: Int[Tensor, "batch rows"]) -> Int[Tensor, "batch rows"]:
    """Renumbers the labels that occur as 0..C-1, in ascending order.

    Example:
        >>> compact_classes(torch.tensor([[2, 2, 5], [0, 1, 1]]))
        tensor([[0, 0, 1],
                [0, 1, 1]])
    """
    present = torch.nn.functional.one_hot(labels).amax(1)
    return (present.cumsum(-1) - 1).gather(-1, labels)


def draw_response(
    scores: Float[Tensor, "batch scores rows"], noiseless: float = 0.1
) -> Float[Tensor, "batch rows"]:
    """Draws a number for each row: the first score plus noise, transformed like real responses.

    Noise is homoscedastic or grows with the second score, and is added before or after the
    transformation. A few tasks are censored (zeros), rounded (counts, grades) or contaminated.

    Args:
        scores: scores that determine the target, on any scale.
        noiseless: probability of no noise.
    """
    n_tasks = len(scores)
    scores = standardise(scores)
    noise = draw_noise(scores[:, 0].shape) * noise_scale(n_tasks, noiseless, 2.0)
    uneven = (torch.rand(n_tasks, 1) < 0.3) * 2 * torch.rand(n_tasks, 1)
    noise = noise * torch.exp(uneven * scores[:, -1].clamp(-3, 3))
    early = torch.rand(n_tasks, 1) < 0.5
    y = standardise(scores[:, 0] + noise * early)
    y = _some(bend, y, 0.35)
    y = y + noise * ~early
    for step, rate in ((censor, 0.05), (contaminate, 0.07)):
        y = _some(step, y, rate)
    y = _some(round_to_grid, y, 0.2)
    # Noise is added to a nearly constant response, or most contexts would be constant.
    stuck = (y == y.median(-1, keepdim=True).values).to(y.dtype).mean(-1, keepdim=True) > 0.9
    return standardise(standardise(y) + 0.1 * stuck * torch.randn_like(y))


def _some(step: Callable[[Tensor], Tensor], y: Tensor, rate: float) -> Tensor:
    tasks = (torch.rand(len(y)) < rate).nonzero()[:, 0]
    y[tasks] = step(y[tasks])
    return y


def standardise_by_context(
    y: Float[Tensor, "batch rows"], n_context: int
) -> Float[Tensor, "batch rows"]:
    """Standardises targets by the context's mean and standard deviation; outliers are kept.

    A context with fewer than two distinct values does not determine a scale: its mean is removed
    (if there is one) and the scale of all rows is used.

    Args:
        y: targets of all rows, the context first.
        n_context: number of context rows.
    """
    context = y[:, :n_context]
    mean = context.mean(-1, keepdim=True) if n_context else y.mean(-1, keepdim=True)
    scale = (context - mean).square().mean(-1, keepdim=True).sqrt() if n_context else 0 * mean
    everywhere = y.std(-1, keepdim=True, correction=0)
    scale = torch.where(scale > 1e-3 * everywhere, scale, everywhere)
    return (y - mean) / torch.where(scale > 1e-5, scale, 1.0)
