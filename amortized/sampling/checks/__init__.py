"""Checks of draws: convergence, precision, importance weights, and independent estimates."""
