"""Joint predictions, posteriors of functionals, calibrated intervals and variance decomposition."""

from amortized.uncertainty.conformal import ConformalRegressor
from amortized.uncertainty.joint import joint_log_prob, joint_sample
from amortized.uncertainty.martingale import martingale_posterior
from amortized.uncertainty.variance_split import VarianceSplit, split_by_posterior, split_by_twins

__all__ = [
    "ConformalRegressor",
    "VarianceSplit",
    "joint_log_prob",
    "joint_sample",
    "martingale_posterior",
    "split_by_posterior",
    "split_by_twins",
]
