r"""Cells of a table as network inputs that do not depend on the columns' units or distributions.

Every value is described relative to the context's values of its column: by the standardised value,
by sines and cosines of it, by its rank (which no outlier or monotone transformation of the column
changes), by the share of values equal to it (small for a measurement, large for a category), and by
whether it is missing. The description of a query depends only on the context and the query itself.

Networks may add a *hash* of the value if values repeat: for level k of the column's distinct values
in ascending order, the points :math:`2\pi k \sqrt p` on the circle for a few primes p. Their inner
products are largest for equal levels, however close two codes are, so that attention finds the rows
of the same category. A value that does not occur in the context has no hash.
"""

import math
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

_ANGULAR_FREQUENCIES = (0.25, 16.0)  # lowest and highest, in radians per standard deviation
_N_FREQUENCIES = 8
_N_RANK_FREQUENCIES = 4
# Value, rank, share of equal values, missing; then the sines and cosines.
N_DESCRIPTORS = 4 + 2 * _N_FREQUENCIES + _N_RANK_FREQUENCIES
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19)


class ColumnStatistics(NamedTuple):
    """Statistics of the columns, computed from the context.

    Attributes:
        mean: mean of the observed values, ``(batch, 1, columns)``.
        scale: their standard deviation; 1 for constant columns.
        ordered: the values in ascending order, ``(batch, columns, rows)``; missing ones are
            infinite and last.
        n_present: number of observed values, ``(batch, columns, 1)``.
        level: index of each ordered value among the distinct ones, shaped like ``ordered``.
    """

    mean: Tensor
    scale: Tensor
    ordered: Tensor
    n_present: Tensor
    level: Tensor


def column_statistics(
    x: Float[Tensor, "batch rows columns"], mask: Bool[Tensor, "batch rows"] | None = None
) -> ColumnStatistics:
    """Computes the statistics of a context; values that are not finite are missing.

    Args:
        x: the context's values.
        mask: False marks padding rows.
    """
    present = x.isfinite() if mask is None else x.isfinite() & mask[..., None]
    count = present.sum(1, keepdim=True)
    known = x.where(present, 0.0)
    mean = known.sum(1, keepdim=True) / count.clamp_min(1)
    deviation = (known - mean).where(present, 0.0)
    # Divided by the largest deviation first, so that squares of huge values do not overflow.
    most = deviation.abs().amax(1, keepdim=True) if x.shape[1] else torch.zeros_like(mean)
    unit = deviation / most.where(most > 0, 1.0)
    scale = most * (unit.square().sum(1, keepdim=True) / count.clamp_min(1)).sqrt()
    # Rounding error of a constant column is not variation.
    varies = scale > 8 * torch.finfo(x.dtype).eps * mean.abs()
    ordered = x.where(present, math.inf).transpose(1, 2).contiguous().sort(-1).values
    level = F.pad((ordered[..., 1:] > ordered[..., :-1]).cumsum(-1), (min(1, x.shape[1]), 0))
    return ColumnStatistics(mean, scale.where(varies, 1.0), ordered, count.transpose(1, 2), level)


class CellDescription(nn.Module):
    """Describes values by numbers of order one, given the statistics of the context's columns.

    Args:
        n_hashes: points on the circle that identify a repeated value of the column, at most 8.

    Attributes:
        n_descriptors: number of descriptors per value.

    Example:
        >>> x = torch.tensor([[[1.0], [2.0], [2.0], [float("nan")]]])
        >>> value, rank, equals, missing = CellDescription()(x, column_statistics(x))[0, 1, 0, :4]
        >>> rank.item(), equals.item(), missing.item()  # rank in [-1, 1]
        (0.333, 0.333, 0.0)
    """

    frequencies: Tensor
    rank_frequencies: Tensor

    def __init__(self, n_hashes: int = 0) -> None:
        super().__init__()
        if not 0 <= n_hashes <= len(_PRIMES):
            raise ValueError(f"Expected n_hashes from 0 to {len(_PRIMES)}; got {n_hashes!r}.")
        self.n_hashes = n_hashes
        self.n_descriptors = N_DESCRIPTORS + 2 * n_hashes
        low, high = map(math.log, _ANGULAR_FREQUENCIES)
        # On the CPU whatever the default device, because loading does not fill buffers that are not
        # stored.
        kept: Any = {"device": "cpu", "dtype": torch.float32}
        waves = torch.linspace(low, high, _N_FREQUENCIES, **kept).exp()
        self.register_buffer("frequencies", waves, persistent=False)
        half_waves = math.pi * torch.arange(1.0, _N_RANK_FREQUENCIES + 1, **kept)
        self.register_buffer("rank_frequencies", half_waves, persistent=False)

    def forward(
        self, x: Float[Tensor, "batch rows columns"], statistics: ColumnStatistics
    ) -> Float[Tensor, "batch rows columns descriptors"]:
        """Descriptors of each value; for a missing one only its flag is nonzero."""
        missing = ~x.isfinite()
        x = statistics.mean.expand_as(x).where(missing, x)
        # Linear near the centre, logarithmic in the tails: outliers are distinguished but stay
        # small.
        value = ((x - statistics.mean) / statistics.scale).asinh()
        rank, equals = _rank_and_equals(x, statistics)
        angles = value[..., None] * self.frequencies
        parts = (
            torch.stack((value, 2 * rank - 1, equals), -1),
            angles.sin(),
            angles.cos(),
            (rank[..., None] * self.rank_frequencies).cos(),
            *self._hashes(x, statistics),
        )
        known = torch.cat(parts, -1).masked_fill(missing[..., None], 0.0)
        flag = missing.to(x.dtype)[..., None]
        return torch.cat((known[..., :3], flag, known[..., 3:]), -1)

    def _hashes(self, x: Tensor, statistics: ColumnStatistics) -> tuple[Tensor, ...]:
        """The hash of each value, scaled down for values that rarely repeat."""
        if not self.n_hashes or not statistics.ordered.shape[-1]:
            return (x.new_zeros(*x.shape, 2 * self.n_hashes),)
        columns = x.transpose(1, 2).contiguous()
        at = torch.searchsorted(statistics.ordered, columns)
        at = at.clamp_max(statistics.ordered.shape[-1] - 1)
        found = statistics.ordered.gather(-1, at) == columns
        present = statistics.n_present.clamp_min(1)
        last = statistics.level.gather(-1, present - 1)
        strength = (1 - (last + 1) / present).to(x.dtype) * found
        # In float64, because only the fractional part of a turn matters.
        primes = torch.tensor(_PRIMES[: self.n_hashes], dtype=torch.float64, device=x.device)
        turns = statistics.level.gather(-1, at)[..., None] * primes.sqrt()
        angles = (2 * math.pi * turns.frac()).to(x.dtype)
        hashes = torch.cat((angles.sin(), angles.cos()), -1) * strength[..., None]
        return (hashes.transpose(1, 2),)

    def rank(
        self, x: Float[Tensor, "batch rows columns"], statistics: ColumnStatistics
    ) -> Float[Tensor, "batch rows columns"]:
        """Share of the context's values below each value, ties counted half; 0 if missing."""
        known = x.isfinite()
        return _rank_and_equals(x.where(known, 0.0), statistics)[0].where(known, 0.0)


def _rank_and_equals(x: Tensor, statistics: ColumnStatistics) -> tuple[Tensor, Tensor]:
    columns = x.transpose(1, 2).contiguous()
    below = torch.searchsorted(statistics.ordered, columns)
    up_to = torch.searchsorted(statistics.ordered, columns, right=True)
    count = statistics.n_present.clamp_min(1)
    rank = (below + up_to) / (2 * count)
    # If the value belongs to the context, one of the equal values is the value itself.
    equals = (up_to - below - 1).clamp_min(0) / count
    return rank.transpose(1, 2).to(x.dtype), equals.transpose(1, 2).to(x.dtype)


def column_groups(
    n_columns: int, stride: int, offsets: tuple[int, ...] = (0, 1, 3)
) -> Int[Tensor, "groups members"]:
    """Column indices that share a token: ``offsets`` from every ``stride``-th column, circularly.

    Grouping each column with different others breaks the symmetry between columns. With a stride of
    2 there are half as many tokens as columns, and each column occurs in one or two of them.

    Args:
        n_columns: columns of the table.
        stride: distance between the first columns of consecutive groups.
        offsets: members of a group, relative to its first column.

    Example:
        >>> column_groups(5, stride=2).tolist()
        [[0, 1, 3], [2, 3, 0], [4, 0, 2]]
    """
    start = torch.arange(0, n_columns, stride)
    return (start[:, None] + torch.tensor(offsets)) % n_columns
