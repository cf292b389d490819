"""Many related tasks: the prior that their latents have in common, learned from all of them."""

from amortized.hierarchy.learned_prior import LearnedPrior, learn_latent_prior

__all__ = ["LearnedPrior", "learn_latent_prior"]
