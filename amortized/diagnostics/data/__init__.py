"""Diagnostics of one dataset: held-out rows, predictive checks, and the training range."""
