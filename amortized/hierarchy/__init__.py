"""Hierarchical models: a common prior of the latents of many related tasks, learned from all."""

from amortized.hierarchy.learned_prior import LearnedPrior, learn_latent_prior

__all__ = ["LearnedPrior", "learn_latent_prior"]
