"""Priors of latents as Gaussian mixtures: fitting, reduction, random priors, and training tasks."""

from amortized.latent_priors.fitting import as_mixture, fit_draws, fit_mixture, product
from amortized.latent_priors.hyperprior import Hyperprior
from amortized.latent_priors.reduction import merge, split_components
from amortized.latent_priors.tasks import LatentTaskBatch, LatentTasks

__all__ = [
    "LatentTaskBatch",
    "LatentTasks",
    "Hyperprior",
    "as_mixture",
    "fit_draws",
    "fit_mixture",
    "merge",
    "product",
    "split_components",
]
