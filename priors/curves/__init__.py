"""Priors of learning curves and the parametric families that they draw from."""
