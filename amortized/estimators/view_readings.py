r"""How a view reads a table's numbers: its columns in an order, codes renamed, directions.

The codes of categories without an order are numbers all the same, and a network may see a pattern
in them; it sees another one where they are renamed at random. Columns that nearly agree hide in
their differences what a network over single columns must find in their last digits; *directions*
are the principal components of the standardised columns, and standardised again by the network
they are whitened: a small difference is as large as a common trend.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.floating]
# Renamed codes, directions; the views take these in turn.
KINDS: tuple[tuple[bool, bool], ...] = ((False, False), (True, True))
# Directions are read where two columns correlate so much: elsewhere they only mix what differs.
CORRELATED = 0.6
# Components of a smaller share of the largest one's variance are rounding.
_LEAST_SHARE = 1e-9


class Reading:
    """How one view reads numbers, learned from a table.

    Args:
        x: the table as numbers, ``(rows, columns)``; missing values are NaN.
        columns: those to be read, in their order.
        unordered: which of the table's columns are categories without an order.
        kind: whether codes are renamed, and whether directions are read.
        random_state: renames.

    Example:
        >>> x = np.array([[1.0, 7.0], [2.0, 7.5], [3.0, np.nan]])
        >>> nothing = np.zeros(2, dtype=bool)
        >>> Reading(x, np.array([1, 0]), nothing, (False, False), np.random.RandomState(0))(x[:1])
        array([[7., 1.]])
    """

    def __init__(
        self,
        x: Numbers,
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        kind: tuple[bool, bool],
        random_state: np.random.RandomState,
    ) -> None:
        self.columns = columns
        renamed, directions = kind
        self._names: list[tuple[int, Numbers, Numbers]] = []
        codes = np.flatnonzero(unordered[columns])
        for place in codes if renamed else ():
            levels = np.unique(x[:, columns[place]])
            levels = levels[~np.isnan(levels)]
            if len(levels) > 2:
                names = random_state.permutation(len(levels)).astype(np.float64)
                self._names.append((int(place), levels, names))
        self._measured = np.flatnonzero(~unordered[columns])
        self._axes: Numbers | None = None
        if directions and len(self._measured) > 1 and len(x) > 2:
            self._learn_directions(x[:, columns[self._measured]].astype(np.float64))

    def _learn_directions(self, x: Numbers) -> None:
        known = ~np.isnan(x)
        count = np.maximum(known.sum(0), 1)
        self._mean = np.where(known, x, 0.0).sum(0) / count
        centred = np.where(known, x - self._mean, 0.0)
        scale = np.sqrt(np.square(centred).sum(0) / count)
        self._scale = np.where(scale > 0, scale, 1.0)
        z = centred / self._scale
        correlation = np.abs(z.T @ z) / len(z)
        if np.max(correlation - np.diag(np.diag(correlation))) < CORRELATED:
            return
        # Of the shorter side of the matrix there are fewer directions than rows.
        _, size, axes = np.linalg.svd(z, full_matrices=False)
        self._axes = axes[np.square(size) > _LEAST_SHARE * np.square(size[0])].T

    def __call__(self, x: Numbers) -> NDArray[np.float64]:
        """Numbers as this view reads them, ``(rows, columns read)``."""
        read = x[:, self.columns].astype(np.float64)
        for place, levels, names in self._names:
            known = ~np.isnan(read[:, place])
            at = np.searchsorted(levels, read[known, place].astype(levels.dtype))
            read[known, place] = names[np.minimum(at, len(levels) - 1)]
        if self._axes is None:
            return read
        measured = read[:, self._measured]
        centred = np.where(np.isnan(measured), 0.0, measured - self._mean) / self._scale
        return np.concatenate((centred @ self._axes, np.delete(read, self._measured, 1)), 1)


def readings(
    x: Numbers,
    orders: Sequence[NDArray[np.intp]],
    unordered: NDArray[np.bool_],
    random_state: np.random.RandomState,
    n_turns: int = 1,
) -> list[Reading]:
    """How each of several views reads a table: the first as it is, then by ``KINDS`` in turn.

    Args:
        x: the table as numbers, ``(rows, columns)``.
        orders: of the columns of each view.
        unordered: which of the table's columns are categories without an order.
        random_state: renames.
        n_turns: how many views in a row share a kind.
    """
    return [
        Reading(x, columns, unordered, KINDS[number // n_turns % len(KINDS)], random_state)
        for number, columns in enumerate(orders)
    ]
