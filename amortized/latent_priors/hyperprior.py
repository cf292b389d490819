r"""Hyperpriors: distributions over the priors that Distribution Transformers are conditioned on.

A draw is a mixture of K components, K uniform on 1..k_max, with weights Dirichlet(1, ..., 1) and

.. math:: \mu_k \sim N(0, 2^2 I), \quad \log \sigma_{kj} \sim U(\log 0.1, \log 3), \quad
    \mathrm{corr}_k \sim LKJ(2),

in units of a location and a scale for each latent. A share of the draws is nearly flat (one very
wide normal), a share nearly a point mass, and a share the program's own prior. A Wishart
distribution of the precision is not used, because its heavy tails would dominate the training.
"""

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import LKJCholesky

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.reduction import merge
from amortized.program.vectorised import draw


@dataclass(frozen=True)
class Hyperprior:
    """A distribution over Gaussian-mixture priors.

    Attributes:
        n_components: k_max, largest number of components of a prior.
        location_sd: standard deviation of the components' means, in units of the scale.
        sd: smallest and largest standard deviation of a component, log-uniform in between.
        correlation: concentration of the LKJ distribution; above 1 favours weak correlations.
        flat: share of priors that are one wide normal.
        flat_sd: its smallest and largest standard deviation.
        point: share of priors that are one very narrow normal.
        point_sd: its smallest and largest standard deviation.
        own: share of priors that are the program's own prior, if it has one.

    Example:
        >>> import torch
        >>> priors = Hyperprior().sample(torch.zeros(3), torch.ones(3), n=7)
        >>> priors.batch_shape, priors.n_components, priors.dim
        (torch.Size([7]), 5, 3)
    """

    n_components: int = 5
    location_sd: float = 2.0
    sd: tuple[float, float] = (0.1, 3.0)
    correlation: float = 2.0
    flat: float = 0.1
    flat_sd: tuple[float, float] = (3.0, 6.0)
    point: float = 0.05
    point_sd: tuple[float, float] = (0.01, 0.1)
    own: float = 0.15

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low, high = value if isinstance(value, tuple) else (value, value)
            share = field.name in ("flat", "point", "own")
            if not (0 <= low <= high) or (low == 0 and not share):
                raise ValueError(f"Expected {field.name} > 0, ranges as (low, high); got {value}.")
        if self.flat + self.point + self.own > 1:
            raise ValueError(
                f"Expected flat + point + own <= 1; got {self.flat} + {self.point} + {self.own}."
            )

    def sample(
        self,
        location: Float[Tensor, " dim"],
        scale: Float[Tensor, " dim"],
        n: int,
        own: GaussianMixture | None = None,
    ) -> GaussianMixture:
        """Draws n priors with torch's global generator, on the device of the location.

        Args:
            location: centre of the latents, in unconstrained space.
            scale: unit of each latent there.
            n: number of priors.
            own: the program's own prior over u.
        """
        k, dim = self.n_components, len(location)
        device = location.device
        shape = (n, k, dim)
        number = torch.randint(1, k + 1, (n, 1), device=device)
        kind = torch.rand(n, device=device)
        special = kind < self.flat + self.point
        number = torch.where(special.unsqueeze(-1), 1, number)
        there = torch.arange(k, device=device) < number
        # Normalised exponentials are Dirichlet(1, ..., 1) over the components that are present.
        log_weights = torch.empty(n, k, device=device).exponential_().log()
        log_weights = log_weights.masked_fill(~there, -torch.inf)
        means = self.location_sd * torch.randn(shape, device=device)
        low, high = (
            torch.where(
                kind < self.flat,
                self.flat_sd[i],
                torch.where(special, self.point_sd[i], self.sd[i]),
            ).log()[:, None, None]
            for i in (0, 1)
        )
        sd = (low + (high - low) * torch.rand(shape, device=device)).exp()
        factors = scale.unsqueeze(-1) * sd.unsqueeze(-1) * self._correlations(shape, device)
        means = location + scale * means
        drawn = GaussianMixture(log_weights, means, factors, validate_args=False)
        if own is None:
            return drawn
        return self._some_own(drawn, own, kind > 1 - self.own)

    def _correlations(self, shape: tuple[int, int, int], device: torch.device) -> Tensor:
        """Cholesky factors of correlation matrices, ``(n, k, dim, dim)``."""
        if shape[-1] == 1:
            return torch.ones(*shape, 1, device=device)
        concentration = torch.tensor(self.correlation, device=device)
        factors = draw(LKJCholesky(shape[-1], concentration, validate_args=False), shape[:2])
        # A normal draw of exactly 0 has no direction; about one factor in ten million would be NaN.
        usable = factors.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
        return torch.where(usable, factors, torch.eye(shape[-1], device=device))

    def _some_own(
        self, drawn: GaussianMixture, own: GaussianMixture, where: Tensor
    ) -> GaussianMixture:
        """Replaces a random share of the draws by the program's own prior."""
        own = merge(own, self.n_components).to(drawn.means.dtype).to(drawn.means.device)
        missing = self.n_components - own.n_components
        log_weights = torch.nn.functional.pad(own.log_weights, (0, missing), value=-torch.inf)
        means = torch.cat([own.means, own.means[:1].expand(missing, -1)])
        factors = torch.cat([own.scale_tril, own.scale_tril[:1].expand(missing, -1, -1)])
        return GaussianMixture(
            torch.where(where[:, None], log_weights, drawn.log_weights),
            torch.where(where[:, None, None], means, drawn.means),
            torch.where(where[:, None, None, None], factors, drawn.scale_tril),
            validate_args=False,
        )
