"""Filters and smoothers of state-space models, and the posterior of their static parameters."""
