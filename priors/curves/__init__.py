"""Priors of learning curves, and the parametric families from which they are drawn."""
