"""Exact posteriors of programs, recognised from the values of their density.

A log density that is a linear combination of the sufficient statistics of an exponential family
belongs to that family. The density is therefore evaluated at least at as many points as the family
has parameters, and the parameters are solved for. The resulting candidate is then checked by
`amortized.sampling.exact.proof`; the remaining constant is the log evidence. Families:

* all latents real and the density quadratic: normal (normal-normal, linear regression, smoothing);
* one latent whose prior is a mixture of normals: a mixture of normals;
* one positive latent beside real ones: normal and inverse gamma, or normal and gamma
  (regression with an unknown noise variance or precision);
* one latent on (0, 1): beta (Bernoulli, binomial, geometric, negative binomial);
* one positive latent: gamma (Poisson, exponential), or inverse gamma (normal variance);
* one latent on the simplex: Dirichlet (categorical, multinomial).

The elements of one latent may be independent of each other, as in a plate.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions import InverseGamma
from torch import Tensor
from torch.distributions import (
    Beta,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    constraints,
)

from amortized.program.density import ProgramDensity
from amortized.program.support import bijection_to
from amortized.sampling.exact.normal_gamma import normal_gammas
from amortized.sampling.exact.proof import proved_evidence
from amortized.sampling.exact.quadratic import quadratic_terms


@dataclass(frozen=True)
class ExactPosterior:
    """A posterior in closed form, for a batch of datasets.

    Attributes:
        distribution: distribution of u itself if every latent is real, otherwise of the elements of
            the one latent.
        log_evidence: ``(batch,)``.
        family: name of the family.
        latents: packs latents ``{name: (..., batch, *event)}`` into a value of the distribution,
            and unpacks them.
    """

    distribution: Distribution
    log_evidence: Float[Tensor, " batch"]
    family: str
    latents: Any

    def sample(self, n: int) -> dict[str, Tensor]:
        """Independent draws of the latents, each ``(n, batch, ...)``."""
        return self.latents.unpack(self.distribution.sample((n,)))

    def log_prob(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Log density of latents ``{name: (..., batch, *event)}``."""
        return self.distribution.log_prob(self.latents.pack(latents))


def exact(density: ProgramDensity) -> ExactPosterior:
    """Computes the posterior of a program in closed form, if it has one.

    Raises:
        ValueError: if the density belongs to none of the families.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def counts(x, y=None):
        ...     rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...     return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)
        >>> y = torch.tensor([[1.0, 2.0, 0.0]])
        >>> answer = exact(ProgramDensity(counts, torch.zeros(1, 3, 0), y))
        >>> answer.family, answer.distribution.base_dist.concentration.item()
        ('gamma', 5.0)
    """
    if density.y.dtype != torch.float64:  # the fit is accepted only up to float64 rounding
        density = ProgramDensity(density.model, density.x.double(), density.y.double())
    reasons = []
    for guess in _guesses(density):
        try:
            return replace(guess, log_evidence=proved_evidence(density, guess))
        except ValueError as reason:
            reasons.append(f"{guess.family} is ruled out: {reason}")
    raise ValueError(
        "Expected a program with a conjugate posterior (normal, mixture of normals, normal and "
        "gamma or inverse gamma, beta, gamma, inverse gamma, Dirichlet); its latents "
        f"{list(density.layout)} have none that was found"
        + "".join(f"; {reason}" for reason in reasons)
        + ". Use method='smc' or 'nuts'."
    )


def _guesses(density: ProgramDensity) -> Iterator[ExactPosterior]:
    """Candidate families given the supports of the latents; their evidence is not yet known."""
    if all(_is(support, constraints.real) for support in density.supports.values()):
        guesses = (_normal, _normal_mixture)
        yield from (guess for make in guesses if (guess := make(density)) is not None)
    elif len(density.supports) > 1:
        yield from _normal_and_scale(density)
    else:
        support = next(iter(density.supports.values()))
        for family in _FAMILIES:
            if family.covers(support):
                guess = _exponential_family(density, family)
                if guess is not None:
                    yield guess


def _unproved(
    density: ProgramDensity, distribution: Distribution, family: str, latents: Any = None
) -> ExactPosterior:
    nothing = density.y.new_full((density.n_datasets,), torch.nan)
    latents = _EndToEnd(density.layout) if latents is None else latents
    return ExactPosterior(distribution, nothing, family, latents)


def _is(support: object, kind: object) -> bool:
    return type(support) is type(kind)


@dataclass(frozen=True)
class _EndToEnd:
    """Packs latents as long as u end to end; a class, so that it can be pickled."""

    layout: dict[str, tuple[slice, torch.Size]]

    def pack(self, latents: Mapping[str, Tensor]) -> Tensor:
        parts = [
            latents[name].flatten(latents[name].ndim - len(shape))
            if shape
            else latents[name][..., None]
            for name, (_, shape) in self.layout.items()
        ]
        return torch.cat(parts, -1)

    def unpack(self, u: Tensor) -> dict[str, Tensor]:
        return {
            name: u[..., where].reshape(u.shape[:-1] + shape)
            for name, (where, shape) in self.layout.items()
        }


@dataclass(frozen=True)
class _OneLatent:
    """Packs and unpacks the elements of a single latent."""

    name: str
    event: torch.Size

    def pack(self, latents: Mapping[str, Tensor]) -> Tensor:
        value = latents[self.name]
        return value.reshape(*value.shape[: value.ndim - len(self.event)], -1)

    def unpack(self, value: Tensor) -> dict[str, Tensor]:
        return {self.name: value.reshape(value.shape[:-1] + self.event)}


def _normal_and_scale(density: ProgramDensity) -> Iterator[ExactPosterior]:
    """One positive latent besides real ones: normal-gamma or normal-inverse-gamma."""
    scales = [name for name, s in density.supports.items() if not _is(s, constraints.real)]
    if len(scales) != 1 or not _is_positive(density.supports[scales[0]]):
        return
    where, shape = density.layout[scales[0]]
    if shape.numel() != 1:
        return
    for distribution in normal_gammas(density, where.start):
        family = "normal inverse gamma" if distribution.is_variance else "normal gamma"
        yield _unproved(density, distribution, family)


def _normal(density: ProgramDensity) -> ExactPosterior | None:
    precision, linear = quadratic_terms(density.log_density, density.y, density.dim)
    factor, info = torch.linalg.cholesky_ex(precision)
    if info.any() or not torch.isfinite(precision).all():
        return None
    mean = torch.cholesky_solve(linear.unsqueeze(-1), factor).squeeze(-1)
    distribution = MultivariateNormal(mean, precision_matrix=precision, validate_args=False)
    return _unproved(density, distribution, "normal")


def _normal_mixture(density: ProgramDensity) -> ExactPosterior | None:
    """Updates each component of the prior; its weight is multiplied by its own evidence."""
    prior = next(iter(density.priors.values()))
    while isinstance(prior, Independent):
        prior = prior.base_dist
    if len(density.priors) != 1 or not isinstance(prior, MixtureSameFamily) or prior.batch_shape:
        return None
    component = prior.component_distribution
    if not prior.event_shape:
        mean, covariance = component.mean.unsqueeze(-1), component.variance[:, None, None]
    elif isinstance(component, MultivariateNormal):
        mean, covariance = component.loc, component.covariance_matrix
    else:
        mean, covariance = component.mean, torch.diag_embed(component.variance)
    mean, covariance = mean.to(density.y.dtype), covariance.to(density.y.dtype)
    precision, linear = quadratic_terms(density.log_likelihood, density.y, density.dim)
    prior_precision = covariance.inverse()
    posterior_precision = prior_precision + precision.unsqueeze(1)
    moment = (prior_precision @ mean.unsqueeze(-1)).squeeze(-1) + linear.unsqueeze(1)
    posterior_mean = torch.linalg.solve(posterior_precision, moment)
    components = MultivariateNormal(
        posterior_mean, precision_matrix=posterior_precision, validate_args=False
    )
    log_weights = (
        prior.mixture_distribution.logits
        + MultivariateNormal(mean, covariance).log_prob(posterior_mean)
        + density.log_likelihood(posterior_mean)
        - components.log_prob(posterior_mean)
    )
    weights = Categorical(logits=log_weights.detach())
    distribution = MixtureSameFamily(weights, components, validate_args=False)
    return _unproved(density, distribution, "mixture of normals")


@dataclass(frozen=True)
class _Family:
    """An exponential family: sufficient statistics and the map from coefficients to the member."""

    name: str
    covers: Callable[[object], bool]
    statistics: tuple[Callable[[Tensor], Tensor], ...]
    distribution: Callable[..., Distribution]


def _is_everywhere(bound: object, value: float) -> bool:
    """Whether a bound equals this value for every element."""
    return bool((torch.as_tensor(bound) == value).all())


def _on_unit_interval(support: object) -> bool:
    return (
        isinstance(support, constraints.interval)
        and _is_everywhere(support.lower_bound, 0)
        and _is_everywhere(support.upper_bound, 1)
    )


def _is_positive(support: object) -> bool:
    return (
        hasattr(support, "lower_bound")
        and not hasattr(support, "upper_bound")
        and _is_everywhere(support.lower_bound, 0)
    )


_FAMILIES = (
    _Family(
        "beta",
        _on_unit_interval,
        (torch.log, lambda value: torch.log1p(-value)),
        lambda a, b: Independent(Beta(a + 1, b + 1), 1),
    ),
    _Family(
        "gamma",
        _is_positive,
        (torch.log, lambda value: value),
        lambda a, b: Independent(Gamma(a + 1, -b), 1),
    ),
    _Family(
        "inverse gamma",
        _is_positive,
        (torch.log, torch.reciprocal),
        lambda a, b: InverseGamma(-a - 1, -b).to_event(1),
    ),
    _Family(
        "Dirichlet",
        lambda support: _is(support, constraints.simplex),
        (torch.log,),
        lambda a: Dirichlet(a + 1),
    ),
)


def _exponential_family(density: ProgramDensity, family: _Family) -> ExactPosterior | None:
    ((name, support),) = density.supports.items()
    shape = density.layout[name][1]
    transform = bijection_to(support)
    n_unknown = len(family.statistics) * (density.dim + 1) + 1
    generator = torch.Generator().manual_seed(0)
    points = (
        torch.rand(2 * n_unknown + 4, *shape, generator=generator, dtype=density.y.dtype) * 3 - 1.5
    )
    values = transform(points)
    jacobian = transform.log_abs_det_jacobian(points, values).reshape(len(points), -1).sum(-1)
    u = points.reshape(1, len(points), -1).expand(density.n_datasets, -1, -1)
    target = density.log_density(u) - jacobian
    flat = values.reshape(len(points), -1)
    columns = [statistic(flat) for statistic in family.statistics]
    design = torch.cat([*columns, torch.ones_like(flat[:, :1])], -1)
    if not torch.isfinite(target).all():
        return None
    solution = torch.linalg.lstsq(design, target.T).solution.T[:, :-1]
    try:
        distribution = family.distribution(*solution.chunk(len(family.statistics), -1))
    except ValueError:  # coefficients outside the family's parameter space
        return None
    return _unproved(
        density, distribution, family.name, _OneLatent(name, torch.Size(values.shape[1:]))
    )
