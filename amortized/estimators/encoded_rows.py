"""A regression as a network over rows sees it: standardised, encoded once, read by queries."""

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.distributions import BarDistribution
from amortized.networks import PFN

# Queries are decoded in chunks of one size, the last one filled up: one shape, one order of
# summation, and so one answer for a row, however the query was split.
QUERY_CHUNK = 64
# Beyond this many standard deviations of the training data a query is as far as can be.
FAR = 1e4


class EncodedRows:
    """The encoded rows of a regression.

    Args:
        network: a network over rows.
        x: inputs, standardised, ``(rows, features)``.
        y: answers, standardised, ``(rows,)``.
        x_mean: of the features, ``(features,)``.
        x_scale: their units.
        y_mean: of the answers.
        y_scale: their unit.
    """

    def __init__(
        self,
        network: PFN,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        *,
        x_mean: NDArray[np.float64],
        x_scale: NDArray[np.float64],
        y_mean: float,
        y_scale: float,
    ) -> None:
        self._network, self._y_mean, self._y_scale = network, y_mean, y_scale
        self._x_mean, self._x_scale = x_mean, x_scale
        with torch.inference_mode():
            self._context = network.encode(self._tensor(x), self._tensor(y))

    def _tensor(self, values: NDArray[np.floating]) -> torch.Tensor:
        device = self._network.borders.device
        return torch.as_tensor(values, dtype=torch.float32, device=device).unsqueeze(0)

    def predictive(self, x: NDArray[np.float64]) -> BarDistribution:
        """The posterior predictive of each query, in the target's units.

        Args:
            x: queries, ``(queries, features)``.
        """
        with np.errstate(over="ignore"):
            x = np.clip((x - self._x_mean) / self._x_scale, -FAR, FAR)
        padded = np.pad(x, ((0, -len(x) % QUERY_CHUNK), (0, 0)))
        with torch.inference_mode():
            logits = torch.cat(
                [
                    self._network.decode(self._context, self._tensor(chunk)).logits[0]
                    for chunk in np.split(padded, len(padded) // QUERY_CHUNK)
                ]
            )[: len(x)]
        borders = self._network.borders.double() * self._y_scale + self._y_mean
        return BarDistribution(logits.double().cpu(), borders.cpu(), validate_args=False)
