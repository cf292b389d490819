r"""The density of a program with its latents' prior replaced by a mixture given at run time.

.. math:: \log p_\phi(u) + \log p(y \mid b(u), x)

The likelihood is that of the program; the prior is any Gaussian mixture, common or one per dataset.
Samplers use this density in the same way as the program's own.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.program.density import Points, ProgramDensity, Values


class LatentPriorDensity(ProgramDensity):
    """A program's density with its latents' prior replaced.

    Args:
        density: the program's own density.
        latent_prior: prior over u, one mixture for all datasets or one for each.

    Attributes:
        latent_prior: latent prior of batch shape ``(batch,)``, in the dtype of the data.

    Raises:
        ValueError: if the mixture's dimension or batch does not match.

    Example:
        >>> from amortized.priors.regression.normal_mean import NormalMeanPrior
        >>> import torch
        >>> own = ProgramDensity(NormalMeanPrior().model, torch.zeros(2, 1, 0), torch.ones(2, 1))
        >>> given = GaussianMixture.from_moments(torch.tensor([5.0]), torch.eye(1))
        >>> density = LatentPriorDensity(own, given)
        >>> round(density.log_prior(torch.full((2, 1, 1), 5.0))[0, 0].item(), 3)
        -0.919
    """

    def __init__(self, density: ProgramDensity, latent_prior: GaussianMixture) -> None:
        self.__dict__.update(density.__dict__)
        shape = (density.n_datasets,)
        if latent_prior.dim != density.dim or latent_prior.batch_shape not in ((), shape):
            raise ValueError(
                f"Expected a latent prior over the {density.dim} unconstrained coordinates of "
                f"{list(density.layout)}, one for all or one for each of {shape[0]} dataset(s); "
                f"got {latent_prior.dim} and batch shape {tuple(latent_prior.batch_shape)}."
            )
        if density.discrete:
            raise ValueError(
                f"Expected a program without discrete latents; got {sorted(density.discrete.names)}"
                ". Give distributions by name instead of a mixture."
            )
        self.latent_prior = latent_prior.to(density.y.dtype).to(density.y.device).expand(shape)

    def take(self, index: Tensor) -> "LatentPriorDensity":
        """The density restricted to the chosen datasets."""
        chosen = object.__new__(LatentPriorDensity)
        chosen.__dict__.update(super().take(index).__dict__)
        chosen.latent_prior = self.latent_prior[index]
        return chosen

    def log_prior_and_likelihood(self, u: Points) -> tuple[Values, Values]:
        """Log density of the latent prior, and the log likelihood."""
        _, log_likelihood = super().log_prior_and_likelihood(u)
        return self.log_prior(u), log_likelihood

    def log_prior(self, u: Points) -> Values:
        """Log density of the latent prior."""
        return self.latent_prior.log_prob(u.transpose(0, 1)).T

    def log_density_of_one(self, u: Float[Tensor, " dim"]) -> Float[Tensor, ""]:
        """Log posterior density at one point for the first dataset."""
        return self.log_density(u.reshape(1, 1, -1).expand(self.n_datasets, 1, -1))[0, 0]

    def sample_prior(self, n_particles: int) -> Points:
        """Draws u from the latent prior, with torch's global generator."""
        return self.latent_prior.sample((n_particles,)).transpose(0, 1)

    def prior_lots(self, n_lots: int, n_each: int) -> Float[Tensor, "batch lots each dim"]:
        """Draws from each component separately, because each may lead to a mode of its own."""
        prior = self.latent_prior
        noise = torch.randn(*prior.means.shape[:2], n_each, prior.dim, dtype=prior.means.dtype)
        return prior.means.unsqueeze(2) + noise @ prior.scale_tril.mT
