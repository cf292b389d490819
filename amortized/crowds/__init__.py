"""Imperfect labels: the truth behind answers of several workers."""

from amortized.crowds.truth_inference import TruthInference

__all__ = ["TruthInference"]
