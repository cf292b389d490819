"""A fitted table as a network sees it: several views of it, each encoded once, read by queries.

Views differ in the order of columns, which decides how a network over cells groups them, in how
they read categories and correlated columns (``readings``), and in the rows where there are
more than it reads, or where weights draw them. Their average depends less on any of these. An
encoded view of n rows takes the memory that ``amortized.networks.tabular_pfn`` states.
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

from amortized.attention import has_fast_bfloat16
from amortized.distributions import BarDistribution
from amortized.networks.tabular_pfn import EncodedTable, TabularPFN
from amortized.tables.readings import Reading
from amortized.tables.sample_weights import resampled

# Cells of one table's views that are encoded together, and of many tables that are answered
# together: there nothing but the first call's overhead is saved, and more would leave the caches.
CELLS_AT_ONCE, CELLS_OF_MANY = 20_000, 5_000
SMALLEST_CHUNK, LARGEST_CHUNK = 8, 128  # queries that are decoded together
# Views by default: as many as have this many cells together, within bounds. Small tables cost
# little and gain most from an average.
_CELLS, _FEWEST_VIEWS, _MOST_VIEWS = 40_000, 2, 8
_MOST_WANTED = 1000  # each is a pass of the network over the table
# How many times the rows that it was trained for a network reads: on tables of 2,000 rows, networks
# trained on up to 1,000 are better for seeing all of them.
ROWS_BEYOND = 2
Network = TypeVar("Network", bound=nn.Module)
PRECISIONS = ("auto", "float32")
"""What networks over tables compute in: "auto" is bfloat16 on a CPU with instructions for it."""


def ready(network: Network, device: str) -> Network:
    """The network on the device and in evaluation mode; most often it is already.

    Args:
        network: any.
        device: where it shall run.
    """
    here = next(network.parameters()).device == torch.device(device)
    return network if here and not network.training else network.to(device).eval()


def rows_read(network: TabularPFN) -> int:
    """Most rows that a view shows a network: it extrapolates to more than it was trained for."""
    return ROWS_BEYOND * network.config.max_context


def warn_of_unread_rows(network: TabularPFN, n_rows: int, stacklevel: int = 3) -> None:
    """Warns where ``fit`` was called that each view takes only some of the table's rows.

    Args:
        network: that the rows are for.
        n_rows: of the table.
        stacklevel: as of ``warnings.warn``, 3 if ``fit`` itself calls this.
    """
    most = rows_read(network)
    if n_rows > most:
        warnings.warn(
            f"Expected at most {most} rows, which this network reads; got {n_rows}. Each of the "
            f"views takes {most} of them at random: a larger n_estimators uses more of them.",
            stacklevel=stacklevel,
        )


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
        ValueError: if the number is no positive integer.

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
    """A table under each of its views, encoded once and read by any number of queries.

    Views of one shape go through the network together. Queries are decoded in chunks of few sizes,
    the last one filled up: a row's answer is the same, at most up to rounding, however the query
    was split.

    Args:
        network: what encodes and decodes.
        reads: how each view reads the table; some may be the same object.
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
        self.network, self.reads, self.answers = network, list(reads), list(answers)
        self.precision = precision
        self._encoded: list[tuple[list[int], EncodedTable]] | None = None

    def encode(self) -> "EncodedViews":
        """Encode now what the first query would otherwise wait for."""
        if self._encoded is None:
            self._encoded = []
            for members in self._batches():
                x = _tensor(self.network, [self.reads[i].context for i in members])
                y = _tensor(self.network, [self.answers[i] for i in members])
                with torch.inference_mode(), arithmetic(self.network, self.precision):
                    self._encoded.append((members, self.network.encode(x, y).contiguous()))
        return self

    def _batches(self) -> list[list[int]]:
        """Numbers of the views that are encoded together."""
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
        """Queries as each view reads them.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        distinct = {id(read): read for read in self.reads}
        by_read = {key: read(x) for key, read in distinct.items()}
        return [by_read[id(read)] for read in self.reads]

    def masses(self, x: NDArray[np.floating]) -> Iterator[list[Tensor]]:
        """Probabilities of the classes or bars under each view, for one chunk after the other.

        Args:
            x: queries as numbers, ``(queries, columns)``.

        Yields:
            For each view ``(chunk, masses)`` in float64.
        """
        self.encode()
        for start, size in chunks_of(len(x)):
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

    Sizes are powers of two, of which matrix products treat every row in the same way.

    Args:
        n_queries: how many queries there are.

    Example:
        >>> list(chunks_of(1)), list(chunks_of(300))
        ([(0, 8)], [(0, 128), (128, 128), (256, 64)])
    """
    for start in range(0, n_queries, LARGEST_CHUNK):
        rest = max(n_queries - start, SMALLEST_CHUNK)
        yield start, min(LARGEST_CHUNK, 2 ** (rest - 1).bit_length())


def arithmetic(network: TabularPFN, precision: str) -> torch.autocast:
    """The numbers that a network computes with, as a context manager.

    Args:
        network: what computes.
        precision: one of ``PRECISIONS``.
    """
    device = network.unknown_y.device.type
    fast = precision == "auto" and device == "cpu" and has_fast_bfloat16()
    return torch.autocast(device, torch.bfloat16, enabled=fast)


def masses_together(
    asked: Sequence[tuple[EncodedViews, NDArray[np.floating]]],
) -> list[list[Tensor]]:
    """Probabilities for the queries of many tables, those of one shape in one call of the network.

    The same as ``masses`` of each up to rounding, and nothing is kept of the contexts.

    Args:
        asked: for each table its views and its queries as numbers, ``(queries, columns)``.

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
