"""Priors by name: those on which the released networks were trained."""

import math
from collections.abc import Callable, Mapping

import torch
from pyro.distributions import LogNormal, Uniform

from amortized.priors.curves.learning_curve import LearningCurvePrior
from amortized.priors.mixture import MixturePrior
from amortized.priors.prior import Prior
from amortized.priors.regression.gaussian_process import (
    GaussianProcessPrior,
    standardised_inputs,
    uniform_inputs,
)
from amortized.priors.series.series_prior import SeriesPrior
from amortized.priors.tabular.table_mixtures import diverse_table_prior, table_prior
from amortized.program.vectorised import precision

_MOST_CELLS = 32_000  # keeps the memory of a training step within a few gigabytes


def gp_1d() -> GaussianProcessPrior:
    r"""The one-dimensional benchmark of neural processes: an RBF kernel on [-2, 2].

    :math:`\ell \sim U(0.1, 0.6)`, :math:`s \sim U(0.1, 1)`, noise of standard deviation 0.02.

    References:
        | Transformer Neural Processes (Nguyen and Grover, 2022), arXiv:2207.04179
    """
    return GaussianProcessPrior(
        "rbf",
        lengthscale=Uniform(0.1, 0.6),
        outputscale=Uniform(0.1, 1.0),
        noise=0.02,
        inputs=uniform_inputs(-2.0, 2.0),
    )


def gp() -> GaussianProcessPrior:
    r"""Gaussian-process regression for standardised data with 1 to 10 features.

    Matern-5/2 with one lengthscale per feature, :math:`\ell_j / \sqrt{f} \sim` LogNormal(log 1.5,
    0.75), :math:`s \sim` LogNormal(0, 0.5) and noise with standard deviation LogNormal(log 0.2, 1),
    which ranges from nearly noise-free to mostly noise, as standardised real data do.

    References:
        | Vanilla Bayesian Optimization Performs Great in High Dimensions
        | (Hvarfner et al., 2024), arXiv:2402.02229
    """
    prior = GaussianProcessPrior(
        "matern52",
        lengthscale=LogNormal(math.log(1.5), 0.75),
        outputscale=LogNormal(0.0, 0.5),
        noise=LogNormal(math.log(0.2), 1.0),
        n_features=(1, 10),
        inputs=standardised_inputs,
        scale_by_dimension=True,
    )
    prior.units = "standardised"
    return prior


def tabular_classifier() -> MixturePrior:
    """Tables of 2 to 30 columns with two classes, or one against the rest; see ``table_prior``."""
    return table_prior("classification", max_features=30, max_classes=2)


def tabular_regressor() -> MixturePrior:
    """Tables of 2 to 30 columns with a numeric target; see ``table_prior``."""
    return table_prior("regression", max_features=30)


def tabular_classifier_2() -> MixturePrior:
    """Tables of 2 to 100 columns (at most 32,000 cells) and 2 to 10 classes.

    See ``diverse_table_prior``.
    """
    return diverse_table_prior("classification", max_cells=_MOST_CELLS)


def tabular_regressor_2() -> MixturePrior:
    """Tables of 2 to 100 columns (at most 32,000 cells) with a numeric target.

    See ``diverse_table_prior``.
    """
    return diverse_table_prior("regression", max_cells=_MOST_CELLS)


def learning_curve() -> LearningCurvePrior:
    """Learning curves of pow3, ilog2 and janoschek, the training prior of LC-PFN's networks.

    References:
        | Efficient Bayesian Learning Curve Extrapolation using Prior-Data Fitted Networks
        | (Adriaensen et al., 2023), arXiv:2310.20447
    """
    return LearningCurvePrior()


def learning_curve_discrepancy() -> LearningCurvePrior:
    """Learning curves that follow a formula only approximately, as real ones do.

    The three families of ``learning-curve``, with a discrepancy of about 0.02 and noise of about
    0.004. The priors of both, and of the discrepancy's length, are wider than their estimates from
    half of the datasets of LCDB; the benchmarks evaluate on the other half.

    References:
        | LCDB 1.0: An Extensive Learning Curves Database for Classification Tasks
        | (Mohr et al., 2022)
    """
    return LearningCurvePrior(noise=(-5.5, 1.25), discrepancy=(-4.0, 1.0))


def series() -> SeriesPrior:
    """Time series of many kinds, with seasons of a given period; see ``SeriesPrior``.

    Values of up to 512 steps, and forecasts of up to 64 steps.
    """
    return SeriesPrior()


PRIORS: Mapping[str, Callable[[], Prior]] = {
    "gp-1d": gp_1d,
    "gp": gp,
    "learning-curve": learning_curve,
    "learning-curve-discrepancy": learning_curve_discrepancy,
    "series": series,
    "tabular-classifier": tabular_classifier,
    "tabular-regressor": tabular_regressor,
    "tabular-classifier-2": tabular_classifier_2,
    "tabular-regressor-2": tabular_regressor_2,
}


def named_prior(name: str) -> Prior:
    """The prior with a given name.

    Raises:
        ValueError: if no prior has that name.

    Example:
        >>> named_prior("gp-1d").kernel
        'rbf'
    """
    if name not in PRIORS:
        raise ValueError(f"Expected a prior among {sorted(PRIORS)}; got {name!r}.")
    with precision(torch.float32):
        return PRIORS[name]()
