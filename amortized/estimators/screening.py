r"""Which of many columns a network is shown: those that say more than chance, alone or in pairs.

Of hundreds of columns some seem to matter by chance, and a network that sees only these believes
in them. So no more are shown than there is evidence for. With :math:`c_j` the largest absolute
correlation of column j's ranks, of their distance from the middle or of their absence with the
answers, and :math:`c_j^0` that with shuffled answers, the evidence of n rows is

.. math:: e_j = n c_j^2 - \overline{n (c^0)^2},

whose sum over columns without any bearing is about zero. Columns in the order of their evidence in
one half of the rows are counted until they hold nearly all of what the other half has for them: a
few where a few decide, as many as are allowed where many matter a little. An exclusive or shows in
no column alone and no tree splits on it, so the products of two columns' ranks are looked at as
well, and count by what they have beyond the largest of all with shuffled answers.
"""

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
_FEWEST, _NEARLY_ALL = 2, 0.9
# Pairs of more columns than these are too many: of the rest each is looked at alone.
_MOST_PAIRED = 4000
_BLOCK = 512


def strongest_columns(x: NDArray[np.floating], target: Numbers, most: int) -> NDArray[np.intp]:
    """The columns that depend on the target more than chance, or all of them if there are few.

    Args:
        x: numbers, ``(rows, columns)``; missing values take the middle rank.
        target: ``(rows, outputs)``: the answers, or an indicator of each class.
        most: how many columns to keep at most; of no more all are kept.

    Returns:
        Column numbers in ascending order.

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
    """What each column has beyond chance, alone or with another one."""
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
    """Columns of mean 0 and length 1; a constant one is 0."""
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
        size[own, start + own] = np.inf  # a square is no pair
        for answer in target.T:
            products = np.square((ranks[:, block] * answer[:, None]).T @ ranks) / size
            strength[block] = np.maximum(strength[block], products.max(1))
    return strength
