"""Figures in a common style: legible in greyscale, with labelled axes.

Lines differ in lightness, dashes and markers. Figures are created without pyplot, so they need no
display and do not stay open.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
else:  # Matplotlib takes a third of a second, and few who import this draw
    Axes = Figure = Text = Any

COLOURS = ("#14213d", "#c2410c", "#3b9ab2", "#f2b134")
"""Colours from dark to light."""
LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
_LEGEND_COLUMNS = 3
BAND = "0.86"
"""Grey for the behaviour expected of an exact answer."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_axes(width: float = 5.0, height: float = 3.5) -> Axes:
    """Axes of a new figure, sizes in inches."""
    return new_figure(width, height).subplots()


def line_style(i: int) -> dict[str, Any]:
    """Colour and dashes of the i-th line; they repeat after 16."""
    return {"color": COLOURS[i % 4], "linestyle": LINES[(i + i // 4) % 4]}


def label_axes(ax: Axes, x: str, y: str, title: str = "") -> Axes:
    """Labels the axes, and adds a legend above them if any artist has a label."""
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    texts, n_labels = [ax.xaxis.label, ax.yaxis.label, ax.title], len(_labels(ax))
    n_lines = -(-n_labels // _LEGEND_COLUMNS)
    ax.set_title(title, fontsize=10, pad=6 + 13 * n_lines)  # in points, above the legend
    if n_labels:
        legend = ax.legend(
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            borderaxespad=0.0,
            ncols=_LEGEND_COLUMNS,
            fontsize=8,
            frameon=False,
        )
        texts += legend.get_texts()
    plain_text(texts)
    return ax


def _labels(ax: Axes) -> list[str]:
    labels: list[str] = ax.get_legend_handles_labels()[1]
    return labels


def plain_text(texts: Iterable[Text]) -> None:
    """Shows names literally: a dollar sign does not start a formula."""
    for text in texts:
        text.set_parse_math(False)


def histogram(values: Float[np.ndarray, " n"], x: str, y: str, title: str, ax: Axes | None) -> Axes:
    """Histogram of one number per dataset, with the mean."""
    ax = new_axes() if ax is None else ax
    ax.hist(values, bins=min(40, max(5, len(values) // 5)), color=COLOURS[2])
    ax.axvline(values.mean(), color=COLOURS[0], label=f"mean {values.mean():.3g}")
    return label_axes(ax, x, y, title)


def predictive_band(
    predictive: Distribution,
    position: Float[np.ndarray, " m"],
    *,
    label: str,
    ax: Axes | None = None,
    colour: int = 0,
    level: float = 0.9,
    x_label: str = "x",
    y_label: str = "y",
) -> Axes:
    """Plots the median and central band of a predictive along one input.

    Args:
        predictive: predictive of batch shape ``(m,)``, with an ``icdf``.
        position: position of each member along the axis.
        label: label in the legend.
        ax: axes to draw on; None creates a figure.
        colour: index of the line style, if a figure has several.
        level: probability of the band.
        x_label: label of x, with its unit.
        y_label: label of y, with its unit.

    Example:
        >>> import torch
        >>> predictive = torch.distributions.Normal(torch.zeros(20), 1.0)
        >>> ax = predictive_band(predictive, np.linspace(0, 1, 20), label="prior")
        >>> ax.get_xlabel()
        'x'
    """
    ax = new_axes() if ax is None else ax
    order = np.argsort(position)
    low, median, high = (
        np.asarray(predictive.icdf(predictive.mean.new_tensor(p).expand(predictive.batch_shape)))
        for p in ((1 - level) / 2, 0.5, (1 + level) / 2)
    )
    style = line_style(colour)
    ax.plot(position[order], median[order], **style, label=f"{label}: median")
    for edge in (low, high):
        ax.plot(position[order], edge[order], **style, linewidth=0.6)
    ax.fill_between(
        position[order],
        low[order],
        high[order],
        color=style["color"],
        alpha=0.18,
        linewidth=0,
        label=f"{label}: {level:.0%} band",
    )
    return label_axes(ax, x_label, y_label)


def prior_preview(
    prior: Any, n_tasks: int = 4, n_rows: int = 60, *, seed: int = 0, ax: Axes | None = None
) -> Axes:
    """Plots datasets drawn from a prior: targets against the first input or the row number.

    Args:
        prior: anything with the ``sample`` of a `Prior`.
        n_tasks: number of datasets.
        n_rows: rows of each dataset.
        seed: seed of the draws.
        ax: axes to draw on; None creates a figure.

    Example:
        >>> from amortized.priors import named_prior
        >>> prior_preview(named_prior("gp-1d")).get_ylabel()
        'y'
    """
    ax = new_axes() if ax is None else ax
    batch = prior.sample(n_tasks, n_rows, 0, seed=seed)
    one_input = batch.n_features == 1
    for i in range(n_tasks):
        y = batch.y_context[i].numpy()
        x = batch.x_context[i, :, 0].numpy() if batch.n_features else np.arange(len(y))
        order = np.argsort(x)
        # Between rows that also differ in other inputs a line would be meaningless.
        dashes = line_style(i)["linestyle"] if one_input else "none"
        ax.plot(
            x[order],
            y[order],
            color=COLOURS[i % 4],
            marker=MARKERS[i % 4],
            markersize=3,
            label=f"dataset {i + 1}",
            linestyle=dashes,
        )
    x_label = "x" if one_input else "first input" if batch.n_features else "row"
    return label_axes(ax, x_label, "y", f"{n_tasks} datasets of the prior")


def compare_methods(
    values: Mapping[str, Sequence[float]], x_label: str, title: str = "", ax: Axes | None = None
) -> Axes:
    """Plots one value per method with its standard error.

    Args:
        values: ``{method: (value, standard error)}``.
        x_label: label of the values, with the unit and which direction is better.
        title: title of the axes.
        ax: axes to draw on; None creates a figure.

    Example:
        >>> ax = compare_methods({"pfn": (1.41, 0.02), "exact": (1.45, 0.02)}, "log score (nats)")
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['pfn', 'exact']
    """
    ax = new_axes(5, 0.6 + 0.45 * len(values)) if ax is None else ax
    for i, (value, error) in enumerate(values.values()):
        colour, marker = COLOURS[i % 4], MARKERS[i % 4]
        ax.errorbar([value], [i], xerr=[2 * error], capsize=3, color=colour, marker=marker)
    ax.set_yticks(range(len(values)), list(values))
    plain_text(ax.get_yticklabels())
    ax.set_ylim(len(values) - 0.5, -0.5)
    return label_axes(ax, f"{x_label}, +- 2 standard errors", "method", title)


def plot_prior_sensitivity(
    sensitivity: Any,
    latents: Sequence[str] | Mapping[str, str] | None = None,
    *,
    units: Mapping[str, str] | None = None,
    level: float = 0.9,
) -> Figure:
    """Plots the posterior of each latent under several priors, next to that under the base prior.

    Each latent has a panel with the posterior's median and central interval, one row per prior, and
    those under the base in grey; the last panel shows the distance from the base posterior.

    Args:
        sensitivity: a `PriorSensitivity`.
        latents: scalar latents to show, or a mapping from latents to labels; None shows all.
        units: units of the latents by name, for the axes.
        level: probability of the intervals.

    Raises:
        ValueError: if there is no such latent.

    Example:
        >>> from amortized.infer.prior_sensitivity import prior_sensitivity
        >>> from amortized.priors.regression.linear_model import LinearModelPrior
        >>> from torch.distributions import LogNormal
        >>> grid = {"loud": {"noise": LogNormal(3.0, 1.0)}}
        >>> found = prior_sensitivity(LinearModelPrior(0), [1.0, 2.0, 3.0], latent_priors=grid)
        >>> figure = plot_prior_sensitivity(found, units={"noise": "cm"})
        >>> [ax.get_xlabel() for ax in figure.axes]
        ['coefficients[0]', 'noise (cm)', 'distance from base (nats)']
    """
    quantiles = sensitivity.quantiles([(1 - level) / 2, 0.5, (1 + level) / 2])
    latents = list(quantiles) if latents is None else latents
    chosen = dict(latents) if isinstance(latents, Mapping) else {name: name for name in latents}
    if not set(chosen) <= set(quantiles):
        raise ValueError(f"Expected latents among {list(quantiles)}; got {list(chosen)}.")
    rows = np.arange(len(sensitivity.labels))
    n_panels = len(chosen) + 1
    figure = new_figure(1.2 + 2.1 * n_panels, 1.0 + 0.3 * len(rows))
    axes = figure.subplots(1, n_panels, sharey=True, squeeze=False)[0]
    for ax, (name, label) in zip(axes, chosen.items(), strict=False):
        low, median, high = np.asarray(quantiles[name]).T
        ax.axvspan(low[0], high[0], color=BAND, linewidth=0)
        ax.axvline(median[0], color="0.5", linewidth=0.8)
        ax.hlines(rows, low, high, color=COLOURS[2], linewidth=2)
        ax.plot(median, rows, MARKERS[0], color=COLOURS[0], markersize=5)
        unit = (units or {}).get(name)
        label_axes(ax, f"{label} ({unit})" if unit else label, "")
    distance = np.asarray(sensitivity.distance)
    axes[-1].hlines(rows, 0.0, distance, color=COLOURS[1], linewidth=1)
    axes[-1].plot(distance, rows, MARKERS[1], color=COLOURS[1], markersize=5)
    label_axes(axes[-1], f"distance from {sensitivity.labels[0]} (nats)", "")
    axes[0].set_yticks(rows, sensitivity.labels)
    plain_text([*axes[0].get_yticklabels(), axes[0].title])
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    axes[0].set_ylabel("prior of the latents")
    axes[0].set_title(f"median and {level:.0%} interval; grey: {sensitivity.labels[0]}", fontsize=8)
    return figure


def posterior_pairs(posterior: Any) -> Any:
    """Plots every latent against every other with ArviZ; needs ``amortized[arviz]``.

    Args:
        posterior: a `Posterior` of one dataset.
    """
    data = posterior.to_inference_data()
    import arviz

    if int(arviz.__version__.split(".")[0]) >= 1:
        return arviz.plot_pair(data)
    return arviz.plot_pair(data, scatter_kwargs={"color": COLOURS[0], "alpha": 0.3})


def histograms(
    rows: Mapping[str, Mapping[str, float]], columns: Float[Tensor, "rows draws"]
) -> Figure:
    """A histogram of every scalar with its mean and 90% interval.

    Args:
        rows: ``mean``, ``q5`` and ``q95`` of each, by its label.
        columns: their draws.
    """
    n_columns = min(4, len(rows))
    n_rows = -(-len(rows) // n_columns)
    figure = new_figure(3 * n_columns, 2.2 * n_rows)
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis, (label, row), column in zip(axes, rows.items(), columns, strict=False):
        axis.hist(column.detach().cpu().numpy(), bins=40, density=True, color="C0", alpha=0.6)
        axis.axvline(row["mean"], color="C1")
        axis.axvspan(row["q5"], row["q95"], color="C0", alpha=0.12)
        plain_text([axis.set_title(label, fontsize=9)])
        axis.set_yticks([])
    for axis in axes[len(rows) :]:
        axis.remove()
    return figure
