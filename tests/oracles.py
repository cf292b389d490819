"""Exact answers in closed form, written apart from the library, for the tests to compare with."""

import numpy as np
from scipy import integrate, stats
from scipy.special import betaln, gammaln


def linear_gaussian(design, y, prior_mean, prior_covariance, noise_covariance):
    """Posterior mean and covariance of w in y = Phi w + e, and the log evidence, in numpy.

    Written through the joint Gaussian of y, not through the precision, so that it shares no
    formula with the library.
    """
    cross = prior_covariance @ design.T
    covariance = design @ cross + noise_covariance
    gain = np.linalg.solve(covariance, cross.T).T
    expected = design @ prior_mean
    mean = prior_mean + gain @ (y - expected)
    log_evidence = stats.multivariate_normal(expected, covariance).logpdf(y)
    return mean, prior_covariance - gain @ cross.T, log_evidence


def student_evidence(design, y, scale, concentration, rate):
    """Log evidence of regression with an inverse gamma noise variance: y is multivariate t."""
    shape = np.eye(len(y)) + scale**2 * design @ design.T
    return stats.multivariate_t(
        np.zeros(len(y)), shape * rate / concentration, df=2 * concentration
    ).logpdf(y)


def beta_bernoulli(y, a, b):
    """Posterior of the success probability and the log evidence of the sequence y."""
    a_post, b_post = a + y.sum(), b + len(y) - y.sum()
    return stats.beta(a_post, b_post), betaln(a_post, b_post) - betaln(a, b)


def gamma_poisson(y, a, rate):
    """Posterior of the rate of counts y and their log evidence."""
    a_post, rate_post = a + y.sum(), rate + len(y)
    log_evidence = (
        a * np.log(rate) - gammaln(a) + gammaln(a_post) - a_post * np.log(rate_post)
    ) - gammaln(y + 1).sum()
    return stats.gamma(a_post, scale=1 / rate_post), log_evidence


def inverse_gamma_variance(y, a, b):
    """Posterior of the variance of normal y with mean 0, and the log evidence."""
    n, half = len(y), 0.5 * (y**2).sum()
    log_evidence = (
        a * np.log(b) - gammaln(a) + gammaln(a + n / 2) - (a + n / 2) * np.log(b + half)
    ) - 0.5 * n * np.log(2 * np.pi)
    return stats.invgamma(a + n / 2, scale=b + half), log_evidence


def moments_by_quadrature(log_density, low, high):
    """Mean, standard deviation and log normaliser of a one-dimensional density, by quadrature."""
    grid = np.linspace(low, high, 20_001)
    values = np.array(log_density(grid))
    top = values.max()
    weights = np.exp(values - top)
    total = integrate.simpson(weights, x=grid)
    mean = integrate.simpson(weights * grid, x=grid) / total
    variance = integrate.simpson(weights * (grid - mean) ** 2, x=grid) / total
    return mean, np.sqrt(variance), np.log(total) + top
