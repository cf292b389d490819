r"""Regression with several views of a table and transformations of its targets.

Each view transforms (``target_transforms``) and standardises the targets of its rows and obtains
masses of bars from the network. Their borders are mapped back to the target's units. The average
over views is a histogram on the union of all borders, with the density

.. math:: p(y) = \sum_v w_v \frac{m_{vk}}{T_v^{-1}(b_{k+1}) - T_v^{-1}(b_k)}
          \quad\text{where}\quad T_v^{-1}(b_k) \le y < T_v^{-1}(b_{k+1}),

so it is a ``BarDistribution`` again, with exact moments, quantiles and scores. Transformed bars are
clipped to the range of the untransformed bars; mass beyond it is moved to the half-normal tails.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import ndtr, ndtri
from torch import Tensor

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks.tabular_pfn import TabularPFN
from amortized.tables.encoding import location_and_scale
from amortized.tables.readings import Reading, reading_kinds
from amortized.tables.target_transforms import Unchanged, fit_transform
from amortized.tables.view_weights import held_out_share, view_weights
from amortized.tables.views import EncodedViews, draw_views, rows_read

Numbers = NDArray[np.float64]


class TargetViews:
    """The encoded views of a regression.

    Args:
        network: a network for regression.
        x: the table as numbers, ``(rows, columns)``.
        y: standardised targets, ``(rows,)``.
        y_mean: mean of the targets, in their own units.
        y_scale: scale of the targets.
        columns: the columns to be used.
        unordered: whether each column is categorical without an order.
        n_views: number of views.
        transforms: names of target transformations, used by the views in turn.
        random_state: random state of the views.
        weight: weights of the rows, ``(rows,)``; None uses each row once.
        precision: one of ``PRECISIONS``.

    Attributes:
        drawn: rows and columns of each view.
        views: the views, encoded at the first query or by `encode`.
        borders: borders of the common bars, in the target's units.
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
        self.drawn = views = draw_views(n_views, strata, columns, most, random_state, weight, kinds)
        bars = network.borders.double().cpu().numpy()
        answers: list[Numbers] = []
        images: list[Numbers] = []
        self._image: list[int] = []  # index of each view's transformation
        known: dict[tuple[str, bytes], int] = {}  # views of the same rows share transformations
        for number, view in enumerate(views):
            key = (transforms[number % kinds], view.rows.tobytes())
            if key in known:
                answers.append(answers[known[key]])
                self._image.append(self._image[known[key]])
                continue
            known[key] = number
            transform = fit_transform(key[0], y[view.rows], y_mean / y_scale)
            answer, centre, unit = transform.forward(y[view.rows]), 0.0, 1.0
            # All rows without transformation are standardised already.
            if weight is not None or len(answer) < len(y) or not isinstance(transform, Unchanged):
                centre, unit = location_and_scale(answer)
            answers.append((answer - centre) / unit)
            self._image.append(len(images))
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
        self.views = EncodedViews(network, reads, answers, precision)
        self.borders = _common_borders(y_mean + y_scale * bars, images)
        self._shares = [csr_array(_shares(image, self.borders)) for image in images]

    def encode(self) -> "TargetViews":
        """Encodes all views."""
        self.views.encode()
        return self

    def masses(self, x: NDArray[np.floating]) -> Numbers:
        """Probability of each bar, ``(queries, bars)``.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        return np.concatenate([self.by_bar(chunk) for chunk in self.views.masses(x)])

    def by_bar(self, masses: Sequence[Tensor]) -> Numbers:
        """Probability of each common bar, ``(queries, bars)``.

        Args:
            masses: output of the network for each of `views`, ``(queries, own bars)``.
        """
        by_image: list[Any] = [0.0] * len(self._shares)
        for weight, image, own in zip(self._weights, self._image, masses, strict=True):
            by_image[image] = by_image[image] + weight * own.numpy()
        return sum(own @ shares for own, shares in zip(by_image, self._shares, strict=True))

    def predictive(self, x: NDArray[np.floating]) -> BarDistribution:
        """The posterior predictive of each query, in the target's units.

        Args:
            x: queries as numbers, ``(queries, columns)``.
        """
        return self.of_bars(self.masses(x))

    def of_bars(self, masses: Numbers) -> BarDistribution:
        """The predictive with these masses.

        Args:
            masses: masses of the common bars, ``(queries, bars)``.
        """
        logits = torch.as_tensor(masses).clamp_min_(torch.finfo(torch.float64).tiny).log_()
        return BarDistribution(logits, torch.as_tensor(self.borders), validate_args=False)


def _common_borders(untransformed: Numbers, images: Sequence[Numbers]) -> Numbers:
    """All borders within the range of the untransformed bars, including its ends."""
    low, high = untransformed[1], untransformed[-2]
    inner = np.concatenate([image[(image > low) & (image < high)] for image in images])
    return np.unique(np.concatenate((untransformed[[0, 1, -2, -1]], inner)))


def _shares(own: Numbers, common: Numbers) -> Numbers:
    """The fraction of each bar of a view (rows) in each common bar (columns)."""
    low, high, inner = own[:-1, None], own[1:, None], common[1:-1]
    width = np.maximum(high - low, np.finfo(np.float64).tiny)
    with np.errstate(over="ignore"):
        below = np.clip((inner - low) / width, 0.0, 1.0)
    # The outermost bars are half-normal tails, half of which lies inside the outermost border.
    median = ndtri(0.75)
    below[0] = 2 * ndtr(-np.maximum(median * (own[1] - inner) / width[0], 0.0))
    below[-1] = 2 * ndtr(np.maximum(median * (inner - own[-2]) / width[-1], 0.0)) - 1
    return np.diff(below, axis=1, prepend=0.0, append=1.0)
