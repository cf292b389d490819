"""A fitted table as a network sees it: several views of it, each encoded once, read by queries.

Views differ in the order of columns, which decides how a network over cells groups them, and,
where there are more rows than it was trained for, in the rows. Their average depends less on
either. An encoded view of n rows takes the memory that ``amortized.networks.tabular_pfn`` states.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.distributions import Categorical

from amortized.distributions import BarDistribution
from amortized.networks.tabular_pfn import EncodedTable, TabularPFN

# Queries are decoded in chunks of one size, the last one filled up: one shape, one order of
# summation, and so one answer for a row, however the query was split.
QUERY_CHUNK = 128


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
) -> list[View]:
    """Draw views of a table: the first in the table's own order, the others shuffled.

    Args:
        n_views: how many are wanted; equal ones are not made twice.
        strata: a number for each row; every stratum keeps a row in each view if there is room.
        columns: the columns to be seen.
        max_rows: most rows of a view.
        random_state: shuffles.
    """
    n_rows = len(strata)
    if n_rows <= max_rows and len(columns) == 1:
        n_views = 1
    views = []
    for number in range(n_views):
        order = columns if number == 0 else random_state.permutation(columns)
        rows = np.arange(n_rows)
        if n_rows > max_rows:
            rows = random_state.permutation(n_rows)
            # The first row of each stratum goes to the front.
            first = np.unique(strata[rows], return_index=True)[1]
            rows = np.concatenate((rows[first], np.delete(rows, first)))
            rows = np.sort(rows[:max_rows])
        views.append(View(rows, order))
    return views


class EncodedViews:
    """A table encoded under each of its views.

    Args:
        network: what encodes and decodes.
        x: the table as numbers, ``(rows, columns)``.
        y: its answers as the network wants them, ``(rows,)``.
        views: ways of looking at it.
    """

    def __init__(
        self,
        network: TabularPFN,
        x: NDArray[np.floating],
        y: NDArray[np.floating],
        views: list[View],
    ) -> None:
        self.network, self.views = network, views
        self._contexts: list[EncodedTable] = []
        with torch.inference_mode():
            for rows, columns in views:
                x_context = self._tensor(x[np.ix_(rows, columns)])
                self._contexts.append(network.encode(x_context, self._tensor(y[rows])))

    def _tensor(self, values: NDArray[np.floating]) -> torch.Tensor:
        device = self.network.unknown_y.device
        return torch.as_tensor(values, dtype=torch.float32, device=device).unsqueeze(0)

    def predictives(self, x: NDArray[np.float64]) -> Iterator[list[Categorical | BarDistribution]]:
        """The predictives of all views, for one chunk of queries after the other.

        Args:
            x: queries as numbers, ``(queries, columns)``; the last chunk is filled up with rows
                of zeros, whose answers the caller drops.
        """
        padded = np.pad(x, ((0, -len(x) % QUERY_CHUNK), (0, 0)))
        for start in range(0, len(padded), QUERY_CHUNK):
            chunk = padded[start : start + QUERY_CHUNK]
            with torch.inference_mode():
                yield [
                    self.network.decode(context, self._tensor(chunk[:, view.columns]))
                    for context, view in zip(self._contexts, self.views, strict=True)
                ]

    def mean_masses(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of the classes or bars, averaged over the views, ``(queries, masses)``."""
        means = [
            torch.stack([predictive.logits[0].double().softmax(-1) for predictive in chunk]).mean(0)
            for chunk in self.predictives(x)
        ]
        return torch.cat(means)[: len(x)].cpu().numpy()
