"""Distributions that torch lacks: bars, Gaussian mixtures, and factors of their covariances."""
