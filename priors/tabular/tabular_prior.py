"""The base of all priors over tables: from raw columns and scores to a task.

A table prior draws smooth columns and the scores that determine the target. Here the columns become
those of a table (categories, rounding, censoring, outliers, irrelevant columns, missing cells) and
the scores become classes or a number. The steps are defined in ``columns``, ``targets`` and
``missingness``; this module defines their order.
"""

from abc import abstractmethod
from dataclasses import KW_ONLY, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from amortized.priors.prior import Prior, split
from amortized.priors.tabular.columns import draw_integer, dress, spread
from amortized.priors.tabular.missingness import drop_cells
from amortized.priors.tabular.targets import (
    compact_classes,
    draw_classes,
    draw_response,
    show_classes_in_context,
    standardise_by_context,
)
from amortized.priors.task import TaskBatch
from amortized.validation import number_between, whole_number

# With fewer rows, quantiles and scales are unreliable: more are drawn and then discarded.
_LEAST_ROWS = 64

TableDraw = tuple[Float[Tensor, "batch columns rows"], Float[Tensor, "batch scores rows"]]
"""Raw columns, and the scores that determine the target."""


@dataclass(eq=False, repr=False)
class TabularPrior(Prior):
    """A prior over classification or regression tables.

    To write a new one, implement ``_columns``, which draws raw columns and scores of any scale,
    with rows last, from torch's global generator. The steps from there to a table are inherited
    methods: ``_dress``, ``_arrange``, ``_labels``, ``_respond``.

    All tasks of a batch have the same number of columns, which is the first draw, log-uniform from
    2 to ``max_features`` or fewer if there are many rows. Class targets are numbers 0..C-1 as
    floats, C varies over tasks, and the context has a row of every class that occurs (if it has
    enough rows). Numeric targets have mean 0 and standard deviation 1 over the context.

    Args:
        target: what is predicted, 'classification' or 'regression'.
        n_features: fixed number of columns; None draws it for each batch.
        max_features: largest number of columns if ``n_features`` is None.
        max_classes: largest number of classes of a task.
        missing: fraction of tasks with missing cells (NaN).
        max_cells: largest number of cells of a table (with at least two columns) if the number of
            columns is drawn, which bounds the memory of training; None sets no limit.
    """

    units = "standardised"
    # Probability that scores determine the target without noise; rules use a higher one.
    _noiseless = 0.5

    target: str = "classification"
    _: KW_ONLY
    n_features: int | None = None
    max_features: int = 50
    max_classes: int = 10
    missing: float = 0.3
    max_cells: int | None = None

    def __post_init__(self) -> None:
        if self.target not in ("classification", "regression"):
            raise ValueError(
                f"Expected target 'classification' or 'regression'; got {self.target!r}."
            )
        if self.n_features is not None:
            self.n_features = whole_number("n_features", self.n_features)
        if self.max_cells is not None:
            self.max_cells = whole_number("max_cells", self.max_cells)
        self.max_features = whole_number("max_features", self.max_features, 2)
        self.max_classes = whole_number("max_classes", self.max_classes, 2)
        self.missing = number_between("missing", self.missing, 0, 1, least=True, most=True)

    @abstractmethod
    def _columns(self, n_tasks: int, n_features: int, n_rows: int) -> TableDraw:
        """Draws raw columns and the scores that determine the target."""

    def _dress(self, columns: Float[Tensor, "batch columns rows"]) -> Tensor:
        """Transforms smooth columns to those of a table."""
        return dress(_make_some_irrelevant(columns))

    def _arrange(self, columns: Tensor, n_context: int) -> Int[Tensor, "batch rows"] | None:
        """Order of the rows, the context first; None keeps the order."""
        return None

    def _labels(self, scores: Float[Tensor, "batch scores rows"]) -> Int[Tensor, "batch rows"]:
        """Draws classes from the scores."""
        return draw_classes(scores, self.max_classes, self._noiseless)

    def _respond(self, scores: Float[Tensor, "batch scores rows"]) -> Float[Tensor, "batch rows"]:
        """Draws numeric targets from the scores."""
        return draw_response(scores, self._noiseless / 2)

    def _sample(self, n_tasks: int, n_context: int, n_query: int) -> TaskBatch:
        n_rows = n_context + n_query
        n_features = self._draw_n_features(n_rows)
        columns, scores = self._columns(n_tasks, n_features, max(n_rows, _LEAST_ROWS))
        columns = drop_cells(self._dress(columns), self.missing)
        rows = self._arrange(columns, n_context)
        if rows is not None:
            columns, scores = (
                part.gather(-1, rows[:, None].expand_as(part)) for part in (columns, scores)
            )
        if self.target == "classification":
            labels = self._labels(scores)[:, :n_rows]
            order = show_classes_in_context(labels, n_context)
            labels, columns = labels.gather(-1, order), _reorder(columns[..., :n_rows], order)
            y = compact_classes(labels).to(columns.dtype)
        else:
            y = standardise_by_context(self._respond(scores)[:, :n_rows], n_context)
            columns = columns[..., :n_rows]
        return split(columns.transpose(1, 2).contiguous(), y, n_context)

    def _draw_n_features(self, n_rows: int) -> int:
        # Drawn even if fixed, so that all table priors use the same random numbers afterwards.
        u = float(torch.rand((), device="cpu"))
        most = self.max_features
        if self.max_cells is not None:
            most = max(2, min(most, self.max_cells // max(n_rows, 1)))
        drawn = int(2 * ((most + 1) / 2) ** u)
        return self.n_features or min(drawn, most)


def _make_some_irrelevant(columns: Tensor) -> Tensor:
    """Takes some columns from other rows: the same marginals, independent of the target.

    Rows are independent draws, so shifting a column by any number of rows makes it independent.
    Columns that are shifted together keep their dependence, as real nuisance columns do.
    """
    n_tasks, n_columns, n_rows = columns.shape
    shifted = columns.roll(draw_integer(1, n_rows - 1), -1)
    cut = torch.rand(n_tasks, n_columns) < 0.6 * spread(0.5, n_tasks)
    return torch.where(cut[..., None], shifted, columns)


def _reorder(columns: Tensor, order: Tensor) -> Tensor:
    """Applies an order of rows to the tasks in which it changes something."""
    changed = (order != torch.arange(order.shape[-1])).any(-1).nonzero()[:, 0]
    part = columns[changed]
    columns[changed] = part.gather(-1, order[changed][:, None].expand_as(part))
    return columns
