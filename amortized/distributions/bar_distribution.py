"""Predictive distributions returned by networks.

A bar distribution is a histogram density whose outermost bars are replaced by half-normal tails, so
that its support is the real line. All quantities below are closed forms in the masses :math:`p_k`
and borders :math:`b_k` of the bars and the tail scales :math:`s`.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.nn import functional as F

from amortized.arrays import as_values
from amortized.validation import whole_number

_MEDIAN = 0.6744897501960817  # median of the standard half-normal distribution
_MEAN = math.sqrt(2 / math.pi)  # its mean
_MEAN_OF_LESSER = (2 * math.sqrt(2) - 2) / math.sqrt(math.pi)  # E min(H, H') of two copies


class BarDistribution(Distribution):
    r"""Histogram density with half-normal tails (also: Riemann or piecewise-constant distribution).

    Inside, the density is :math:`p_k / (b_{k+1} - b_k)`. Left of :math:`b_1` it is
    :math:`2 p_0 N(y; b_1, s_0^2)`, with :math:`s_0` such that half of the tail's mass lies in the
    outermost bar; likewise on the right.

    Args:
        logits: unnormalised log masses of the bars, ``(*batch, bars)``.
        borders: increasing borders, ``(bars + 1,)``; at least three bars.

    Raises:
        ValueError: if the borders do not increase or do not fit the logits.

    References:
        | Transformers Can Do Bayesian Inference (Mueller et al., 2022), arXiv:2112.10510

    Example:
        >>> import torch
        >>> bars = BarDistribution(torch.zeros(4), torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]))
        >>> round(bars.cdf(torch.tensor(0.5)).item(), 3), round(bars.mean.item(), 3)
        (0.625, 0.0)
    """

    arg_constraints = {"logits": constraints.real_vector}
    support = constraints.real

    def __init__(
        self,
        logits: Float[Tensor, "*batch bars"],
        borders: Float[Tensor, " borders"],
        validate_args: bool | None = None,
    ) -> None:
        if logits.shape[-1] < 3 or borders.shape != (logits.shape[-1] + 1,):
            raise ValueError(
                f"Expected logits of 3 or more bars and one border more than bars; got "
                f"{logits.shape[-1]} bars and borders of shape {tuple(borders.shape)}."
            )
        if validate_args is not False and not has_width(borders):
            raise ValueError("Expected strictly increasing borders; merge the equal ones.")
        self.logits, self.borders = logits, borders
        super().__init__(logits.shape[:-1], validate_args=False)

    @cached_property  # lazy, because bars are often only passed on
    def log_masses(self) -> Float[Tensor, "*batch bars"]:
        """Log masses of the bars: the logits, normalised."""
        return self.logits.log_softmax(-1)

    @property
    def masses(self) -> Float[Tensor, "*batch bars"]:
        """Probability of each bar; of an outermost bar, that of its whole tail."""
        return self.log_masses.exp()

    @property
    def _widths(self) -> Tensor:
        return self.borders.diff()

    @property
    def _tail_scales(self) -> tuple[Tensor, Tensor]:
        return self._widths[0] / _MEDIAN, self._widths[-1] / _MEDIAN

    @property
    def _inner(self) -> tuple[Tensor, Tensor]:
        """End of the left tail and beginning of the right tail."""
        return self.borders[1], self.borders[-2]

    def expand(
        self, batch_shape: Sequence[int], _instance: "BarDistribution | None" = None
    ) -> "BarDistribution":
        logits = self.logits.expand(*batch_shape, -1)
        return BarDistribution(logits, self.borders, validate_args=False)

    def _align(self, value: Tensor) -> tuple[Tensor, Tensor, torch.Size]:
        """Values with the batch first, ``(*batch, n)``; the bars' log masses; the result's shape.

        With this layout the bars need not be copied for each of n values.
        """
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        n_more = len(shape) - len(self.batch_shape)
        value = value.expand(shape).reshape(shape[:n_more].numel(), *shape[n_more:])
        return value.movedim(0, -1), self.log_masses.expand(*shape[n_more:], -1), shape

    def _bar_of(self, y: Tensor) -> Tensor:
        bar = torch.searchsorted(self.borders, y.contiguous(), right=True) - 1
        return bar.clamp(0, len(self.borders) - 2)

    def _tail_distances(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of y into each tail in tail scales; negative outside of it."""
        (left, right), (s_left, s_right) = self._inner, self._tail_scales
        return (left - y) / s_left, (y - right) / s_right

    def log_prob(self, value: Float[Tensor, "*values"]) -> Float[Tensor, "..."]:
        value, log_masses, shape = self._align(as_values(value, "value").to(self.borders))
        bar = self._bar_of(value)
        log_density = -self._widths.log()[bar]
        for in_tail, z, scale in zip(
            (bar == 0, bar == len(self.borders) - 2),
            self._tail_distances(value),
            self._tail_scales,
            strict=True,
        ):
            half_normal = -0.5 * z.square() - scale.log() + 0.5 * math.log(2 / math.pi)
            log_density = torch.where(in_tail, half_normal, log_density)
        return (log_masses.gather(-1, bar) + log_density).movedim(-1, 0).reshape(shape)

    def cdf(self, value: Float[Tensor, "*values"]) -> Float[Tensor, "..."]:
        value, log_masses, shape = self._align(as_values(value, "value").to(self.borders))
        masses = log_masses.exp()
        bar = self._bar_of(value)
        below = F.pad(masses.cumsum(-1), (1, 0)).gather(-1, bar)
        share = (value - self.borders[bar]) / self._widths[bar]
        z_left, z_right = self._tail_distances(value)
        share = torch.where(bar == 0, 2 * _phi(-z_left), share)
        share = torch.where(bar == len(self.borders) - 2, 2 * _phi(z_right) - 1, share)
        level = (below + masses.gather(-1, bar) * share).clamp(0, 1)
        return level.movedim(-1, 0).reshape(shape)

    def icdf(self, value: Float[Tensor, "*values"]) -> Float[Tensor, "..."]:
        # In float32 the rounding error of a thousand sums exceeds the mass of a tail, and levels
        # above the total would give infinity.
        levels = as_values(value, "levels").to(self.borders.device, torch.float64)
        level, log_masses, shape = self._align(levels)
        masses = log_masses.double().softmax(-1)
        cumulative = masses.cumsum(-1)
        bar = torch.searchsorted(cumulative, level.contiguous()).clamp_max(masses.shape[-1] - 1)
        below = F.pad(cumulative, (1, 0)).gather(-1, bar)
        mass = masses.gather(-1, bar).clamp_min(torch.finfo(torch.float64).tiny)
        share = ((level - below) / mass).clamp(0, 1)
        y = self.borders[bar] + share * self._widths[bar]
        (left, right), (s_left, s_right) = self._inner, self._tail_scales
        y = torch.where(bar == 0, left + s_left * torch.special.ndtri(share / 2), y)
        # From the probability above the level, which is exact where the level itself rounds to 1.
        above = ((1 - level) / mass).clamp(0, 1)
        right_tail = right - s_right * torch.special.ndtri(above / 2)
        y = torch.where(bar == masses.shape[-1] - 1, right_tail, y)
        y = y.masked_fill(level >= 1, math.inf)  # also if the tail has no mass left after rounding
        return y.movedim(-1, 0).reshape(shape).to(self.borders.dtype)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        levels = torch.rand(shape, dtype=torch.float64, device=self.logits.device)
        with torch.no_grad():
            return self.icdf(levels)

    def _moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of each bar."""
        mean = (self.borders[:-1] + self.borders[1:]) / 2
        variance = self._widths.square() / 12
        (left, right), (s_left, s_right) = self._inner, self._tail_scales
        mean[0], mean[-1] = left - s_left * _MEAN, right + s_right * _MEAN
        variance[0], variance[-1] = ((1 - _MEAN**2) * s.square() for s in (s_left, s_right))
        return mean, variance

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        # From the middle: the rounding of the masses does not grow with the distance from zero.
        middle = self.borders[len(self.borders) // 2]
        return middle + (self.masses * (self._moments()[0] - middle)).sum(-1)

    @property
    def variance(self) -> Float[Tensor, "*batch"]:
        means, variances = self._moments()
        mean = self.mean.unsqueeze(-1)
        # Central moments bar by bar: no cancellation when the mean is far from zero.
        return (self.masses * (variances + (means - mean).square())).sum(-1)

    @property
    def mode(self) -> Float[Tensor, "*batch"]:
        """Midpoint of the bar of highest density; for a tail, its inner end."""
        log_density = self.log_masses - self._widths.log()
        peak = torch.stack([_MEAN / scale for scale in self._tail_scales]).log()
        log_density = log_density.clone()
        log_density[..., [0, -1]] = self.log_masses[..., [0, -1]] + peak
        middle = (self.borders[:-1] + self.borders[1:]) / 2
        # A border belongs to the bar on its right.
        middle[0] = torch.nextafter(self.borders[1], self.borders[0])
        middle[-1] = self.borders[-2]
        return middle[log_density.argmax(-1)]

    def entropy(self) -> Float[Tensor, "*batch"]:
        within = self._widths.log()
        scales = torch.stack(self._tail_scales)
        within[[0, -1]] = 0.5 * (math.pi / 2 * scales.square()).log() + 0.5
        # entr is 0 for a bar without mass, whose log mass is minus infinity.
        return (self.masses * within + torch.special.entr(self.masses)).sum(-1)

    def crps(self, value: Float[Tensor, "*values"]) -> Float[Tensor, "..."]:
        r"""Continuous ranked probability score :math:`E|Y-y| - \tfrac12 E|Y-Y'|`; lower is better.

        References:
            | Strictly Proper Scoring Rules, Prediction, and Estimation
            | (Gneiting and Raftery, 2007)
        """
        value = as_values(value, "value").to(self.borders)
        y = value[..., None]
        low, high = self.borders[:-1], self.borders[1:]
        inside = ((y - low).square() + (high - y).square()) / (2 * self._widths)
        distance = torch.where((y < low) | (y > high), (y - (low + high) / 2).abs(), inside)
        for k, z, scale in zip(
            (0, -1), self._tail_distances(value), self._tail_scales, strict=True
        ):
            distance[..., k] = scale * _half_normal_distance(z)
        return (self.masses * distance).sum(-1) - self._half_mean_difference()

    def _half_mean_difference(self) -> Tensor:
        r""":math:`\tfrac12 E|Y-Y'| = \int F(1-F)`."""
        masses = self.masses
        above = masses.cumsum(-1)
        below = above - masses
        squares = (below.square() + below * above + above.square()) / 3
        integral = self._widths * ((below + above) / 2 - squares)
        scales = torch.stack(self._tail_scales)
        tails = masses[..., [0, -1]]
        tails = scales * (tails * _MEAN - tails.square() * _MEAN_OF_LESSER)
        return integral[..., 1:-1].sum(-1) + tails.sum(-1)


def has_width(borders: Float[Tensor, " borders"]) -> bool:
    """Whether borders increase, by widths whose inverse is finite."""
    widths = borders.diff()
    return bool(((widths >= torch.finfo(widths.dtype).tiny) & widths.isfinite()).all())


def _phi(z: Tensor) -> Tensor:
    return torch.special.ndtr(z)


def _half_normal_distance(z: Tensor) -> Tensor:
    """E|H - z| of a standard half-normal H."""
    beyond = 2 * (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi) - 2 * z * _phi(-z)
    return torch.where(z <= 0, _MEAN - z, z - _MEAN + 2 * beyond)


def equal_mass_borders(draws: Float[Tensor, " draws"], n_bars: int) -> Float[Tensor, " borders"]:
    """Borders between which the draws fall in equal numbers.

    Args:
        draws: answers drawn from the prior, many times more than bars.
        n_bars: number of bars; fewer come back where the draws have ties.

    Raises:
        ValueError: if fewer than three distinct bars remain, or a draw is not finite.

    Example:
        >>> import torch
        >>> equal_mass_borders(torch.arange(101.0), 4)
        tensor([  0.,  25.,  50.,  75., 100.])
    """
    n_bars = whole_number("n_bars", n_bars, 1)
    if not bool(draws.isfinite().all()):
        raise ValueError("Expected finite draws; some are NaN or infinite.")
    draws = draws.flatten().sort().values
    position = torch.linspace(0, max(0, len(draws) - 1), n_bars + 1, dtype=torch.float64)
    borders = draws[position.round().long()].unique() if len(draws) else draws
    wide = borders.diff() >= torch.finfo(borders.dtype).tiny
    borders = torch.cat([borders[:1], borders[1:][wide]])
    if len(borders) < 4:
        raise ValueError(
            f"Expected draws with at least 4 distinct quantiles; got {len(borders)}. "
            "Give more draws, or draws that vary."
        )
    return borders
