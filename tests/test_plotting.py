"""Figures have labelled axes, and lines that a grey copy keeps apart."""

import matplotlib.colors
import numpy as np
import pytest
import torch
from torch.distributions import Normal

from amortized import infer
from amortized.plotting import (
    COLOURS,
    LINES,
    MARKERS,
    compare_methods,
    histogram,
    line_style,
    posterior_pairs,
    predictive_band,
    prior_preview,
)
from amortized.priors import named_prior
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior

FIGURES = {
    "band": lambda: predictive_band(Normal(torch.zeros(9), 1.0), np.arange(9.0), label="a"),
    "preview of a line": lambda: prior_preview(named_prior("gp-1d")),
    "preview of a table": lambda: prior_preview(LinearRegressionPrior(3)),
    "preview without inputs": lambda: prior_preview(NormalMeanPrior()),
    "methods": lambda: compare_methods({"a": (1.0, 0.1), "b": (2.0, 0.1)}, "seconds"),
    "histogram": lambda: histogram(np.arange(20.0), "nats", "datasets", "title", None),
}


@pytest.mark.parametrize("name", ["$x^$", r"\frac{", "a_b^c", "$"])
def test_names_are_shown_as_they_are(name):
    ax = compare_methods({name: (1.0, 0.1), "other": (2.0, 0.1)}, name, name)
    ax.figure.canvas.draw()  # a formula that is none raises here
    assert ax.get_yticklabels()[0].get_text() == name


@pytest.mark.parametrize("name", FIGURES)
def test_axes_are_labelled(name):
    ax = FIGURES[name]()
    assert ax.get_xlabel() and ax.get_ylabel()
    ax.figure.canvas.draw()


def test_colours_differ_in_grey():
    grey = [np.dot(matplotlib.colors.to_rgb(c), (0.299, 0.587, 0.114)) for c in COLOURS]
    assert np.diff(grey).min() > 0.1


def test_styles_repeat_late():
    styles = {tuple(line_style(i).values()) for i in range(16)}
    assert len(styles) == 16
    assert len(COLOURS) == len(LINES) == len(MARKERS)


def test_band_is_the_quantiles_in_the_order_of_the_inputs():
    ax = predictive_band(
        Normal(torch.tensor([2.0, 0.0, 1.0]), 1.0), np.array([2.0, 0.0, 1.0]), label="a", level=0.5
    )
    median, low, high = (line.get_ydata() for line in ax.lines)
    np.testing.assert_allclose(median, [0, 1, 2], atol=1e-6)
    np.testing.assert_allclose(high - low, 2 * 0.67449, atol=1e-4)


def test_pairs_of_a_posterior_come_from_arviz():
    prior = LinearRegressionPrior(1)
    batch = prior.sample(1, 10, 0, seed=0)
    posterior = infer(prior, batch.x_context[0], batch.y_context[0], n_draws=100)
    axes = np.asarray(posterior_pairs(posterior))
    assert axes.size >= 3
