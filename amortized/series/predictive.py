"""Predictive distributions of series: mixtures of normals, and of normals of the logarithm."""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from scipy.special import stdtr, stdtrit
from torch import Tensor
from torch.distributions import Distribution, StudentT, constraints

_BISECTIONS, _SECANTS = 14, 12
_FAINT = -14.0  # log weight of components that move no quantile

Each = Float[Tensor, "... components"]


class SeriesPredictive(Distribution):
    r"""A mixture whose components are normal in y or in log y.

    Args:
        log_weights: normalised over the last axis, ``(*batch, C)``.
        loc: location of y, or of log y, ``(*batch, C)``.
        scale: likewise.
        is_log: which components are of log y, ``(C,)``.
        dof: degrees of freedom, ``(*batch, 1)``, if components are Student's t; None if normal.

    Example:
        >>> one = torch.zeros(1)
        >>> law = SeriesPredictive(one, one, one + 1.0, torch.tensor([True]))
        >>> round(law.icdf(torch.tensor(0.5)).item(), 4), round(law.mean.item(), 3)
        (1.0, 1.649)
    """

    arg_constraints: dict[str, Any] = {}
    support = constraints.real

    def __init__(
        self, log_weights: Each, loc: Each, scale: Each, is_log: Tensor, dof: Tensor | None = None
    ) -> None:
        self.log_weights, self.loc, self.scale = torch.broadcast_tensors(log_weights, loc, scale)
        self.is_log = is_log.expand(self.loc.shape)
        self.dof = dof
        super().__init__(self.loc.shape[:-1], validate_args=False)

    def _standard(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised values of each component, and the log derivative of the map."""
        value = value.unsqueeze(-1)
        positive = value > 0
        log = value.clamp_min(torch.finfo(value.dtype).tiny).log()
        x = torch.where(self.is_log, log, value)
        z = (x - self.loc) / self.scale
        z = torch.where(self.is_log & ~positive, -torch.inf, z)
        return z, torch.where(self.is_log, -log, 0.0) - self.scale.log()

    def log_prob(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log density of values that broadcast with the batch."""
        z, slope = self._standard(value)
        outside = z.isinf()
        z = z.masked_fill(outside, 0.0)
        if self.dof is None:
            density = -0.5 * z.square() - 0.5 * math.log(2 * math.pi)
        else:
            density = StudentT(self.dof, validate_args=False).log_prob(z)
        density = (density + slope).masked_fill(outside, -torch.inf)
        return (self.log_weights + density).logsumexp(-1)

    def cdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Probability of at most a value."""
        z, _ = self._standard(value)
        if self.dof is None:
            below = torch.special.ndtr(z)
        else:
            dof = self.dof.expand(z.shape).numpy()
            below = torch.from_numpy(stdtr(dof, z.double().numpy())).to(z)
        return (self.log_weights.exp() * below).sum(-1).clamp(0, 1)

    def icdf(self, value: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Quantiles, by bisection and secants; levels broadcast with the batch."""
        n_heavy = int((self.log_weights > _FAINT).sum(-1).max())
        # Faint components have a part in levels that are as rare.
        far = bool(torch.minimum(value, 1 - value).min() < 100 * math.exp(_FAINT))
        if n_heavy < self.loc.shape[-1] and not far:
            return self.pruned(n_heavy).icdf(value)
        shape = torch.broadcast_shapes(value.shape, self.batch_shape)
        level = value.to(self.loc).expand(shape)
        # A mixture's quantile lies between the least and the largest of its components'.
        each = self.loc + self.scale * self._standard_quantile(level)[..., None]
        each = torch.where(self.is_log, each.clamp_max(700.0).exp(), each)
        heavy = self.log_weights > (-torch.inf if far else _FAINT)
        low = each.masked_fill(~heavy, torch.inf).amin(-1)
        high = each.masked_fill(~heavy, -torch.inf).amax(-1)
        # Tails of log y are far out: halves are taken of the inverse hyperbolic sine.
        slope = torch.where(self.is_log, self.loc.clamp(-80.0, 80.0).exp(), 1.0)
        weight = self.log_weights.exp()
        middle = (weight * torch.where(self.is_log, slope, self.loc)).sum(-1)
        unit = (weight * self.scale * slope).sum(-1)
        low, high = (((end - middle) / unit).asinh() for end in (low, high))

        def excess(v: Tensor) -> Tensor:
            return self.cdf(middle + unit * v.sinh()) - level

        return middle + unit * _root(excess, low, high).sinh()

    def _standard_quantile(self, level: Tensor) -> Tensor:
        """Quantile of one component in standard units."""
        if self.dof is None:
            return torch.special.ndtri(level)
        dof = self.dof[..., 0].expand(level.shape).numpy()
        return torch.from_numpy(stdtrit(dof, level.double().numpy())).to(level)

    def _moments(self) -> tuple[Tensor, Tensor]:
        variance = self.scale.square()
        if self.dof is not None:
            variance = variance * self.dof / (self.dof - 2).clamp_min(0.5)
        variance = torch.where(self.is_log, variance.clamp_max(20.0), variance)
        centre = torch.where(self.is_log, self.loc + variance / 2, self.loc)
        mean = torch.where(self.is_log, centre.clamp_max(80.0).exp(), centre)
        log_variance = mean.square() * variance.clamp_max(20.0).expm1()
        return mean, torch.where(self.is_log, log_variance, variance)

    @property
    def mean(self) -> Float[Tensor, "..."]:
        """The mean; of a component of log y that of the log-normal distribution."""
        return (self.log_weights.exp() * self._moments()[0]).sum(-1)

    @property
    def variance(self) -> Float[Tensor, "..."]:
        """The variance."""
        mean, variance = self._moments()
        weight = self.log_weights.exp()
        middle = (weight * mean).sum(-1, keepdim=True)
        return (weight * (variance + (mean - middle).square())).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Independent draws."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            return self.icdf(torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device))

    def pruned(self, n_components: int) -> "SeriesPredictive":
        """The mixture of its heaviest components."""
        if n_components >= self.loc.shape[-1]:
            return self
        weight, which = self.log_weights.topk(n_components, -1)
        loc, scale, is_log = (p.gather(-1, which) for p in (self.loc, self.scale, self.is_log))
        return SeriesPredictive(weight.log_softmax(-1), loc, scale, is_log, self.dof)

    def padded(self, n_components: int) -> "SeriesPredictive":
        """The same mixture with components of weight zero, up to a number."""
        more = n_components - self.loc.shape[-1]
        if more <= 0:
            return self
        weight = torch.nn.functional.pad(self.log_weights, (0, more), value=-torch.inf)
        loc = torch.nn.functional.pad(self.loc, (0, more))
        scale = torch.nn.functional.pad(self.scale, (0, more), value=1.0)
        is_log = torch.nn.functional.pad(self.is_log, (0, more))
        return SeriesPredictive(weight, loc, scale, is_log, self.dof)


def _root(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Roots of increasing functions: halves, then secants that keep the root between (Illinois)."""
    for _ in range(_BISECTIONS):
        half = (low + high) / 2
        below = f(half) < 0
        low, high = torch.where(below, half, low), torch.where(below, high, half)
    at_low, at_high, x = f(low), f(high), low
    was_below = torch.zeros_like(low, dtype=torch.bool)
    for step in range(_SECANTS):
        x = (low * at_high - high * at_low) / (at_high - at_low)
        x = torch.where((x > low) & (x < high), x, (low + high) / 2)
        at = f(x)
        below = at < 0
        # An end that stays twice counts half, so that it moves the next time.
        share = torch.where(below == was_below, 0.5, 1.0) if step else 1.0
        at_low, at_high = (
            torch.where(below, at, at_low * share),
            torch.where(below, at_high * share, at),
        )
        low, high = torch.where(below, x, low), torch.where(below, high, x)
        was_below = below
    return x
