"""Encoded training rows of a network over rows, in its units, for any number of queries."""

from collections.abc import Iterator
from dataclasses import KW_ONLY, InitVar, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks import PFN
from amortized.progress import with_progress

Numbers = NDArray[np.float64]
# Queries are decoded in padded chunks of one size: with the same order of summation, predictions do
# not depend on how queries are split.
QUERY_CHUNK = 64
# Queries are clipped at this many standard deviations of the training data; in raw units, at a
# number whose square does not overflow in float32.
FAR = {"standardised": 1e4, "raw": 1e15}
# Tolerance of the range of data drawn by the prior, as a fraction of the range.
MARGIN = 0.1


@dataclass(eq=False)
class EncodedRows:
    """The encoded rows of a regression.

    Args:
        network: a network over rows.
        x: inputs in the network's units, ``(rows, features)``.
        y: targets in the network's units, ``(rows,)``.
        x_mean: means of the features, ``(features,)``; 0 for a network in raw units.
        x_scale: scales of the features; 1 for a network in raw units.
        y_mean: mean of the targets; 0 for a network in raw units.
        y_scale: scale of the targets; 1 for a network in raw units.
    """

    network: PFN
    x: InitVar[Numbers]
    y: InitVar[Numbers]
    _: KW_ONLY
    x_mean: Numbers
    x_scale: Numbers
    y_mean: float
    y_scale: float

    def __post_init__(self, x: Numbers, y: Numbers) -> None:
        self._far = FAR[self.network.config.units or "raw"]
        with torch.inference_mode():
            self._context = self.network.encode(self._tensor(x), self._tensor(y))

    def _tensor(self, values: NDArray[np.floating]) -> torch.Tensor:
        device = self.network.borders.device
        values = np.clip(values, -FAR["raw"], FAR["raw"])
        return torch.as_tensor(values, dtype=torch.float32, device=device).unsqueeze(0)

    def predictive(self, x: NDArray[np.float64]) -> BarDistribution:
        """The posterior predictive of each query, in the target's units.

        Args:
            x: queries, ``(queries, features)``.
        """
        with np.errstate(over="ignore"):
            x = np.clip((x - self.x_mean) / self.x_scale, -self._far, self._far)
        padded = np.pad(x, ((0, -len(x) % QUERY_CHUNK), (0, 0)))
        chunks = np.split(padded, len(padded) // QUERY_CHUNK)
        with torch.inference_mode():
            logits = torch.cat(
                [
                    self.network.decode(self._context, self._tensor(chunk)).logits[0]
                    for chunk in with_progress(chunks, "predicting", "chunk")
                ]
            )[: len(x)]
        borders = self.network.borders.double() * self.y_scale + self.y_mean
        return BarDistribution(logits.double().cpu(), borders.cpu(), validate_args=False)


def outside(
    network: PFN, x: NDArray[np.floating], y: NDArray[np.float64] | None, asked_by: Any
) -> Iterator[str]:
    """Warnings about data outside of the range of the prior of a network in raw units.

    Args:
        network: any network over rows; standardised data are never outside.
        x: inputs, ``(rows, features)``.
        y: targets, ``(rows,)``; None for queries.
        asked_by: the user's specification of the network, for the message.
    """
    if network.config.units == "standardised":
        return
    ranges = (network.config.x_range or ())[: x.shape[1]]
    parts = [(f"feature {j} of X", x[:, j], ends) for j, ends in enumerate(ranges)]
    if y is not None:
        parts.append(("y", y, (network.borders[0].item(), network.borders[-1].item())))
    named = type(asked_by).__name__ if isinstance(asked_by, PFN) else repr(asked_by)
    for name, values, (low, high) in parts:
        beyond = MARGIN * (high - low)
        if values.min() < low - beyond or values.max() > high + beyond:
            yield (
                f"Expected {name} between {low:.3g} and {high:.3g}, as the prior of "
                f"network={named} draws it, in raw units; got {values.min():.3g} to "
                f"{values.max():.3g}. Do not trust the answer: give the data in the prior's units, "
                "or take a network of standardised units, such as 'gp'."
            )
