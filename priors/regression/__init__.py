"""Regression priors: location, scale, linear, logistic and Gaussian-process models."""
