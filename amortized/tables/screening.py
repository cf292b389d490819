r"""Selection of columns of a wide table: those associated with the target, alone or in pairs.

Among hundreds of columns some are correlated with the target by chance, and a network that sees
only these would overfit. Therefore only columns with evidence for an association are kept. Let
:math:`c_j` be the largest absolute correlation of the target with the ranks of column j, with their
distance from the median, and with missingness, and :math:`c_j^0` the same for permuted targets. The
evidence of n rows is

.. math:: e_j = n c_j^2 - \overline{n (c^0)^2},

whose sum over irrelevant columns is about zero. Columns are ordered by their evidence in one half
of the rows and kept until they account for nearly all evidence in the other half: few if the signal
is sparse, and as many as allowed if it is dense. An exclusive or is invisible in single columns, so
the products of two columns' ranks are considered as well, with evidence in excess of the largest
one for permuted targets.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_FEWEST, _NEARLY_ALL = 2, 0.9
# Pairs are considered among at most this many columns; other columns are considered alone.
_MOST_PAIRED = 4000
_BLOCK = 512


def strongest_columns(x: NDArray[np.floating], target: Numbers, most: int) -> NDArray[np.intp]:
    """The columns associated with the target beyond chance, or all columns if they are few.

    Args:
        x: numbers, ``(rows, columns)``; missing values get the middle rank.
        target: targets, or class indicators, ``(rows, outputs)``.
        most: largest number of columns to keep; if there are no more, all are kept.

    Returns:
        Column indices in ascending order.

    Example:
        >>> x = np.random.default_rng(0).normal(size=(300, 30))
        >>> y = (x[:, [4]] > 0) ^ (x[:, [9]] > 0)
        >>> strongest_columns(x, y.astype(float), 10).tolist()
        [4, 9]
    """
    if x.shape[1] <= most:
        return np.arange(x.shape[1])
    missing = np.isnan(x)
    ranks = np.where(missing, 0.0, x.argsort(0).argsort(0) / max(len(x) - 1, 1) - 0.5)
    target, rows = target.astype(np.float64), np.random.RandomState(0).permutation(len(x))
    one, other = (
        _evidence(ranks[half], missing[half], target[half]) for half in np.array_split(rows, 2)
    )
    held = np.cumsum(other[np.argsort(-one, kind="stable")][:most])
    enough = np.argmax(held >= _NEARLY_ALL * held.max()) + 1
    order = np.argsort(-_evidence(ranks, missing, target), kind="stable")
    return np.sort(order[: max(enough, _FEWEST)])


def _evidence(ranks: Numbers, missing: NDArray[np.bool_], target: Numbers) -> Numbers:
    """Evidence of each column, alone or in a pair."""
    target = _unit(target)
    shuffled = np.random.RandomState(0).permutation(target)
    features = [_unit(f) for f in (ranks, np.abs(ranks), missing.astype(np.float64))]
    alone, chance = (
        len(ranks) * np.max([np.square(f.T @ y).max(1) for f in features], axis=0)
        for y in (target, shuffled)
    )
    evidence = alone - chance.mean()
    paired = np.argsort(-evidence, kind="stable")[:_MOST_PAIRED]
    pairs, by_chance = (len(ranks) * _in_pairs(ranks[:, paired], y) for y in (target, shuffled))
    evidence[paired] = np.maximum(evidence[paired], pairs - by_chance.max())
    return evidence


def _unit(columns: Numbers) -> Numbers:
    """Columns centred and scaled to length 1; constant columns become 0."""
    centred = columns - columns.mean(0)
    return centred / np.maximum(np.linalg.norm(centred, axis=0), 1e-12)


def _in_pairs(ranks: Numbers, target: Numbers) -> Numbers:
    """Each column's largest squared correlation of a product with another column's ranks."""
    strength = np.zeros(ranks.shape[1])
    squares = np.square(ranks)
    for start in range(0, ranks.shape[1], _BLOCK):
        block = slice(start, start + _BLOCK)
        size = np.maximum(squares[:, block].T @ squares, 1e-12)
        own = np.arange(len(size))
        size[own, start + own] = np.inf  # excludes squares
        for answer in target.T:
            products = np.square((ranks[:, block] * answer[:, None]).T @ ranks) / size
            strength[block] = np.maximum(strength[block], products.max(1))
    return strength
