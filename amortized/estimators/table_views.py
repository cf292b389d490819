"""A fitted table as a network sees it: several views of it, each encoded once, read by queries.

Views differ in the order of columns, which decides how a network over cells groups them, in how
they read categories and correlated columns (``view_readings``), and in the rows where there are
more than it reads, or where weights draw them. Their average depends less on any of these. An
encoded view of n rows takes the memory that ``amortized.networks.tabular_pfn`` states.
"""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from amortized.attention import has_fast_bfloat16
from amortized.estimators.sample_weights import resampled
from amortized.estimators.view_readings import Reading
from amortized.networks.tabular_pfn import EncodedTable, TabularPFN

# Queries are decoded in chunks of one size, the last one filled up: one shape, one order of
# summation, and so one answer for a row, however the query was split.
QUERY_CHUNK = 128
# Views by default: as many as have this many cells together, within bounds. Small tables cost
# little and gain most from an average.
_CELLS, _FEWEST_VIEWS, _MOST_VIEWS = 40_000, 2, 8
_MOST_WANTED = 1000  # each is a pass of the network over the table
# How many times the rows that it was trained for a network reads: on tables of 2,000 rows, networks
# trained on up to 1,000 are better for seeing all of them.
ROWS_BEYOND = 2
PRECISIONS = ("auto", "float32")
"""What networks over tables compute in: "auto" is bfloat16 on a CPU with instructions for it."""


def rows_read(network: TabularPFN) -> int:
    """Most rows that a view shows a network: it extrapolates to more than it was trained for."""
    return ROWS_BEYOND * network.config.max_context


def check_precision(precision: str) -> None:
    """Raises a ValueError if there is none of this name."""
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision 'auto' or 'float32'; got {precision!r}.")


def number_of_views(wanted: int | None, n_rows: int, n_columns: int, max_rows: int) -> int:
    """How many views to make: the wanted number, or by default fewer of a larger table.

    Args:
        wanted: None is the default.
        n_rows: of the table.
        n_columns: to be looked at.
        max_rows: most rows of a view.

    Raises:
        ValueError: if the number is no positive integer, or too large.

    Example:
        >>> [number_of_views(None, n, 20, 1000) for n in (100, 1_000, 10_000)]
        [8, 2, 2]
    """
    if wanted is None:
        n_cells = max(1, min(n_rows, max_rows) * n_columns)
        return int(np.clip(_CELLS // n_cells, _FEWEST_VIEWS, _MOST_VIEWS))
    if not isinstance(wanted, Integral) or not 1 <= wanted <= _MOST_WANTED:
        raise ValueError(
            f"Expected n_estimators to be an integer >= 1, at most {_MOST_WANTED}, or None; got "
            f"{wanted!r:.99}."
        )
    return int(wanted)


class View(NamedTuple):
    """One way of looking at a table: which rows, and which columns in which order."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]


def draw_views(
    n_views: int,
    strata: NDArray[np.intp],
    columns: NDArray[np.intp],
    max_rows: int,
    random_state: np.random.RandomState,
    weight: NDArray[np.float64] | None = None,
    n_kinds: int = 1,
) -> list[View]:
    """Draw views of a table: the first with the columns in their own order, the others shuffled.

    Args:
        n_views: how many are wanted; equal ones are not made twice.
        strata: a number for each row; every stratum keeps a row in each view if there is room.
        columns: the columns to be seen.
        max_rows: most rows of a view.
        random_state: shuffles.
        weight: by which rows are drawn, ``(rows,)``; None takes each once.
        n_kinds: how many views in a row differ by something else than rows and columns.
    """
    if weight is None and len(strata) <= max_rows and len(columns) == 1:
        n_views = min(n_views, n_kinds)
    views = []
    for number in range(n_views):
        order = columns if number == 0 else random_state.permutation(columns)
        rows = np.arange(len(strata))
        if weight is not None:
            rows = _with_every_stratum(resampled(weight, random_state), strata, weight)
        if len(rows) > max_rows:
            rows = random_state.permutation(rows)
            # The first row of each stratum goes to the front.
            first = np.unique(strata[rows], return_index=True)[1]
            rows = np.concatenate((rows[first], np.delete(rows, first)))[:max_rows]
        views.append(View(np.sort(rows), order))
    return views


def _with_every_stratum(
    rows: NDArray[np.intp], strata: NDArray[np.intp], weight: NDArray[np.float64]
) -> NDArray[np.intp]:
    """The rows, and of each stratum that has none the heaviest row."""
    heaviest = np.argsort(-weight, kind="stable")
    first = heaviest[np.unique(strata[heaviest], return_index=True)[1]]
    return np.concatenate((first[~np.isin(strata[first], strata[rows])], rows))


class EncodedViews:
    """A table encoded under each of its views.

    Args:
        network: what encodes and decodes.
        reads: how each view reads the table.
        answers: for each view, those of its rows as the network wants them.
        precision: one of ``PRECISIONS``.
    """

    def __init__(
        self,
        network: TabularPFN,
        reads: Sequence[Reading],
        answers: Sequence[NDArray[np.floating]],
        precision: str,
    ) -> None:
        self.network, self.reads, self.precision = network, reads, precision
        self._contexts: list[EncodedTable] = []
        with torch.inference_mode(), self._arithmetic():
            for read, y in zip(reads, answers, strict=True):
                context, known = self._tensor(read.context), self._tensor(y)
                self._contexts.append(network.encode(context, known))

    def _arithmetic(self) -> torch.autocast:
        """The numbers that the network computes with."""
        device = self.network.unknown_y.device.type
        fast = self.precision == "auto" and device == "cpu" and has_fast_bfloat16()
        return torch.autocast(device, torch.bfloat16, enabled=fast)

    def _tensor(self, values: NDArray[np.floating]) -> Tensor:
        device = self.network.unknown_y.device
        return torch.as_tensor(values, dtype=torch.float32, device=device).unsqueeze(0)

    def masses(self, x: NDArray[np.floating]) -> Iterator[list[Tensor]]:
        """Probabilities of the classes or bars under each view, for one chunk after the other.

        Args:
            x: queries as numbers, ``(queries, columns)``.

        Yields:
            For each view ``(chunk, masses)`` in float64.
        """
        padded = np.pad(x, ((0, -len(x) % QUERY_CHUNK), (0, 0)))
        for start in range(0, len(x), QUERY_CHUNK):
            chunk = padded[start : start + QUERY_CHUNK]
            with torch.inference_mode(), self._arithmetic():
                predictives = [
                    self.network.decode(context, self._tensor(read(chunk)))
                    for context, read in zip(self._contexts, self.reads, strict=True)
                ]
            n_asked = len(x) - start
            yield [p.logits[0, :n_asked].double().softmax(-1).cpu() for p in predictives]
