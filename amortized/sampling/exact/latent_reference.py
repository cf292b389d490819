r"""Reference posteriors for inference tasks under mixture priors: the evidence by quadrature.

The evidence under a mixture prior is the weighted sum of the evidences of its components. Each is
the integral of one normal times the likelihood, computed on a grid around that normal, so that a
component a hundred times wider causes no difficulty. It gives the exact posterior density, and

.. math:: E [\log p(u \mid D) - \log q(u \mid D)], \quad u \sim p(u \mid D),

the expected Kullback-Leibler divergence of an approximation q, is then an average over tasks.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.program.density import ProgramDensity
from amortized.sampling.exact.quadrature import grid_posterior

_CHUNK = 20_000  # points or normals at once, few enough for the cache


def reference_log_prob(
    tasks: LatentTasks, batch: LatentTaskBatch, *, n_points: int | None = None
) -> Float[Tensor, " batch"]:
    """Log density of the exact posterior at each task's own latents.

    Args:
        tasks: the inference problem; it must have one or two latents, or be a `LinearModelPrior`.
        batch: the tasks.
        n_points: grid points along each latent; None uses 1000 in one dimension and 120 in two.

    Raises:
        ValueError: if there are more than two latents and no closed form given one of them.

    Example:
        >>> from amortized.priors.regression.normal_variance import NormalVariancePrior
        >>> tasks = LatentTasks(NormalVariancePrior())
        >>> reference_log_prob(tasks, tasks.sample(4, 1, seed=0)).shape
        torch.Size([4])
    """
    rows, mask = batch.observations["data"].double(), batch.masks["data"]
    x, y = rows[..., :-1], rows[..., -1]
    prior = batch.latent_prior.to(torch.float64)
    u = batch.u.double()
    if isinstance(tasks.prior, LinearModelPrior):
        log_evidence = _linear_evidence(tasks.prior, prior, x, y, mask, n_points or 400)
        design = tasks.prior.design(x)
        off = y - (design @ u[:, :-1, None]).squeeze(-1)
        log_likelihood = torch.distributions.Normal(0.0, u[:, -1:].exp()).log_prob(off)
        return prior.log_prob(u) + log_likelihood.where(mask, 0.0).sum(-1) - log_evidence
    if tasks.dim > 2:
        raise ValueError(
            f"Expected a program with one or two latents, or a linear model; got {tasks.dim} "
            "latents. Compare with infer(..., method='smc') instead."
        )
    if not bool(mask.all()):
        raise ValueError("Expected datasets without masked rows.")
    density = ProgramDensity(tasks.prior.model, x, y)
    n_points = n_points or (1000 if tasks.dim == 1 else 120)  # modes may be narrow and far apart
    at_once = max(1, _CHUNK // (prior.n_components * n_points**tasks.dim))
    evidences = [
        _evidence(density.take(some), prior[some], n_points)
        for some in torch.arange(len(u)).split(at_once)
    ]
    log_likelihood = density.log_likelihood(u.unsqueeze(1)).squeeze(1)
    return prior.log_prob(u) + log_likelihood - torch.cat(evidences)


def _evidence(density: ProgramDensity, prior: GaussianMixture, n_points: int) -> Tensor:
    """Log evidence of some datasets, one component at a time."""
    n, k = prior.log_weights.shape
    means, factors = prior.means.flatten(0, 1), prior.scale_tril.flatten(0, 1)
    each = GaussianMixture(means.new_zeros(n * k, 1), means[:, None], factors[:, None])

    def log_joint(u: Tensor) -> Tensor:
        log_prior = each.log_prob(u.transpose(0, 1)).T
        log_likelihood = density.log_likelihood(u.reshape(n, -1, u.shape[-1]))
        return log_prior + log_likelihood.reshape(u.shape[:2])

    spread = factors.square().sum(-1).sqrt()
    answer = grid_posterior(log_joint, means, spread, n_points=n_points)
    return (prior.log_weights + answer.log_evidence.reshape(n, k)).logsumexp(-1)


def _linear_evidence(
    program: LinearModelPrior,
    prior: GaussianMixture,
    x: Tensor,
    y: Tensor,
    mask: Tensor,
    n_points: int,
) -> Tensor:
    r"""Log evidence of linear models, with the noise integrated out numerically.

    With :math:`R^\top R = \Phi^\top \Phi` and :math:`R \hat w = z`, the likelihood is that of z,
    which has one entry per coefficient, times a function of the residual sum of squares.
    """
    design = program.design(x).where(mask.unsqueeze(-1), 0.0)
    answers = y.where(mask, 0.0)
    values, vectors = torch.linalg.eigh(design.mT @ design)
    there = values > 1e-10 * values[:, -1:].clamp_min(1e-30)
    root = values.clamp_min(0.0).sqrt().where(there, 0.0)
    rows = root.unsqueeze(-1) * vectors.mT
    turned = (vectors.mT @ (design.mT @ answers.unsqueeze(-1))).squeeze(-1)
    z = (turned / root).where(there, 0.0)
    rss = (answers.square().sum(-1) - z.square().sum(-1)).clamp_min(0.0)
    n_coefficients = design.shape[-1]
    n_free = (mask.sum(-1) - n_coefficients).double()
    k = prior.n_components
    each = GaussianMixture(
        prior.means.new_zeros(len(x) * k, 1),
        prior.means.flatten(0, 1).unsqueeze(1),
        prior.scale_tril.flatten(0, 1).unsqueeze(1),
    )
    rows, z, rss, n_free = (t.repeat_interleave(k, 0) for t in (rows, z, rss, n_free))
    eye = torch.eye(n_coefficients, dtype=torch.float64)
    log_noise_prior = each.marginal([n_coefficients])

    def of_points(point: Tensor) -> Tensor:  # log noise per component, (p, b k, 1)
        noise = point.exp()
        given = each.condition([n_coefficients], point)
        _, evidence = given.update(z, rows, noise.unsqueeze(-1) * eye)
        rest = -0.5 * rss / noise[..., 0] ** 2 - n_free * (
            point[..., 0] + 0.5 * math.log(2 * math.pi)
        )
        return evidence + rest + log_noise_prior.log_prob(point)

    def log_joint(s: Tensor) -> Tensor:
        chunks = s.transpose(0, 1).split(max(1, _CHUNK // len(s)))
        return torch.cat([of_points(chunk) for chunk in chunks]).T

    spread = log_noise_prior.stddev
    answer = grid_posterior(log_joint, log_noise_prior.mean, spread, n_points=n_points)
    return (prior.log_weights + answer.log_evidence.unflatten(0, (-1, k))).logsumexp(-1)
