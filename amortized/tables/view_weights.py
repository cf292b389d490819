r"""Weights of views with alternative representations of a table, by stacking on held-out rows.

Principal directions in place of columns help on some tables and harm on others. If some views use
an alternative representation (``readings``), one view of each kind is fitted to three quarters of
the rows and evaluated on the others. With :math:`p_i, q_i` the densities of held-out row i under
the plain and the alternative representation, the weight of the latter is

.. math:: \arg\max_w \sum_i \log\left((1 - w) p_i + w q_i\right) + \log w + \log (1 - w).

References:
    | Using Stacking to Average Bayesian Predictive Distributions (Yao et al., 2018),
    | arXiv:1704.02030
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks.tabular_pfn import TabularPFN
from amortized.tables.encoding import location_and_scale
from amortized.tables.readings import KINDS, Reading
from amortized.tables.views import EncodedViews, masses_together

Numbers = NDArray[np.float64]
_FEWEST, _MOST_HELD = 24, 256  # smallest number of rows of a table; largest of held-out rows
_GRID = (np.arange(64) + 0.5) / 64


def view_weights(reads: list[Reading], share: float) -> Numbers:
    """Weights of the views, which add up to 1.

    Args:
        reads: representation used by each view.
        share: total weight of alternative representations.

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
    """The total weight of views with an alternative representation.

    Args:
        network: the network.
        x: the table as numbers, ``(rows, columns)``.
        answer: targets, or class indices, ``(rows,)``.
        target: targets, or class indicators, ``(rows, outputs)``.
        columns: the columns to be used.
        unordered: whether each column is categorical without an order.
        most_rows: largest number of rows of a view.
        precision: one of ``PRECISIONS``.

    Returns:
        A number between 0 and 1; 1/2 if all views have the same representation or rows are few.
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
    """Density of each held-out target under each representation, given the other rows."""
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
