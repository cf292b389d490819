"""Priors of a response: location, scale, linear, logistic and Gaussian-process models."""
