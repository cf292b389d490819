r"""How much views count that read a table otherwise: as much as held-out rows say.

Directions in place of columns are all a network needs on one table and a loss on the next. Where
some views read a table otherwise (``readings``), a view of each kind learns three quarters of
the rows and answers the others. With :math:`p_i, q_i` the densities of held-out row i as it is and
read otherwise, the share of the latter is

.. math:: \arg\max_w \sum_i \log\left((1 - w) p_i + w q_i\right) + \log w + \log (1 - w).

References:
    | Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018),
    | arXiv:1704.02030
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.distributions import BarDistribution
from amortized.networks.tabular_pfn import TabularPFN
from amortized.tables.encoding import location_and_scale
from amortized.tables.readings import KINDS, Reading
from amortized.tables.views import EncodedViews, masses_together

Numbers = NDArray[np.float64]
_FEWEST, _MOST_HELD = 24, 256  # rows of a table; held-out rows
_GRID = (np.arange(64) + 0.5) / 64


def view_weights(reads: list[Reading], share: float) -> Numbers:
    """A weight for each view, together 1; those that read otherwise have this share of it.

    Args:
        reads: how each view reads.
        share: of those that read otherwise.

    Example:
        >>> x, nothing = np.zeros((3, 1)), np.zeros(1, dtype=bool)
        >>> read = Reading(x, x, np.arange(1), nothing, KINDS[0], np.random.RandomState(0))
        >>> view_weights([read, read], 0.9)
        array([0.5, 0.5])
    """
    plain = np.array([read.is_plain for read in reads])
    if plain.all() or not plain.any():
        return np.full(len(reads), 1 / len(reads))
    return np.where(plain, (1 - share) / plain.sum(), share / (~plain).sum())


def held_out_share(
    network: TabularPFN,
    x: NDArray[np.floating],
    answer: Numbers,
    target: Numbers,
    *,
    columns: NDArray[np.intp],
    unordered: NDArray[np.bool_],
    most_rows: int,
    precision: str,
) -> float:
    """The share of views that read a table otherwise than as it is.

    Args:
        network: what encodes and decodes.
        x: the table as numbers, ``(rows, columns)``.
        answer: numbers, or numbers of classes, ``(rows,)``.
        target: the answers, or an indicator of each class, ``(rows, outputs)``.
        columns: the columns to be looked at.
        unordered: which of the table's columns are categories without an order.
        most_rows: that a view shows the network.
        precision: one of ``PRECISIONS``.

    Returns:
        A number between 0 and 1; a half where all views read alike or rows are few.
    """
    if len(x) < _FEWEST or len(KINDS) == 1:
        return 0.5
    random_state = np.random.RandomState(0)
    rows = random_state.permutation(len(x))
    n_held = min(len(x) // 4, _MOST_HELD)
    held, learned = rows[:n_held], rows[n_held:][:most_rows]
    reads = [
        Reading(x[learned], target[learned], columns, unordered, kind, random_state)
        for kind in reversed(KINDS)
    ]
    if reads[0].is_plain:
        return 0.5
    otherwise, plain = _densities(network, reads, answer, learned, held, x[held], precision)
    mixed = np.log(np.outer(1 - _GRID, plain) + np.outer(_GRID, otherwise)).sum(1)
    return float(_GRID[np.argmax(mixed + np.log(_GRID) + np.log(1 - _GRID))])


def _densities(
    network: TabularPFN,
    reads: list[Reading],
    answer: Numbers,
    learned: NDArray[np.intp],
    held: NDArray[np.intp],
    x: NDArray[np.floating],
    precision: str,
) -> Iterator[Numbers]:
    """Density of each held-out answer under each reading, given the rows that were learned."""
    centre, unit = 0.0, 1.0
    if network.config.target == "regression":
        centre, unit = location_and_scale(answer[learned])
    answers = (answer - centre) / unit
    views = EncodedViews(network, reads, [answers[learned]] * len(reads), precision)
    asked = torch.as_tensor(answers[held])
    for masses in masses_together([(views, x)])[0]:
        if network.config.target == "classification":
            density = masses.gather(1, asked.long()[:, None])[:, 0]
        else:
            borders = network.borders.double().cpu()
            bars = BarDistribution(masses.log(), borders, validate_args=False)
            density = bars.log_prob(asked).exp()
        yield density.clamp_min(1e-6).numpy()
