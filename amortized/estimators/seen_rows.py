"""The rows that an estimator holds, as numbers, so that ``partial_fit`` can add further ones.

A network reads a limited number of rows, and a stream has no end. What is held beyond that limit is
either a *reservoir*, in which every row seen so far has the same chance to be, or a *window* of the
latest rows, for streams whose law changes.

References:
    Random Sampling with a Reservoir (Vitter, 1985), ACM TOMS 11, algorithm R.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from amortized.tables.encoding import TableEncoder

Numbers = NDArray[np.float64]
FORGET = ("random", "oldest")
MOST_HELD = 10_000
"""Rows of a reservoir: of more than it reads a network gets a part, each view its own."""


class SeenRows(NamedTuple):
    """Rows in the order in which they came.

    Attributes:
        x: numbers of all columns, ``(rows, columns)``; missing values are NaN.
        y: answers, or numbers of classes, ``(rows,)``; several outputs are ``(rows, outputs)``.
        weight: how often each was seen, ``(rows,)``; None is once each.
    """

    x: Numbers
    y: Numbers
    weight: Numbers | None

    def table(self) -> Numbers:
        """All in one array: columns, outputs, and weights where there are any."""
        return np.column_stack((self.x, self.y, *(() if self.weight is None else (self.weight,))))

    @classmethod
    def of_table(cls, table: Numbers, n_columns: int, n_outputs: int) -> "SeenRows":
        """The rows that had this ``table()``."""
        end = n_columns + n_outputs
        y = table[:, n_columns] if n_outputs == 1 else table[:, n_columns:end]
        return cls(table[:, :n_columns], y, table[:, end] if table.shape[1] > end else None)

    def added(self, x: Numbers, y: Numbers, weight: Numbers | None) -> "SeenRows":
        """These rows and further ones.

        Args:
            x: the numbers of all rows, these first: further rows may change codes of categories.
            y: answers of the further rows.
            weight: of the further rows; None is once each.
        """
        if weight is not None or self.weight is not None:
            first = np.ones(len(self.y)) if self.weight is None else self.weight
            weight = np.concatenate((first, np.ones(len(y)) if weight is None else weight))
        return SeenRows(x, np.concatenate((self.y, y)), weight)


def check_forget(forget: Any) -> None:
    """Raises a ValueError if rows cannot be forgotten in this way."""
    if forget not in FORGET:
        raise ValueError(f"Expected forget to be one of {FORGET}; got {forget!r}.")


def rows_held(
    n_held: int, n_new: int, *, n_before: int, n_read: int, forget: str, seed: int
) -> NDArray[np.intp]:
    """Which rows are held after some were added, of the held ones and then the new ones.

    The rows of a reservoir do not depend on how the new ones were split into calls.

    Args:
        n_held: rows held so far.
        n_new: rows that were added.
        n_before: rows seen so far, without the new ones.
        n_read: most rows that the network reads, which is the window.
        forget: "random" for a reservoir, "oldest" for a window.
        seed: of the reservoir.

    Example:
        >>> rows_held(3, 2, n_before=3, n_read=4, forget="oldest", seed=0)
        array([1, 2, 3, 4])
    """
    if forget == "oldest":
        return np.arange(max(0, n_held + n_new - n_read), n_held + n_new)
    most = max(MOST_HELD, n_held)
    rows = list(range(n_held + min(n_new, most - n_held)))
    # One number of the generator for each row ever seen.
    bits = np.random.PCG64(seed).advance(n_before)
    place = np.random.Generator(bits).random(n_new) * (n_before + 1 + np.arange(n_new))
    for new in range(most - n_held, n_new):
        if place[new] < most:
            rows[int(place[new])] = n_held + new
    return np.array(rows, dtype=np.intp)


class HoldsRows:
    """Lets an estimator hold the rows that it has seen.

    Attributes:
        n_samples_seen_: how many rows ``fit`` and ``partial_fit`` have seen.
    """

    forget: str
    encoder_: TableEncoder
    n_features_in_: int
    n_samples_seen_: int
    _seen: Numbers
    _views_seed: int
    _weighted: bool
    _n_outputs: int = 1

    def _held(self) -> SeenRows:
        """The rows that are there."""
        if not hasattr(self, "_seen"):
            raise ValueError(
                "Expected an estimator that holds its rows; got one from a file of an older "
                "version, to which none can be added. Fit it again, to all rows."
            )
        return SeenRows.of_table(self._seen, self.n_features_in_, self._n_outputs)

    def _hold(self, rows: SeenRows, n_read: int, *, further: bool) -> None:
        """Hold these rows, of which the last ones may be further ones.

        Args:
            rows: those that were held, if any, and the new ones.
            n_read: most rows that the network reads.
            further: whether rows were held before.
        """
        if rows.y.ndim == 2:
            self._n_outputs = rows.y.shape[1]
        else:
            self.__dict__.pop("_n_outputs", None)
        table, n_held = rows.table(), len(self._seen) if further else 0
        n_new, n_before = len(table) - n_held, self.n_samples_seen_ if further else 0
        if further:
            table = table[
                rows_held(
                    n_held,
                    n_new,
                    n_before=n_before,
                    n_read=n_read,
                    forget=self.forget,
                    seed=self._views_seed,
                )
            ]
        self._seen, self.n_samples_seen_ = table, n_before + n_new
        self._weighted = rows.weight is not None

    def _read_columns(
        self, columns: list[Any], y: NDArray[Any], weight: Numbers | None, *, further: bool
    ) -> tuple[TableEncoder, SeenRows]:
        """How a table is read now, and all rows as its numbers; nothing of the estimator changes.

        Args:
            columns: of the new rows.
            y: answers, or numbers of classes, of the new rows.
            weight: of the new rows; None is once each.
            further: whether the new rows are added to those that are held.
        """
        y = y.astype(np.float64)
        if not further:
            encoder = TableEncoder()
            return encoder, SeenRows(encoder.read(columns), y, weight)
        before, encoder = self._held(), TableEncoder.from_state(self.encoder_.state())
        return encoder, before.added(encoder.read(columns, before.x), y, weight)
