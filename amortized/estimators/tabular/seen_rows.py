"""The rows stored by an estimator, as numbers, so that ``partial_fit`` can add new ones.

A network reads a limited number of rows. Of a longer stream, an estimator stores either a
*reservoir*, a uniform random sample of all rows seen so far, or a *window* of the latest rows, for
streams whose distribution changes.

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
"""Size of a reservoir; if the network reads fewer rows, each view uses its own part."""


class SeenRows(NamedTuple):
    """Rows in the order in which they arrived.

    Attributes:
        x: encoded columns, ``(rows, columns)``; missing values are NaN.
        y: targets, or class indices, ``(rows,)``; several outputs are ``(rows, outputs)``.
        weight: number of observations of each row, ``(rows,)``; None is one each.
    """

    x: Numbers
    y: Numbers
    weight: Numbers | None

    def table(self) -> Numbers:
        """All values in one array: columns, outputs, and weights if there are any."""
        return np.column_stack((self.x, self.y, *(() if self.weight is None else (self.weight,))))

    @classmethod
    def of_table(cls, table: Numbers, n_columns: int, n_outputs: int) -> "SeenRows":
        """The inverse of ``table()``."""
        end = n_columns + n_outputs
        y = table[:, n_columns] if n_outputs == 1 else table[:, n_columns:end]
        return cls(table[:, :n_columns], y, table[:, end] if table.shape[1] > end else None)

    def added(self, x: Numbers, y: Numbers, weight: Numbers | None) -> "SeenRows":
        """These rows followed by new ones.

        Args:
            x: encoded columns of all rows, because new rows may change codes of categories.
            y: targets of the new rows.
            weight: number of observations of each new row; None is one each.
        """
        if weight is not None or self.weight is not None:
            first = np.ones(len(self.y)) if self.weight is None else self.weight
            weight = np.concatenate((first, np.ones(len(y)) if weight is None else weight))
        return SeenRows(x, np.concatenate((self.y, y)), weight)


def check_forget(forget: Any) -> None:
    """Raises a ValueError for an unknown option."""
    if forget not in FORGET:
        raise ValueError(f"Expected forget to be one of {FORGET}; got {forget!r}.")


def rows_held(
    n_held: int, n_new: int, *, n_before: int, n_read: int, forget: str, seed: int
) -> NDArray[np.intp]:
    """Indices of the rows to be stored, among stored rows followed by new rows.

    The rows of a reservoir do not depend on how new rows are split into calls.

    Args:
        n_held: number of stored rows.
        n_new: number of new rows.
        n_before: number of rows seen before the new ones.
        n_read: largest number of rows that the network reads, the size of the window.
        forget: "random" for a reservoir, "oldest" for a window.
        seed: seed of the reservoir.

    Example:
        >>> rows_held(3, 2, n_before=3, n_read=4, forget="oldest", seed=0)
        array([1, 2, 3, 4])
    """
    if forget == "oldest":
        return np.arange(max(0, n_held + n_new - n_read), n_held + n_new)
    most = max(MOST_HELD, n_held)
    rows = list(range(n_held + min(n_new, most - n_held)))
    # Each row ever seen consumes one random number.
    bits = np.random.PCG64(seed).advance(n_before)
    place = np.random.Generator(bits).random(n_new) * (n_before + 1 + np.arange(n_new))
    for new in range(most - n_held, n_new):
        if place[new] < most:
            rows[int(place[new])] = n_held + new
    return np.array(rows, dtype=np.intp)


class HoldsRows:
    """Base of estimators that store the rows they have seen.

    Attributes:
        n_samples_seen_: number of rows seen by ``fit`` and ``partial_fit``.
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
        """The stored rows."""
        if not hasattr(self, "_seen"):
            raise ValueError(
                "Expected an estimator that stores its rows; got one from a file of an older "
                "version, to which none can be added. Fit it again to all rows."
            )
        return SeenRows.of_table(self._seen, self.n_features_in_, self._n_outputs)

    def _hold(self, rows: SeenRows, n_read: int, *, further: bool) -> None:
        """Stores rows.

        Args:
            rows: the stored rows, if any, followed by new ones.
            n_read: largest number of rows that the network reads.
            further: whether rows were stored before.
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
        """The encoder updated by new rows, and all rows encoded by it, without side effects.

        Args:
            columns: columns of the new rows.
            y: targets, or class indices, of the new rows.
            weight: number of observations of each new row; None is one each.
            further: whether the new rows are added to the stored ones.
        """
        y = y.astype(np.float64)
        if not further:
            encoder = TableEncoder()
            return encoder, SeenRows(encoder.read(columns), y, weight)
        before, encoder = self._held(), TableEncoder.from_state(self.encoder_.state())
        return encoder, before.added(encoder.read(columns, before.x), y, weight)
