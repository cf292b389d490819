"""Series in groups that are run together: those of the same seasons, with gaps or without."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TOGETHER, WITH_GAPS = 64, 8  # series of a group; each pattern of gaps needs gains of its own
_REPEATS = 1.7  # of a season, below which it is left out


@dataclass(frozen=True)
class Group:
    """Series of one batch.

    Attributes:
        members: their numbers.
        y: ``(B, T)``; what follows a series' last value is 0.
        seen: ``(1, T)`` without gaps, ``(B, T)`` with them.
        last: step of each series' last value, ``(B,)``.
        late: how many missing steps follow it.
        periods: periods of the seasons that the series show.
    """

    members: list[int]
    y: Tensor
    seen: Tensor
    last: Tensor
    late: int
    periods: tuple[float, ...]


def groups(
    values: Sequence[NDArray[np.float64]], periods: Sequence[tuple[float, ...]]
) -> Iterator[Group]:
    """Divide series into groups.

    Args:
        values: values of each series, NaN where missing; the first is not.
        periods: periods of each series.
    """
    alike: dict[tuple[tuple[float, ...], int, bool], list[int]] = {}
    for i, series in enumerate(values):
        known = ~np.isnan(series)
        last = int(np.flatnonzero(known)[-1])
        shown = shown_periods(periods[i], last + 1)
        gaps = not bool(known[: last + 1].all())
        alike.setdefault((shown, len(series) - 1 - last, gaps), []).append(i)
    for (shown, late, gaps), members in alike.items():
        members.sort(key=lambda i: len(values[i]))
        size = WITH_GAPS if gaps else TOGETHER
        for start in range(0, len(members), size):
            part = members[start : start + size]
            yield _group(part, values, late, gaps, shown)


def shown_periods(periods: tuple[float, ...], n: int) -> tuple[float, ...]:
    """The periods that n steps show nearly twice."""
    return tuple(p for p in periods if p >= 2 and n >= _REPEATS * p) or (1.0,)


def _group(
    members: list[int],
    values: Sequence[NDArray[np.float64]],
    late: int,
    gaps: bool,
    periods: tuple[float, ...],
) -> Group:
    last = [len(values[i]) - 1 - late for i in members]
    y = torch.full((len(members), max(last) + 1), torch.nan, dtype=torch.float64)
    for row, (i, end) in enumerate(zip(members, last, strict=True)):
        y[row, : end + 1] = torch.from_numpy(values[i][: end + 1])
    seen = ~y.isnan() if gaps else torch.ones(1, y.shape[1], dtype=torch.bool)
    return Group(members, y.nan_to_num(0.0), seen, torch.tensor(last), late, periods)
