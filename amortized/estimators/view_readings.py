r"""How a view reads a table's numbers: as they are, or the same told otherwise.

The codes of categories without an order are numbers all the same, and a network may see a pattern
in them; it sees another one where they are renamed at random. Of a category with many levels, the
mean answer of its level says at once what a network has to gather from few rows; in the context it
is that of the other rows of the level, in five folds. Columns that nearly agree hide in their
differences what a network over single columns must find in their last digits; *directions* are the
principal components of the standardised columns, and standardised again by the network they are
whitened: a small difference is as large as a common trend.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from amortized.estimators.directions import Directions
from amortized.estimators.level_means import LevelMeans

Numbers = NDArray[np.floating]
# Directions are read where two columns correlate so much: elsewhere they only mix what differs.
CORRELATED = 0.6
# Categories of more levels have the mean answers of these beside them.
MANY_LEVELS = 8


class Kind(NamedTuple):
    """What a view reads otherwise than as it is."""

    renamed: bool = False
    turned: bool = False
    means: bool = False


PLAIN = Kind()
KINDS: tuple[Kind, ...] = (PLAIN, Kind(True, True, True))
"""The views take these in turn."""


class Reading:
    """How one view reads numbers, learned from its rows.

    Args:
        x: the rows as numbers, ``(rows, columns)``; missing values are NaN.
        target: their answers, or an indicator of each class, ``(rows, outputs)``.
        columns: those to be read, in their order.
        unordered: which of the table's columns are categories without an order.
        kind: what is read otherwise.
        random_state: renames, and makes folds.

    Attributes:
        context: the rows as the view reads them.
        is_plain: whether there is nothing that the view reads otherwise, but for names.

    Example:
        >>> x, y = np.array([[1.0, 7.0], [2.0, 7.5], [3.0, np.nan]]), np.zeros((3, 1))
        >>> nothing = np.zeros(2, dtype=bool)
        >>> Reading(x, y, np.array([1, 0]), nothing, PLAIN, np.random.RandomState(0))(x[:1])
        array([[7., 1.]])
    """

    def __init__(
        self,
        x: Numbers,
        target: NDArray[np.float64],
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        kind: Kind,
        random_state: np.random.RandomState,
    ) -> None:
        self.columns = columns
        self._names: list[tuple[int, Numbers, Numbers]] = []
        self._means: list[tuple[int, LevelMeans]] = []
        folds = random_state.randint(5, size=len(x))
        for place in np.flatnonzero(unordered[columns]):
            levels = np.unique(x[:, columns[place]])
            levels = levels[~np.isnan(levels)]
            if kind.renamed and len(levels) > 2:
                names = random_state.permutation(len(levels)).astype(np.float64)
                self._names.append((int(place), levels, names))
            if kind.means and len(levels) > MANY_LEVELS:
                column = int(columns[place])
                self._means.append((column, LevelMeans(x[:, column], target, folds)))
        self._measured = np.flatnonzero(~unordered[columns])
        self._directions: Directions | None = None
        if kind.turned and len(self._measured) > 1 and len(x) > 2:
            found = Directions(x[:, columns[self._measured]].astype(np.float64))
            self._directions = found if found.correlation > CORRELATED else None
        self.context = self._read(x, [means.context for _, means in self._means])
        self.is_plain = self._directions is None and not self._means

    def __call__(self, x: Numbers) -> NDArray[np.float64]:
        """Other rows as this view reads them, ``(rows, columns read)``."""
        return self._read(x, [means(x[:, column]) for column, means in self._means])

    def _read(self, x: Numbers, means: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        read = x[:, self.columns].astype(np.float64)
        for place, levels, names in self._names:
            known = ~np.isnan(read[:, place])
            at = np.searchsorted(levels, x[known, self.columns[place]].astype(levels.dtype))
            read[known, place] = names[np.minimum(at, len(levels) - 1)]
        if self._directions is not None:
            turned = self._directions(read[:, self._measured])
            read = np.concatenate((turned, np.delete(read, self._measured, 1)), 1)
        return np.concatenate((read, *means), 1)


def reading_kinds(n_views: int, n_turns: int = 1) -> list[Kind]:
    """The kind of each view: ``KINDS`` in turn, not in step with what else takes turns.

    Args:
        n_views: how many views there are.
        n_turns: of what else the views take in turn.

    Example:
        >>> [kind.turned for kind in reading_kinds(4)]
        [False, True, False, True]
        >>> [kind.turned for kind in reading_kinds(4, n_turns=2)]
        [False, True, True, False]
    """
    shift = 0 if n_turns == 1 else 1
    return [KINDS[(view + shift * (view // n_turns)) % len(KINDS)] for view in range(n_views)]
