r"""A regression under several views of its table and of its answers: one predictive of them all.

Each view standardises its rows' answers, after a map of its own (``target_transforms``), and gets
from the network the masses of bars. Their borders, mapped back, are borders in the target's units;
the average of the views is a histogram on all of these, of density

.. math:: p(y) = \sum_v w_v \frac{m_{vk}}{T_v^{-1}(b_{k+1}) - T_v^{-1}(b_k)}
          \quad\text{where}\quad T_v^{-1}(b_k) \le y < T_v^{-1}(b_{k+1}),

so it is a ``BarDistribution`` again, and every moment, quantile and score of it is exact. No map
reaches farther than the bars of the untransformed answers do; what would lie beyond goes into its
half-normal tails.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri

from amortized.distributions import BarDistribution
from amortized.estimators.table_views import QUERY_CHUNK, EncodedViews, draw_views, rows_read
from amortized.estimators.tables import location_and_scale
from amortized.estimators.target_transforms import Unchanged, fit_transform
from amortized.estimators.view_readings import Reading, reading_kinds
from amortized.estimators.view_weights import held_out_share, view_weights
from amortized.networks.tabular_pfn import TabularPFN

Numbers = NDArray[np.float64]


class TargetViews:
    """The encoded views of a regression.

    Args:
        network: a network for regression.
        x: the table as numbers, ``(rows, columns)``.
        y: answers, standardised, ``(rows,)``.
        y_mean: of the answers, in the target's units.
        y_scale: their unit.
        columns: the columns to be looked at.
        unordered: which of the table's columns are categories without an order.
        n_views: how many views are made.
        transforms: names of maps of the answers, which the views take in turn.
        random_state: draws the views.
        weight: by which they draw rows, ``(rows,)``; None takes each once.
        precision: one of ``PRECISIONS``.
    """

    def __init__(
        self,
        network: TabularPFN,
        x: NDArray[np.floating],
        y: Numbers,
        *,
        y_mean: float,
        y_scale: float,
        columns: NDArray[np.intp],
        unordered: NDArray[np.bool_],
        n_views: int,
        transforms: Sequence[str],
        random_state: np.random.RandomState,
        weight: Numbers | None = None,
        precision: str = "auto",
    ) -> None:
        most, strata = rows_read(network), np.zeros(len(y), dtype=np.intp)
        kinds = len(transforms)
        self.views = views = draw_views(n_views, strata, columns, most, random_state, weight, kinds)
        bars = network.borders.double().cpu().numpy()
        answers, images = [], []
        for number, view in enumerate(views):
            transform = fit_transform(transforms[number % kinds], y[view.rows], y_mean / y_scale)
            answer, centre, unit = transform.forward(y[view.rows]), 0.0, 1.0
            # All rows as they are have been standardised.
            if weight is not None or len(answer) < len(y) or not isinstance(transform, Unchanged):
                centre, unit = location_and_scale(answer)
            answers.append((answer - centre) / unit)
            images.append(y_mean + y_scale * transform.inverse(centre + unit * bars))
        reads = [
            Reading(x[view.rows], y[view.rows, None], view.columns, unordered, kind, random_state)
            for view, kind in zip(views, reading_kinds(len(views), kinds), strict=True)
        ]
        share = 0.5
        if len(views) > 1:
            share = held_out_share(
                network,
                x,
                y,
                y[:, None],
                columns=columns,
                unordered=unordered,
                most_rows=most,
                precision=precision,
            )
        self._weights = view_weights(reads, share)
        self._views = EncodedViews(network, reads, answers, precision)
        self.borders = _common_borders(y_mean + y_scale * bars, images)
        self._shares = [csr_array(_shares(image, self.borders)) for image in images]

    def masses(self, x: NDArray[np.floating]) -> Numbers:
        """Probability of each bar, ``(queries, bars)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        masses = np.empty((len(x), len(self.borders) - 1))
        for number, chunk in enumerate(self._views.masses(x)):
            parts = [
                weight * (own.numpy() @ shares)
                for weight, own, shares in zip(self._weights, chunk, self._shares, strict=True)
            ]
            start = number * QUERY_CHUNK
            masses[start : start + len(parts[0])] = sum(parts)
        return masses

    def predictive(self, x: NDArray[np.floating]) -> BarDistribution:
        """The posterior predictive of each query, in the target's units.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        logits = torch.as_tensor(self.masses(x)).clamp_min_(torch.finfo(torch.float64).tiny).log_()
        return BarDistribution(logits, torch.as_tensor(self.borders), validate_args=False)


def _common_borders(untransformed: Numbers, images: Sequence[Numbers]) -> Numbers:
    """All borders between the tails of the untransformed bars, and those of the tails."""
    low, high = untransformed[1], untransformed[-2]
    inner = np.concatenate([image[(image > low) & (image < high)] for image in images])
    return np.unique(np.concatenate((untransformed[[0, 1, -2, -1]], inner)))


def _shares(own: Numbers, common: Numbers) -> Numbers:
    """How much of each bar of its own (rows) a view has in each common bar (columns)."""
    low, high, inner = own[:-1, None], own[1:, None], common[1:-1]
    width = np.maximum(high - low, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        below = np.clip((inner - low) / width, 0.0, 1.0)
    # The outermost bars are half-normal tails, half of which lies inside of the outermost border.
    median = ndtri(0.75)
    below[0] = 2 * ndtr(-np.maximum(median * (own[1] - inner) / width[0], 0.0))
    below[-1] = 2 * ndtr(np.maximum(median * (inner - own[-2]) / width[-1], 0.0)) - 1
    return np.diff(below, axis=1, prepend=0.0, append=1.0)
