"""Crowdsourced labels: inference of the true class from labels by several workers."""

from amortized.crowds.truth_inference import TruthInference

__all__ = ["TruthInference"]
