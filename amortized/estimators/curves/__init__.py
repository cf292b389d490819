"""Estimators of learning curves: extrapolation, and early stopping of a training."""
