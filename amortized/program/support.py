r"""Supports of distributions, and the bijections to them.

torch's ``log_prob`` may be finite outside the support, as for an exponential below 0 or a Pareto
distribution below its scale, and the ``support`` of a transformed distribution is the codomain of
its last transform, such as the real line for a shifted exponential. Here the parts of a
distribution are examined: the components of a mixture, and the base of a transformed distribution
at the preimage of the value. Bounds may be tensors that depend on latents, also under
`torch.func.vmap`.

The bijection from the real line is torch's `biject_to`, except for intervals, where it is
:math:`a + (b - a) \Phi(u)` with the standard normal distribution function instead of the logistic:
a uniform prior is then exactly standard normal in u.
"""

from typing import Any

import torch
from pyro.distributions import (
    ExpandedDistribution,
    MaskedDistribution,
    MaskedMixture,
    SineBivariateVonMises,
    SineSkewed,
)
from pyro.distributions.mixture import MaskedConstraint
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import (
    Independent,
    MixtureSameFamily,
    Normal,
    TransformedDistribution,
    VonMises,
    biject_to,
    constraints,
)
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform

from amortized.program.intervals import Circle, CircleTransform, ProbitTransform

_BOUNDED = (
    constraints.greater_than,
    constraints.greater_than_eq,
    constraints.less_than,
    constraints.interval,
    constraints.half_open_interval,
)
_INTERVALS = type(constraints.interval(0, 1)), type(constraints.half_open_interval(0, 1))
_ROUNDING = 1e-5  # tolerance for vectors, which may be rounded to float32


class Image(constraints.Constraint):
    """The image of a support under transforms.

    Args:
        base: the support.
        transforms: applied in this order.
    """

    def __init__(self, base: Any, transforms: list[Transform]) -> None:
        self.base, self.transform = base, ComposeTransform(transforms)
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return bool(self.base.is_discrete)

    @property
    def event_dim(self) -> int:  # type: ignore[override]
        domain, codomain = self.transform.domain.event_dim, self.transform.codomain.event_dim
        return int(max(codomain, self.base.event_dim + codomain - domain))

    def check(self, value: Tensor) -> Tensor:
        inside, value, n = _preimage(self.transform.parts, value, self.event_dim)
        return inside & _all(check_constraint(self.base, value), n - self.base.event_dim)

    def __repr__(self) -> str:
        return f"{self.transform.parts} of {self.base}"


def support_of(fn: Any) -> Any:
    """The support of a distribution, determined from its parts where possible.

    Example:
        >>> from torch.distributions import AffineTransform, Exponential
        >>> shifted = TransformedDistribution(Exponential(1.0), AffineTransform(2.0, 1.0))
        >>> shifted.support.check(torch.tensor(1.0)), support_of(shifted).check(torch.tensor(1.0))
        (tensor(True), tensor(False))
    """
    if isinstance(fn, Independent):
        base, n = support_of(fn.base_dist), fn.reinterpreted_batch_ndims
    elif isinstance(fn, MaskedDistribution | ExpandedDistribution):
        base, n = support_of(fn.base_dist), 0
    elif isinstance(fn, VonMises):  # torch's real line, on which it has infinite mass
        base, n = Circle(), 0
    elif isinstance(fn, SineBivariateVonMises):
        base, n = constraints.independent(Circle(), 1), 0
    elif isinstance(fn, SineSkewed):
        base, n = constraints.independent(Circle(), len(fn.event_shape)), 0
    elif isinstance(fn, MixtureSameFamily):
        base, n = _hull(fn.component_distribution), 0
    elif is_transformed(fn) and type(fn).support is TransformedDistribution.support:
        base = _image(support_of(fn.base_dist), fn.transforms)
        n = len(fn.event_shape) - base.event_dim
    else:
        base, n = fn.support, 0
    return constraints.independent(base, n) if n else base


def contains(fn: Any, value: Tensor) -> Tensor:
    """Whether values lie where a distribution has mass, ``(*sample, *batch)`` or broadcastable.

    Example:
        >>> contains(torch.distributions.Pareto(2.0, 1.0), torch.tensor([1.0, 3.0]))
        tensor([False,  True])
    """
    if isinstance(fn, Independent):
        inside = contains(fn.base_dist, value)
        inside = inside.expand(torch.broadcast_shapes(inside.shape, fn.base_dist.batch_shape))
        return _all(inside, fn.reinterpreted_batch_ndims)
    if isinstance(fn, MaskedDistribution):
        return contains(fn.base_dist, value) | ~torch.as_tensor(fn._mask)
    if isinstance(fn, ExpandedDistribution):
        return contains(fn.base_dist, value)
    if isinstance(fn, MaskedMixture):
        one, other = contains(fn.component1, value), contains(fn.component0, value)
        return torch.where(torch.as_tensor(fn.mask), one, other)
    if isinstance(fn, MixtureSameFamily):
        return contains(fn.component_distribution, fn._pad(value)).any(-1)
    if not is_transformed(fn):
        return check_constraint(fn.support, value)
    declared = type(fn).support is not TransformedDistribution.support
    said = check_constraint(fn.support, value) if declared else True
    inside, value, n = _preimage(fn.transforms, value, len(fn.event_shape))
    return said & inside & _all(contains(fn.base_dist, value), n - len(fn.base_dist.event_shape))


def outside(fn: Any, value: Tensor) -> Tensor:
    """The distance of values from the support, summed over them; 0 where all lie inside.

    The distance to an interval is that to its nearer end, for transformed distributions measured
    before the transforms; for any other support it is 1.

    Example:
        >>> outside(torch.distributions.Uniform(0.0, 1.0), torch.tensor([0.5, 3.0]))
        tensor(2.)
    """
    if isinstance(fn, Independent | ExpandedDistribution):
        return outside(fn.base_dist, value)
    if is_transformed(fn) and isinstance(support_of(fn), Image):
        return outside(fn.base_dist, _preimage(fn.transforms, value, len(fn.event_shape))[1])
    if not isinstance(fn.support, _BOUNDED):
        return (~contains(fn, value)).to(value.dtype).sum()
    low = getattr(fn.support, "lower_bound", -torch.inf)
    high = getattr(fn.support, "upper_bound", torch.inf)
    far = (low - value).clamp(min=0.0) + (value - high).clamp(min=0.0)
    return far.nan_to_num(1.0).sum()


def is_fixed(fn: Any) -> bool:
    """Whether the support does not depend on the parameters of the distribution."""
    if isinstance(fn, Independent | MaskedDistribution | ExpandedDistribution):
        return is_fixed(fn.base_dist)
    if isinstance(fn, MixtureSameFamily):
        return is_fixed(fn.component_distribution)
    support = support_of(fn)
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    parts = vars(support).values()
    return not isinstance(support, Image | MaskedConstraint) and not any(
        isinstance(part, Tensor) for part in parts
    )


def log_prob(fn: Any, value: Tensor) -> Tensor:
    """The log density or probability of a distribution, -inf outside its support.

    Example:
        >>> log_prob(torch.distributions.Exponential(1.0), torch.tensor([-1.0, 1.0]))
        tensor([-inf, -1.])
    """
    if is_everywhere(support_of(fn)):
        return fn.log_prob(value)
    if isinstance(fn, Independent):
        each = log_prob(fn.base_dist, value)
        return each.flatten(-n).sum(-1) if (n := fn.reinterpreted_batch_ndims) else each
    if isinstance(fn, MaskedDistribution) and fn._mask is not False:
        return scale_and_mask(log_prob(fn.base_dist, value), mask=fn._mask)
    if isinstance(fn, MaskedMixture):
        one, other = log_prob(fn.component1, value), log_prob(fn.component0, value)
        return torch.where(torch.as_tensor(fn.mask), one, other)
    if isinstance(fn, MixtureSameFamily):
        each = log_prob(fn.component_distribution, fn._pad(value))
        return torch.logsumexp(each + fn.mixture_distribution.logits.log_softmax(-1), -1)
    inside: Tensor = contains(fn, value)
    point: Any = point_in(fn)
    if point is None:
        return torch.where(inside, fn.log_prob(value), -torch.inf)
    # Outside, the density and its gradient may be NaN. Of observations the support is the same for
    # all particles, so that a sum costs less than a choice between densities.
    value = torch.where(inside[(...,) + (None,) * len(fn.event_shape)], value, point)
    each = fn.log_prob(value)
    zero = torch.zeros((), dtype=each.dtype, device=each.device)
    return each + torch.where(inside, zero, -torch.inf)


def cdf(fn: Any, value: Tensor) -> Tensor:
    """The distribution function, 0 below the support and 1 above it, where torch's is neither.

    Raises:
        NotImplementedError: if torch has no distribution function of this family.

    Example:
        >>> cdf(torch.distributions.Exponential(1.0), torch.tensor([-1.0, 0.0]))
        tensor([0., 0.])
    """
    if isinstance(fn, Normal):  # accurate also where torch's own rounds to 0
        return torch.special.ndtr((value - fn.loc) / fn.scale)
    if isinstance(fn, MixtureSameFamily):
        each = cdf(fn.component_distribution, fn._pad(value))
        return (each * fn.mixture_distribution.probs).sum(-1)
    low, high = _ends(support_of(fn), value)
    inside = fn.cdf(torch.minimum(torch.maximum(value, low), high))
    one = torch.ones((), dtype=inside.dtype, device=inside.device)
    return torch.where(value < low, 0 * one, torch.where(value > high, one, inside))


def _ends(support: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    """The ends of the support of single numbers."""
    if isinstance(support, Image):
        low, high = (support.transform(end) for end in _ends(support.base, like))
        return torch.minimum(low, high), torch.maximum(low, high)
    bounded = isinstance(support, _BOUNDED)
    low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
    return (
        torch.as_tensor(low if bounded and low is not None else -torch.inf).to(like),
        torch.as_tensor(high if bounded and high is not None else torch.inf).to(like),
    )


def is_transformed(fn: Any) -> bool:
    """Whether the density is that of the base at the preimage, with a Jacobian."""
    return (
        isinstance(fn, TransformedDistribution)
        and type(fn).log_prob is TransformedDistribution.log_prob
    )


def is_interval(support: Any) -> bool:
    """Whether single elements lie between two finite ends."""
    return isinstance(support, _INTERVALS)


def is_everywhere(support: Any) -> bool:
    """Whether a support has no bounds: the real line, or all angles."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return isinstance(support, type(constraints.real) | Circle)


def _image(support: Any, transforms: list[Transform]) -> Any:
    """The codomain of the last transform, if the support is the whole domain of the first."""
    for i, transform in enumerate(transforms):
        domain = transform.domain
        fills = is_everywhere(support) and is_everywhere(domain)
        if not fills and _bounds(support) != _bounds(domain):
            return Image(support, transforms[i:])
        support = transform.codomain
    return support


def _bounds(support: Any) -> tuple[Any, ...]:
    """Ends of an interval, for comparison; unequal to all others if they are not fixed."""
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    return (_number(low), _number(high)) if isinstance(support, _BOUNDED) else (object(),)


def _number(end: Any) -> Any:
    """An end as a number if it is the same for all elements; otherwise unequal to all others."""
    if not isinstance(end, Tensor):
        return end
    try:
        return end.flatten()[0].item() if bool((end == end.flatten()[0]).all()) else object()
    except RuntimeError:  # an end that depends on latents, under vmap
        return object()


def _hull(components: Any) -> Any:
    """The smallest interval around the supports of a mixture's components."""
    support: Any = support_of(components)
    n = 0
    while isinstance(support, constraints.independent):
        support, n = support.base_constraint, n + support.reinterpreted_batch_ndims
    if not isinstance(support, _BOUNDED):
        return constraints.independent(support, n) if n else support
    shape, dim = components.batch_shape + components.event_shape, -1 - len(components.event_shape)
    ends = {}
    for name, reduce in (("lower_bound", torch.amin), ("upper_bound", torch.amax)):
        end = getattr(support, name, None)
        ends[name] = reduce(end.expand(shape), dim) if isinstance(end, Tensor) else end
    hull = type(support)(*(end for end in ends.values() if end is not None))
    return constraints.independent(hull, n) if n else hull


def _preimage(transforms: list[Transform], value: Tensor, n: int) -> tuple[Tensor, Tensor, int]:
    """Whether a value is in the image of the transforms, its preimage, and the event dimensions."""
    inside = torch.ones((), dtype=torch.bool, device=value.device)
    for transform in reversed(transforms):
        inside = inside & _all(
            check_constraint(transform.codomain, value), n - transform.codomain.event_dim
        )
        value = transform.inv(value)
        n += transform.domain.event_dim - transform.codomain.event_dim
        inside = inside & _all(
            check_constraint(transform.domain, value), n - transform.domain.event_dim
        )
    return inside, value, n


def _all(inside: Tensor, n: int) -> Tensor:
    return inside.flatten(-n).all(-1) if n > 0 else inside


def check_constraint(support: Any, value: Tensor) -> Tensor:
    """Whether values satisfy a constraint, with a tolerance for the rounding of vectors."""
    if isinstance(support, constraints.independent):
        inside = check_constraint(support.base_constraint, value)
        return _all(inside, support.reinterpreted_batch_ndims)
    if isinstance(support, type(constraints.simplex)):
        return (value >= 0).all(-1) & ((value.sum(-1) - 1).abs() < _ROUNDING)
    if isinstance(support, type(constraints.corr_cholesky)):
        near = (value.square().sum(-1) - 1).abs() < _ROUNDING
        return near.all(-1) & (value.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    if isinstance(support, constraints.multinomial):  # torch checks neither integers nor totals
        counts = (value >= 0) & (value % 1 == 0)
        return counts.all(-1) & (value.sum(-1) == support.upper_bound)
    try:
        return support.check(value)
    except NotImplementedError:  # a support that cannot be checked
        return torch.ones((), dtype=torch.bool, device=value.device)


def point_in(fn: Any) -> Any:
    """Some value in the support of single elements; None if none is easily found."""
    if isinstance(fn, Independent | ExpandedDistribution | MaskedDistribution):
        return point_in(fn.base_dist)
    if is_transformed(fn):
        point = point_in(fn.base_dist)
        if point is None and not fn.event_shape and is_everywhere(fn.base_dist.support):
            point = 0.0
        if point is None:
            return None
        for transform in fn.transforms:
            point = transform(torch.as_tensor(point))
        return point
    low: Any = getattr(fn.support, "lower_bound", None)
    high: Any = getattr(fn.support, "upper_bound", None)
    if fn.support.event_dim or (low is None and high is None):
        return 0.0 if isinstance(fn.support, type(constraints.boolean)) else None
    if fn.support.is_discrete:
        return high if low is None else low
    if low is None:
        return None if high is None else high - 1
    return low + 1 if high is None else (low + high) / 2


def bijection_to(support: Any) -> Transform:
    """The bijection to a support, such as one from `support_of`.

    Raises:
        NotImplementedError: if there is none, as for discrete supports.

    Example:
        >>> bijection_to(constraints.interval(2.0, 4.0))(torch.zeros(2))
        tensor([3., 3.])
        >>> bijection_to(constraints.positive)(torch.zeros(2))
        tensor([1., 1.])
    """
    if isinstance(support, Image):
        return ComposeTransform([bijection_to(support.base), *support.transform.parts])
    if isinstance(support, constraints.independent):
        return IndependentTransform(
            bijection_to(support.base_constraint), support.reinterpreted_batch_ndims
        )
    if isinstance(support, Circle):
        return CircleTransform()
    if isinstance(support, _INTERVALS):
        return ProbitTransform(support.lower_bound, support.upper_bound)
    return biject_to(support)
