r"""Gaussian processes with a random scale: Student-t processes, and others by quadrature.

.. math:: s \sim p(s), \qquad y \mid s \sim N(0, s \Sigma), \qquad \Sigma = K + \sigma^2 I

With :math:`q = y^\top \Sigma^{-1} y`, only the scale depends on the targets beyond their mean:
:math:`y^* \mid y, s \sim N(m, s v)` with the mean and variance of the Gaussian process. If
:math:`s \sim \mathrm{InvGamma}(a, b)`, then

.. math::
    s \mid y \sim \mathrm{InvGamma}(a + n / 2, b + q / 2), \qquad
    y^* \mid y \sim t_{2 a + n} \left( m, v \, \frac{2 b + q}{2 a + n} \right),

a Student-t process. For any other prior of s the integrals over it are one-dimensional and computed
on a grid in unconstrained space by the trapezoidal rule, which converges exponentially for smooth
integrands.

References:
    Shah, Wilson and Ghahramani, Student-t processes as alternatives to Gaussian processes (2014),
    arXiv 1402.4306. Rasmussen and Williams, Gaussian Processes for Machine Learning (2006),
    section 9.9.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import distributions as dist
from torch import Tensor
from torch.distributions import Categorical, Distribution, MixtureSameFamily, Normal

from amortized.priors.program_prior import ProgramPrior
from amortized.priors.regression.gaussian_process import GaussianProcessPrior
from amortized.priors.task import TaskBatch
from amortized.program.observations.student_t import StudentT
from amortized.program.support import bijection_to, log_prob, support_of

_N_NODES = 400
_REACH = 48.0  # of the first grid in u, which finds where the integrand is
_NEGLIGIBLE = 60.0  # nats below the maximum


@dataclass(frozen=True)
class Nodes:
    """The posterior of the scale on a grid.

    Attributes:
        u: the grid, in unconstrained space.
        values: scales at the grid.
        log_weights: normalised log weights.
        quadratic: q of each dataset.
        prior: of the scale.
    """

    u: Float[Tensor, "batch nodes"]
    values: Float[Tensor, "batch nodes"]
    log_weights: Float[Tensor, "batch nodes"]
    quadratic: Float[Tensor, " batch"]
    prior: Distribution

    def sample(self, shape: tuple[int, ...]) -> Tensor:
        """Draws by inversion of the distribution function, linear in u between the nodes."""
        level = self.log_weights.exp().cumsum(-1).contiguous()
        level = level / level[:, -1:]
        n = torch.Size(shape).numel()
        wanted = torch.rand(len(level), n, dtype=level.dtype)
        upper = torch.searchsorted(level, wanted).clamp(1, level.shape[1] - 1)
        ends = [(level.gather(1, i), self.u.gather(1, i)) for i in (upper - 1, upper)]
        (low, left), (high, right) = ends
        share = ((wanted - low) / (high - low).clamp_min(1e-300)).clamp(0, 1)
        u = left + share * (right - left)
        return bijection_to(support_of(self.prior))(u).reshape(len(level), *shape).movedim(0, -1)


@dataclass(frozen=True)
class ScaledProcessPosterior:
    """The exact posterior of the scale and of the function.

    Attributes:
        process: the Gaussian process with scale 1.
        x: inputs that were seen.
        y: their targets.
        log_evidence: ``log p(y | x)``.
        scale: posterior of the scale; an inverse gamma, or weighted nodes.
        prior: of the scale.
    """

    process: GaussianProcessPrior
    x: Float[Tensor, "batch n features"]
    y: Float[Tensor, "batch n"]
    log_evidence: Float[Tensor, " batch"]
    scale: dist.InverseGamma | Nodes
    prior: Distribution

    def sample(self, n: int) -> dict[str, Tensor]:
        """Independent draws of the scale, ``(n, batch)``."""
        return {"scale": self.scale.sample((n,))}

    def log_prob(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Log density of the scale, ``(..., batch)``."""
        value = latents["scale"]
        if isinstance(self.scale, dist.InverseGamma):
            return log_prob(self.scale, value)
        n, quadratic = self.y.shape[-1], self.scale.quadratic
        at_one = self.process.log_evidence(self.x, self.y) + quadratic / 2
        log_likelihood = at_one - n / 2 * value.log() - quadratic / (2 * value)
        return log_prob(self.prior, value) + log_likelihood - self.log_evidence

    def predictive(self, x: Float[Tensor, "batch m features"]) -> Distribution:
        """Predictive of each row, noise included: Student's t, or a mixture of normals."""
        batch = TaskBatch(self.x, self.y, x, self.y.new_zeros(x.shape[:-1]))
        unit = self.process.posterior_predictive(batch)
        if isinstance(self.scale, dist.InverseGamma):
            alpha, beta = self.scale.concentration.unsqueeze(-1), self.scale.rate.unsqueeze(-1)
            return StudentT(2 * alpha, unit.loc, unit.scale * (beta / alpha).sqrt())
        spread = unit.scale.unsqueeze(-1) * self.scale.values.sqrt().unsqueeze(1)
        weights = Categorical(logits=self.scale.log_weights.unsqueeze(1).expand(spread.shape))
        return MixtureSameFamily(weights, Normal(unit.loc.unsqueeze(-1).expand_as(spread), spread))


class ScaledGaussianProcessPrior(ProgramPrior):
    """A Gaussian process whose variance, noise included, has a random factor.

    It has an outputscale and a noise of the right ratio but not of the right size; targets that are
    all too large, or too small, are no surprise to it. Its mean is that of the process, so that
    it follows an outlier; only the variance differs.

    Args:
        process: Gaussian process with fixed hyperparameters, in which the scale is 1.
        scale: distribution of the factor on its variance; an inverse gamma gives a Student-t
            process, any other on positive numbers is integrated out by quadrature.

    Raises:
        ValueError: if the hyperparameters of the process are latent, or the scale is not a positive
            scalar.

    Example:
        >>> process = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.1)
        >>> prior = ScaledGaussianProcessPrior(process, dist.InverseGamma(2.0, 2.0))
        >>> batch = prior.sample(4, 10, 3, seed=0)
        >>> prior.posterior_predictive(batch).df[0, 0]
        tensor(14.)
    """

    def __init__(self, process: GaussianProcessPrior, scale: Distribution) -> None:
        if not process.is_fixed:
            raise ValueError(
                "Expected a process with fixed hyperparameters; got latent ones. Use the process "
                "alone, whose outputscale may be a distribution, with a sampler."
            )
        lower = getattr(scale.support, "lower_bound", None)
        if scale.batch_shape or scale.event_shape or lower is None or bool(lower < 0):
            raise ValueError(f"Expected one scale with a positive support; got {scale}.")
        self.process, self.scale = process, scale

    def _inputs(self, n_tasks: int, n_rows: int) -> Tensor:
        return self.process._inputs(n_tasks, n_rows)

    def model(self, x: Float[Tensor, "rows features"], y: Tensor | None = None) -> Tensor | None:
        """The prior as a Pyro program, with the function integrated out."""
        given: Any = self.scale  # Pyro distributions are typed differently
        scale = pyro.sample("scale", given)
        values = {name: value[0] for name, value in self.process._fixed(x.unsqueeze(0)).items()}
        factor = torch.linalg.cholesky(self.process.noisy_covariance(x, values))
        law = dist.MultivariateNormal(
            x.new_zeros(len(x)), scale_tril=factor * scale.to(x.dtype).sqrt()
        )
        return pyro.sample("y", law, obs=y)

    def posterior(
        self, x: Float[Tensor, "batch n features"], y: Float[Tensor, "batch n"]
    ) -> ScaledProcessPosterior:
        """The exact posterior given each dataset of a batch."""
        process, n = self.process, y.shape[-1]
        normaliser = process.log_evidence(x, torch.zeros_like(y))  # log N(0; 0, Sigma)
        quadratic = 2 * (normaliser - process.log_evidence(x, y))
        if not isinstance(self.scale, dist.InverseGamma):
            return self._on_grid(x, y, normaliser, quadratic)
        a, b = (
            value.to(y.dtype).expand(len(y))
            for value in (self.scale.concentration, self.scale.rate)
        )
        posterior = dist.InverseGamma(a + n / 2, b + quadratic / 2)
        evidence = normaliser + a * b.log() - torch.lgamma(a) + torch.lgamma(a + n / 2)
        evidence = evidence - (a + n / 2) * posterior.rate.log()
        return ScaledProcessPosterior(process, x, y, evidence, posterior, self.scale)

    def _on_grid(
        self, x: Tensor, y: Tensor, normaliser: Tensor, quadratic: Tensor
    ) -> ScaledProcessPosterior:
        """The posterior by the trapezoidal rule: a coarse grid, then one where the mass is."""
        bijection, n = bijection_to(support_of(self.scale)), y.shape[-1]

        def log_integrand(u: Tensor) -> Tensor:
            value = bijection(u)
            found = log_prob(self.scale, value) + bijection.log_abs_det_jacobian(u, value)
            return (
                found
                - n / 2 * value.log()
                - quadratic.unsqueeze(-1) / (2 * value)
                + normaliser.unsqueeze(-1)
            ).nan_to_num(-torch.inf, -torch.inf, -torch.inf)

        low, high = (y.new_full((len(y), 1), end) for end in (-_REACH, _REACH))
        for _ in range(3):
            step = (high - low) / (_N_NODES - 1)
            u = low + step * torch.arange(_N_NODES, dtype=y.dtype)
            heights = log_integrand(u)
            kept = heights > heights.amax(-1, keepdim=True) - _NEGLIGIBLE
            low = u.where(kept, torch.inf).amin(-1, keepdim=True) - step
            high = u.where(kept, -torch.inf).amax(-1, keepdim=True) + step
        log_weights = heights + step.log()
        evidence = log_weights.logsumexp(-1)
        nodes = Nodes(u, bijection(u), log_weights - evidence.unsqueeze(-1), quadratic, self.scale)
        return ScaledProcessPosterior(self.process, x, y, evidence, nodes, self.scale)

    def posterior_predictive(self, batch: TaskBatch) -> Distribution:
        """The exact predictive of each query target, ``(batch, query)``."""
        return self.posterior(batch.x_context, batch.y_context).predictive(batch.x_query)
