"""A preview of a prior of series: a figure of some of its draws."""

from typing import TYPE_CHECKING, Any

from amortized.priors.prior import Prior

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:  # Matplotlib loads when something is drawn
    Figure = Any


def preview(
    prior: Prior, *, n_series: int = 12, n_context: int = 120, n_query: int = 24, seed: int = 0
) -> Figure:
    """Draws series and plots them, with context and query in different colours.

    Args:
        prior: such as a `SeriesPrior`, whose first column of x is time.
        n_series: how many.
        n_context: values seen.
        n_query: values asked.
        seed: seed of the draws.

    Example:
        >>> from amortized.priors.series.series_prior import SeriesPrior
        >>> len(preview(SeriesPrior(), n_series=4).axes)
        4
    """
    from matplotlib.figure import Figure

    n_columns = min(n_series, 4)
    n_rows = -(-n_series // n_columns)
    figure = Figure(figsize=(3 * n_columns, 1.8 * n_rows), layout="constrained")
    for i in range(n_series):
        batch = prior.sample(1, n_context, n_query, seed=seed + i)  # a period of its own
        ax = figure.add_subplot(n_rows, n_columns, i + 1)
        ax.plot(batch.x_context[0, :, 0], batch.y_context[0], lw=0.8)
        ax.plot(batch.x_query[0, :, 0], batch.y_query[0], ".", ms=3)
        periods = [f"{p:g}" for p in batch.x_context[0, 0, 1:].tolist() if p > 1]
        ax.set_title("period " + " and ".join(periods) if periods else "no period", fontsize=8)
        ax.tick_params(labelsize=7)
    return figure
