"""Views of a table: variants of the network's input, encoded once and averaged over.

Views differ in the order of columns, which determines how a network over cells groups them, in the
representation of categories and correlated columns (``readings``), and in the rows, if there are
more than the network reads or if they are drawn by weight. Averaging reduces the dependence on
these choices. ``amortized.networks.tabular_pfn`` states the memory of an encoded view.
"""

import warnings
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributions import Categorical

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks.layers.attention import has_fast_bfloat16
from amortized.networks.tabular_pfn import EncodedTable, TabularPFN
from amortized.progress import with_progress
from amortized.tables.readings import Reading
from amortized.tables.sample_weights import resampled

# Largest number of cells of views of one table that are encoded together, and of several tables
# that are predicted together; more would save little overhead and exceed the caches.
CELLS_AT_ONCE, CELLS_OF_MANY = 20_000, 5_000
SMALLEST_CHUNK, LARGEST_CHUNK = 8, 128  # queries that are decoded together
# By default, the number of views is such that they have this many cells in total, within bounds:
# averages are inexpensive for small tables, which gain most from them.
_CELLS, _FEWEST_VIEWS, _MOST_VIEWS = 40_000, 2, 8
_MOST_WANTED = 1000  # each takes a forward pass over the table
# Ratio of the largest number of rows in prediction to that in training: networks extrapolate to
# somewhat longer tables.
ROWS_BEYOND = 2
Network = TypeVar("Network", bound=nn.Module)
PRECISIONS = ("auto", "float32")
"""Precision of networks over tables: "auto" is bfloat16 on CPUs that support it."""


def ready(network: Network, device: str) -> Network:
    """Moves a network to a device and sets evaluation mode, if necessary.

    Args:
        network: any network.
        device: device on which it is to run.
    """
    here = next(network.parameters()).device == torch.device(device)
    return network if here and not network.training else network.to(device).eval()


def rows_read(network: TabularPFN) -> int:
    """Largest number of rows of a view, which may exceed that of training."""
    return ROWS_BEYOND * network.config.max_context


def warn_of_unread_rows(network: TabularPFN, n_rows: int, stacklevel: int = 3) -> None:
    """Warns that each view uses only a part of the table's rows.

    Args:
        network: the network.
        n_rows: number of rows of the table.
        stacklevel: as for ``warnings.warn``; 3 if called by ``fit``.
    """
    most = rows_read(network)
    if n_rows > most:
        warnings.warn(
            f"Expected at most {most} rows, which this network reads; got {n_rows}. Each view uses "
            f"{most} random rows: a larger n_estimators uses more of them.",
            stacklevel=stacklevel,
        )


def check_precision(precision: str) -> None:
    """Raises a ValueError for an unknown precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"Expected precision 'auto' or 'float32'; got {precision!r}.")


def number_of_views(wanted: int | None, n_rows: int, n_columns: int, max_rows: int) -> int:
    """The number of views, by default fewer for larger tables.

    Args:
        wanted: requested number; None for the default.
        n_rows: number of rows of the table.
        n_columns: number of columns to be used.
        max_rows: largest number of rows of a view.

    Raises:
        ValueError: if the number is not a positive integer.

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
    """Rows and ordered columns of a view."""

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
    """Draws views of a table, the first with columns in the given order, the others shuffled.

    Args:
        n_views: number of views; duplicates are left out.
        strata: stratum of each row; each stratum has a row in every view if possible.
        columns: the columns to be used.
        max_rows: largest number of rows of a view.
        random_state: random state.
        weight: weights of the rows, ``(rows,)``; None uses each row once.
        n_kinds: number of consecutive views that differ in other respects and may share rows and
            columns.
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
            # The first row of each stratum is moved to the front.
            first = np.unique(strata[rows], return_index=True)[1]
            rows = np.concatenate((rows[first], np.delete(rows, first)))[:max_rows]
        views.append(View(np.sort(rows), order))
    return views


def _with_every_stratum(
    rows: NDArray[np.intp], strata: NDArray[np.intp], weight: NDArray[np.float64]
) -> NDArray[np.intp]:
    """Adds the row with the largest weight of each stratum that is not represented."""
    heaviest = np.argsort(-weight, kind="stable")
    first = heaviest[np.unique(strata[heaviest], return_index=True)[1]]
    return np.concatenate((first[~np.isin(strata[first], strata[rows])], rows))


class EncodedViews:
    """The views of a table, encoded once and used by any number of queries.

    Views of equal shape are passed through the network together. Queries are decoded in chunks of
    few sizes, with padding, so that predictions do not depend on how queries are split, up to
    rounding.

    Args:
        network: the network.
        reads: representation used by each view; some may be the same object.
        answers: targets of the rows of each view, in the form that the network expects.
        precision: one of ``PRECISIONS``.
    """

    def __init__(
        self,
        network: TabularPFN,
        reads: Sequence[Reading],
        answers: Sequence[NDArray[np.floating]],
        precision: str,
    ) -> None:
        self.network, self.reads, self.answers = network, list(reads), list(answers)
        self.precision = precision
        self._encoded: list[tuple[list[int], EncodedTable]] | None = None

    def encode(self) -> "EncodedViews":
        """Encodes all views, which otherwise happens at the first query."""
        if self._encoded is None:
            self._encoded = []
            for members in self._batches():
                x = _tensor(self.network, [self.reads[i].context for i in members])
                y = _tensor(self.network, [self.answers[i] for i in members])
                with torch.inference_mode(), arithmetic(self.network, self.precision):
                    self._encoded.append((members, self.network.encode(x, y).contiguous()))
        return self

    def _batches(self) -> list[list[int]]:
        """Indices of the views that are encoded together."""
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for number, read in enumerate(self.reads):
            by_shape.setdefault(read.context.shape, []).append(number)
        return [
            members[start : start + size]
            for (n_rows, n_columns), members in by_shape.items()
            for size in [max(1, CELLS_AT_ONCE // max(1, n_rows * n_columns))]
            for start in range(0, len(members), size)
        ]

    def read(self, x: NDArray[np.floating]) -> list[NDArray[np.float64]]:
        """Queries in the representation of each view.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        distinct = {id(read): read for read in self.reads}
        by_read = {key: read(x) for key, read in distinct.items()}
        return [by_read[id(read)] for read in self.reads]

    def masses(self, x: NDArray[np.floating]) -> Iterator[list[Tensor]]:
        """Probabilities of the classes or bars under each view, chunk by chunk.

        Args:
            x: queries as numbers, ``(queries, columns)``.

        Yields:
            For each view ``(chunk, masses)`` in float64.
        """
        self.encode()
        for start, size in with_progress(list(chunks_of(len(x))), "predicting", "chunk"):
            part = x[start : start + size]
            by_view = self.read(np.pad(part, ((0, size - len(part)), (0, 0))))
            found: list[Any] = [None] * len(self.reads)
            for members, context in self._encoded or ():
                asked = _tensor(self.network, [by_view[i] for i in members])
                with torch.inference_mode(), arithmetic(self.network, self.precision):
                    masses = _masses(self.network.decode(context, asked))
                for place, number in enumerate(members):
                    found[number] = masses[place, : len(part)]
            yield found


def chunks_of(n_queries: int) -> Iterator[tuple[int, int]]:
    """Start and size of the chunks in which queries are decoded.

    Sizes are powers of two, for which matrix products treat every row in the same way.

    Args:
        n_queries: number of queries.

    Example:
        >>> list(chunks_of(1)), list(chunks_of(300))
        ([(0, 8)], [(0, 128), (128, 128), (256, 64)])
    """
    for start in range(0, n_queries, LARGEST_CHUNK):
        rest = max(n_queries - start, SMALLEST_CHUNK)
        yield start, min(LARGEST_CHUNK, 2 ** (rest - 1).bit_length())


def arithmetic(network: TabularPFN, precision: str) -> torch.autocast:
    """Context manager that sets the precision of a network.

    Args:
        network: the network.
        precision: one of ``PRECISIONS``.
    """
    device = network.unknown_y.device.type
    fast = precision == "auto" and device == "cpu" and has_fast_bfloat16()
    return torch.autocast(device, torch.bfloat16, enabled=fast)


def masses_together(
    asked: Sequence[tuple[EncodedViews, NDArray[np.floating]]],
) -> list[list[Tensor]]:
    """Probabilities for the queries of many tables, with one call for tables of equal shape.

    The result equals ``masses`` of each table up to rounding; encoded contexts are not kept.

    Args:
        asked: views and queries, as numbers ``(queries, columns)``, of each table.

    Returns:
        For each table and view ``(queries, masses)`` in float64.
    """
    found: list[list[Any]] = [[None] * len(views.reads) for views, _ in asked]
    buckets: dict[Any, list[tuple[int, int]]] = {}
    read = [views.read(x) for views, x in asked]
    for table, (views, x) in enumerate(asked):
        for number, reading in enumerate(views.reads):
            shape = (*reading.context.shape, len(x), id(views.network), views.precision)
            buckets.setdefault(shape, []).append((table, number))
    for (n_rows, n_columns, n_queries, *_), places in buckets.items():
        size = max(1, CELLS_OF_MANY // max(1, (n_rows + n_queries) * n_columns))
        network, precision = asked[places[0][0]][0].network, asked[places[0][0]][0].precision
        for start in range(0, len(places), size):
            batch = places[start : start + size]
            contexts = [asked[table][0].reads[number].context for table, number in batch]
            answers = [asked[table][0].answers[number] for table, number in batch]
            queries = [read[table][number] for table, number in batch]
            tensors = (_tensor(network, values) for values in (contexts, answers, queries))
            with torch.inference_mode(), arithmetic(network, precision):
                masses = _masses(network(*tensors))
            for place, (table, number) in enumerate(batch):
                found[table][number] = masses[place]
    return found


def _tensor(network: TabularPFN, values: Sequence[NDArray[np.floating]]) -> Tensor:
    stacked = np.stack(values)
    return torch.as_tensor(stacked, dtype=torch.float32, device=network.unknown_y.device)


def _masses(predictive: Categorical | BarDistribution) -> Tensor:
    return predictive.logits.double().softmax(-1).cpu()
