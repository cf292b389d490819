r"""Conjugate regression with unknown noise variance, recognised from a program's density.

One positive latent v and real latents w, in one of two conjugate forms:

.. math:: v \sim \mathrm{InvGamma}(a, b), \quad w \mid v \sim N(\mu, v P^{-1}), \qquad
    v \sim \mathrm{Gamma}(a, b), \quad w \mid v \sim N(\mu, P^{-1} / v),

where v is the variance or the precision of the noise. In both forms :math:`\mu` does not depend on
v, and at :math:`w = \mu` the log density is linear in :math:`\log v` and :math:`1/v` (or v). So P
and :math:`\mu` follow from the density at v = 1, and a and b from its values along v. Whether the
result holds everywhere is checked separately.

References:
    Murphy, Machine Learning: A Probabilistic Perspective (2012), section 7.6.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from pyro.distributions import InverseGamma
from torch import Tensor
from torch.distributions import Distribution, Gamma, MultivariateNormal, constraints

from amortized.program.density import ProgramDensity
from amortized.sampling.exact.quadratic import quadratic_terms


class NormalGamma(Distribution):
    """A gamma or inverse gamma distribution of v and normals given v, joined in one vector.

    Args:
        scale: distribution of v, batch shape ``(batch,)``; inverse gamma for a variance, gamma for
            a precision.
        mean: mean of the other entries, ``(batch, k)``.
        precision: P, ``(batch, k, k)``.
        place: index of v in the vector of k + 1 entries.
    """

    arg_constraints: dict[str, constraints.Constraint] = {}

    def __init__(self, scale: Distribution, mean: Tensor, precision: Tensor, place: int) -> None:
        self.scale, self.loc, self.precision, self.place = scale, mean, precision, place
        self.is_variance = isinstance(scale, InverseGamma)
        super().__init__(mean.shape[:1], mean.new_zeros(mean.shape[-1] + 1).shape, False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        v = self.scale.sample(torch.Size(sample_shape)).unsqueeze(-1)
        centred = MultivariateNormal(
            torch.zeros_like(self.loc), precision_matrix=self.precision, validate_args=False
        ).sample(torch.Size(sample_shape))
        w = self.loc + centred * (v.sqrt() if self.is_variance else v.rsqrt())
        return torch.cat([w[..., : self.place], v, w[..., self.place :]], -1)

    def log_prob(self, value: Tensor) -> Tensor:
        v = value[..., self.place]
        w = torch.cat([value[..., : self.place], value[..., self.place + 1 :]], -1)
        factor = torch.linalg.cholesky(self.precision)
        half_log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        square = ((w - self.loc).unsqueeze(-2) @ factor).square().sum((-2, -1))
        times = 1 / v if self.is_variance else v
        log_normal = half_log_det + 0.5 * w.shape[-1] * (times.log() - math.log(2 * math.pi))
        return self.scale.log_prob(v) + log_normal - 0.5 * times * square


@dataclass(frozen=True)
class _Slice:
    """The density along v, and as a function of w at v = 1."""

    density: ProgramDensity
    place: int

    def __call__(self, w: Tensor, u: Tensor) -> Tensor:
        """Log density of w and v at v = exp(u), without the Jacobian; ``(batch, n)``."""
        whole = torch.cat([w[..., : self.place], u.unsqueeze(-1), w[..., self.place :]], -1)
        return self.density.log_density(whole) - u


def normal_gammas(density: ProgramDensity, place: int) -> Iterator[NormalGamma]:
    """Candidate distributions, not yet checked; ``place`` is the index of v in u."""
    at = _Slice(density, place)
    dim, like = density.dim - 1, density.y
    precision, linear = quadratic_terms(lambda w: at(w, torch.zeros_like(w[..., 0])), like, dim)
    factor, info = torch.linalg.cholesky_ex(precision)
    if info.any() or not torch.isfinite(precision).all():
        return
    mean = torch.cholesky_solve(linear.unsqueeze(-1), factor).squeeze(-1)
    u = torch.linspace(-1.5, 1.5, 9, dtype=like.dtype).expand(len(like), -1)
    along = at(mean.unsqueeze(1).expand(-1, 9, -1), u)
    if not torch.isfinite(along).all():
        return
    for law, sign in ((InverseGamma, -1.0), (Gamma, 1.0)):
        power, rate = _power_and_rate(u, along, sign)
        shape = sign * (power + 1) - dim / 2
        if (shape > 0).all() and (rate > 0).all():
            yield NormalGamma(law(shape, rate), mean, precision, place)


def _power_and_rate(u: Tensor, values: Tensor, sign: float) -> tuple[Tensor, Tensor]:
    r"""Fits :math:`c + p u - r e^{\pm u}` to values and returns p and r."""
    design = torch.stack([u[0], -(sign * u[0]).exp(), torch.ones_like(u[0])], -1)
    solution = torch.linalg.lstsq(design, values.T).solution
    return solution[0], solution[1]
