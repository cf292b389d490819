r"""The distribution of latents over a population of tasks, and its conjugate updates.

With u the latents of a task in unconstrained space, z its component, and k = 1, ..., K,

.. math::
    \pi \sim \mathrm{Dirichlet}(1, \ldots, 1), \qquad \mu_k \sim N(m, \mathrm{diag}(A^2)), \\
    \Sigma_k \mid a_k \sim \mathrm{IW}(d + 1, 4\, \mathrm{diag}(1 / a_k)), \qquad
    a_{kj} \sim \mathrm{InvGamma}(1/2, 1 / A_j^2), \\
    z \sim \mathrm{Categorical}(\pi), \qquad u \mid z \sim N(\mu_z, \Sigma_z).

The scale mixture of inverse Wisharts makes every standard deviation half-t with two degrees of
freedom and scale :math:`A_j`, and every correlation uniform; an inverse Wishart with a fixed scale
matrix would keep small standard deviations away from zero.

References:
    Huang and Wand, Simple marginally noninformative prior distributions for covariance matrices
    (2013). Gelman et al., Bayesian Data Analysis, 3rd edition (2013), sections 3.6 and 22.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.distributions import Chi2, Dirichlet, InverseGamma

from amortized.distributions.gaussian_mixture import GaussianMixture

_DF = 2.0  # degrees of freedom of the standard deviations' half-t; 2 makes correlations uniform


class Population(NamedTuple):
    r"""The population in each of several chains.

    Attributes:
        log_weights: :math:`\log \pi`.
        means: :math:`\mu_k`.
        covariances: :math:`\Sigma_k`.
        scales: :math:`a_k`.
    """

    log_weights: Float[Tensor, "chains k"]
    means: Float[Tensor, "chains k dim"]
    covariances: Float[Tensor, "chains k dim dim"]
    scales: Float[Tensor, "chains k dim"]

    def moments(self) -> tuple[Float[Tensor, "chains dim"], Float[Tensor, "chains dim dim"]]:
        """Mean and covariance over all components, which do not depend on their order."""
        mixture = self.mixture()
        return mixture.mean, mixture.covariance_matrix

    def mixture(self) -> GaussianMixture:
        """The distribution of u, of batch shape ``(chains,)``."""
        factors = torch.linalg.cholesky(self.covariances)
        return GaussianMixture(self.log_weights, self.means, factors, validate_args=False)


class PopulationPrior(NamedTuple):
    """The hyperprior.

    Attributes:
        mean: m.
        sd: A, the scale of the means and of the standard deviations.
    """

    mean: Float[Tensor, " dim"]
    sd: Float[Tensor, " dim"]

    @classmethod
    def of_draws(cls, u: Float[Tensor, "n dim"]) -> "PopulationPrior":
        """As wide as the draws, with the median and half the distance of the 16% and 84% points."""
        low, middle, high = u.quantile(u.new_tensor([0.16, 0.5, 0.84]), dim=0)
        return cls(middle, (high - low) / 2)

    def normal(self) -> GaussianMixture:
        """The normal with mean m and standard deviations A."""
        return GaussianMixture.from_moments(self.mean, torch.diag(self.sd.square()))

    def sample(self, n_chains: int, n_components: int) -> Population:
        """Draws from the hyperprior, with torch's global generator."""
        k, dim = n_components, len(self.mean)
        like = self.mean
        weights = Dirichlet(like.new_ones(k)).sample((n_chains,))
        noise = torch.randn(n_chains, k, dim, dtype=like.dtype)
        means = self.mean + noise * self.sd
        rate = self.sd.pow(-2).expand(n_chains, k, dim)
        scales = InverseGamma(torch.full_like(rate, 0.5), rate).sample()
        covariances = _inverse_wishart(_df(dim), self.scale_matrix(scales))
        return Population(weights.log(), means, covariances, scales)

    def scale_matrix(self, scales: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim dim"]:
        """The inverse Wishart's, given a."""
        return torch.diag_embed(2 * _DF / scales)

    def updated(
        self,
        population: Population,
        u: Float[Tensor, "tasks chains dim"],
        component: Int[Tensor, "tasks chains"],
    ) -> Population:
        """One Gibbs step of weights, means, covariances and scales given every task's latents."""
        k, dim = population.means.shape[1:]
        member = torch.nn.functional.one_hot(component, k).to(u.dtype)  # (tasks, chains, k)
        n = member.sum(0)  # (chains, k)
        log_weights = Dirichlet(1 + n).sample().clamp_min(1e-300).log()
        precision = torch.linalg.inv(population.covariances)
        total = torch.einsum("tck,tcd->ckd", member, u)
        means = normal_draw(
            n[..., None, None] * precision + torch.diag(self.sd.pow(-2)),
            torch.einsum("ckij,ckj->cki", precision, total) + self.mean / self.sd.square(),
        )
        away = u.unsqueeze(2) - means  # (tasks, chains, k, dim)
        scatter = torch.einsum("tck,tcki,tckj->ckij", member, away, away)
        matrix = self.scale_matrix(population.scales) + scatter
        covariances = _inverse_wishart(_df(dim) + n, matrix)
        return Population(log_weights, means, covariances, self.draw_scales(covariances))

    def log_ratio_of_scaling(
        self, population: Population, j: int, log_factor: Float[Tensor, " chains"]
    ) -> Float[Tensor, " chains"]:
        r"""The log ratio of prior densities, with the Jacobian, when coordinate j is stretched.

        That is :math:`\Sigma \to D \Sigma D` with D the identity but for a factor c at j, whose
        Jacobian is :math:`c^{d + 1}`. The latents stretch with it, so that their density times
        their Jacobian does not change. With a integrated out,

        .. math:: p(\Sigma) \propto |\Sigma|^{-(2 + 2 d) / 2}
            \prod_j (2 (\Sigma^{-1})_{jj} + A_j^{-2})^{-(2 + d) / 2}.
        """
        dim = population.means.shape[-1]
        step = log_factor.unsqueeze(-1)
        own = _DF * torch.linalg.inv(population.covariances)[..., j, j]  # (chains, k)
        flat = self.sd[j].pow(-2)
        change = (own * (-2 * step).exp() + flat).log() - (own + flat).log()
        return (-(_DF + dim - 1) * step - (_DF + dim) / 2 * change).sum(-1)

    def draw_scales(
        self, covariances: Float[Tensor, "chains k dim dim"]
    ) -> Float[Tensor, "chains k dim"]:
        """A draw of a given the covariances."""
        dim = covariances.shape[-1]
        diagonal = torch.linalg.inv(covariances).diagonal(dim1=-1, dim2=-2)
        rate = _DF * diagonal + self.sd.pow(-2)
        return InverseGamma(torch.full_like(rate, (_DF + dim) / 2), rate).sample()

    def log_density_of_means(
        self, means: Float[Tensor, "chains k dim"]
    ) -> Float[Tensor, " chains"]:
        """Log prior density of the means, up to a constant."""
        return -((means - self.mean) / self.sd).square().sum((1, 2)) / 2


def normal_draw(
    precision: Float[Tensor, "*batch dim dim"], shift: Float[Tensor, "*batch dim"]
) -> Float[Tensor, "*batch dim"]:
    """A draw of the normal with this precision, and precision times mean."""
    factor = torch.linalg.cholesky(precision)
    mean = torch.cholesky_solve(shift.unsqueeze(-1), factor)
    noise = torch.randn_like(mean)
    return (mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)).squeeze(-1)


def _df(dim: int) -> float:
    """Degrees of freedom of the inverse Wishart."""
    return _DF + dim - 1


def _inverse_wishart(
    df: Tensor | float, matrix: Float[Tensor, "*batch dim dim"]
) -> Float[Tensor, "*batch dim dim"]:
    r"""A draw of each of a batch of inverse Wisharts, :math:`C A^{-T} A^{-1} C^T`.

    C is a Cholesky factor of the scale matrix and A that of a standard Wishart (Bartlett, 1933).
    """
    dim = matrix.shape[-1]
    df = torch.as_tensor(df, dtype=matrix.dtype).expand(matrix.shape[:-2]).unsqueeze(-1)
    square = Chi2(df - torch.arange(dim, dtype=matrix.dtype)).sample()
    bartlett = torch.randn_like(matrix).tril(-1) + torch.diag_embed(square.sqrt())
    factor = torch.linalg.cholesky(matrix)
    root = torch.linalg.solve_triangular(bartlett, factor.mT, upper=False)
    return root.mT @ root
