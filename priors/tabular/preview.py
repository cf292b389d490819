"""Previews of a prior over tables: summary statistics of tasks, and a figure."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.priors.predictability import predictability
from amortized.priors.prior import Prior
from amortized.priors.task import TaskBatch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # Matplotlib is loaded where something is drawn
    Axes = Figure = Any


def summarise(batch: TaskBatch) -> dict[str, Float[Tensor, " batch"]]:
    """Summary statistics of each task, which characterise a prior over many tasks.

    Args:
        batch: tasks with at least two rows of context and of query, without masks.

    Returns:
        One value per task, by name:
        n_features: columns
        missing: fraction of cells that are NaN
        few_levels: fraction of columns with at most ten different values
        skewness: mean absolute skewness of the columns
        predictability: R2 of a ridge regression on random features
        n_classes, majority: classes in the context and share of the largest (labels only)

    Example:
        >>> from amortized.priors.tabular.families.rules import RulePrior
        >>> statistics = summarise(RulePrior(n_features=5).sample(3, 50, 50, seed=0))
        >>> statistics["n_features"]
        tensor([5., 5., 5.])
    """
    x = torch.cat([batch.x_context, batch.x_query], 1)
    y = batch.y_context
    ordered = x.nan_to_num(torch.inf).sort(1).values
    # inf - inf is NaN, which is not > 0, so missing cells do not count as a level.
    n_levels = 1 + (ordered.diff(dim=1) > 0).sum(1) - ordered[:, -1].isinf().long()
    z = x - x.nanmean(1, keepdim=True)
    scale = z.square().nanmean(1).sqrt().clamp_min(1e-6)
    statistics = {
        "n_features": torch.full_like(y[:, 0], batch.n_features),
        "missing": x.isnan().to(x.dtype).mean((1, 2)),
        "few_levels": (n_levels <= 10).to(x.dtype).mean(1),
        "skewness": ((z**3).nanmean(1) / scale**3).abs().nanmean(1),
        "predictability": predictability(batch),
    }
    if bool((y == y.round()).all()):
        counts = torch.nn.functional.one_hot(y.long()).sum(1)
        statistics["n_classes"] = (counts > 0).sum(-1).to(y.dtype)
        statistics["majority"] = counts.amax(-1) / y.shape[1]
    return statistics


def preview(
    prior: Prior, *, n_tasks: int = 64, n_context: int = 300, n_query: int = 200, seed: int = 0
) -> Figure:
    """Draws tasks and plots four of them above the summary statistics of all.

    A task is shown by its two most predictive columns, coloured by the targets.

    Args:
        prior: a prior over tables.
        n_tasks: number of tasks, at least 4, in batches of 4 whose widths may differ.
        n_context: context rows of each task.
        n_query: query rows of each task.
        seed: seed of the first batch; later batches use the following seeds.
    """
    import matplotlib.pyplot as plt

    if n_tasks < 4:
        raise ValueError(f"Expected n_tasks to be at least 4; got {n_tasks!r}.")
    batches = [
        prior.sample(4, n_context, n_query, seed=seed + step) for step in range(n_tasks // 4)
    ]
    summaries = [summarise(batch) for batch in batches]
    figure, axes = plt.subplots(3, 4, figsize=(13, 9), layout="constrained")
    for axis, batch in zip(axes[0], batches * 4, strict=False):
        _plot_task(axis, batch)
    names = [name for name in summaries[0] if all(name in summary for summary in summaries)]
    for axis, name in zip(axes[1:].flat, names, strict=False):
        axis.hist(torch.cat([summary[name] for summary in summaries]).cpu().numpy(), bins=20)
        axis.set_xlabel(name.replace("_", " "))
        axis.set_ylabel("tasks")
    for axis in axes.flat[4 + len(names) :]:
        axis.set_axis_off()
    return figure


def _plot_task(axis: Axes, batch: TaskBatch) -> None:
    x, y = batch.x_context[0], batch.y_context[0]
    z = (x - x.nanmean(0)).nan_to_num(0.0)
    one_hot = torch.nn.functional.one_hot(y.long()).to(y.dtype) if _whole(y) else y[:, None]
    apart = (z.T @ (one_hot - one_hot.mean(0))).square().sum(1) / z.square().sum(0).clamp_min(1e-6)
    first, second = apart.argsort(descending=True).tolist()[:2] * (2 if len(apart) == 1 else 1)
    colours = "tab10" if _whole(y) else "viridis"
    axis.scatter(x[:, first].cpu(), x[:, second].cpu(), c=y.cpu(), s=6, cmap=colours)
    axis.set_xlabel(f"column {first}")
    axis.set_ylabel(f"column {second}")
    axis.set_title(f"{batch.n_features} columns")


def _whole(y: Tensor) -> bool:
    return bool(((y == y.round()) & (y >= 0)).all())
