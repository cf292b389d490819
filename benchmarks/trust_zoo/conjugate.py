"""Programs with closed forms: normal, gamma, beta, Dirichlet and Pareto posteriors."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import special, stats
from torch import Tensor

from trust_zoo.entry import Entry
from trust_zoo.reference import (
    Reference,
    by_laws,
    by_normals,
    labels_of,
    linear_gaussian,
    named,
)

FAR = [30.2, 29.1, 31.0]
NO_SUCCESS = [0.0, 0.0, 0.0, 0.0]
UPPER = [0.4, 2.9, 1.7, 3.3, 0.8]
CLASSES = [0.0, 0.0, 1.0, 0.0, 3.0, 0.0, 1.0]
FEW = [1.2, -0.3, 0.7, 2.1, 0.4, 1.5]
WAITS = np.array([[0.7, 0.0], [2.1, 0.0], [3.0, 1.0], [0.2, 0.0], [3.0, 1.0]])  # time, cut off


def prior_conflict(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Data ten prior deviations away."""
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(m, 1.0).expand([len(x)]).to_event(1), obs=y)


def _prior_conflict() -> Reference:
    parts = linear_gaussian(np.ones((3, 1)), np.array(FAR), np.zeros(1), np.eye(1), np.eye(3))
    return by_normals([1.0], {"m": (parts[1][0], parts[2][0])}, parts[0].item())


def beta_no_success(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A probability whose posterior piles up at 0."""
    p = pyro.sample("p", dist.Beta(0.5, 0.5))
    return pyro.sample("y", dist.Bernoulli(p).expand([len(x)]).to_event(1), obs=y)


def _beta_no_success() -> Reference:
    return by_laws({"p": stats.beta(0.5, 4.5)}, special.betaln(0.5, 4.5) - special.betaln(0.5, 0.5))


def gamma_no_counts(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A rate whose posterior has a pole at 0 and spans twelve powers of ten."""
    rate = pyro.sample("rate", dist.Gamma(0.1, 0.1))
    return pyro.sample("y", dist.Poisson(rate).expand([len(x)]).to_event(1), obs=y)


def _gamma_no_counts() -> Reference:
    return by_laws({"rate": stats.gamma(0.1, scale=1 / 2.1)}, 0.1 * np.log(0.1 / 2.1))


def uniform_upper(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The upper end of a uniform: a Pareto posterior."""
    top = pyro.sample("top", dist.Pareto(1.0, 2.0))
    return pyro.sample("y", dist.Uniform(0.0, top).expand([len(x)]).to_event(1), obs=y)


def _uniform_upper() -> Reference:
    n, most = len(UPPER), max(1.0, *UPPER)
    log_evidence = np.log(2 / (2 + n)) - (2 + n) * np.log(most)
    return by_laws({"top": stats.pareto(2 + n, scale=most)}, log_evidence)


def dirichlet(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Class probabilities, one class unseen."""
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.5, 0.5, 0.5, 0.5])))
    return pyro.sample("y", dist.Categorical(p).expand([len(x)]).to_event(1), obs=y)


def _dirichlet() -> Reference:
    counts = np.bincount(np.array(CLASSES, dtype=int), minlength=4)
    after, before = counts + 0.5, np.full(4, 0.5)
    log_evidence = special.gammaln(after).sum() - special.gammaln(after.sum())
    log_evidence -= special.gammaln(before).sum() - special.gammaln(before.sum())
    laws = {f"p[{i}]": stats.beta(a, after.sum() - a) for i, a in enumerate(after)}
    return by_laws(laws, log_evidence)


def normal_gamma(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Mean and precision, the mean's prior in units of the noise."""
    precision = pyro.sample("precision", dist.Gamma(2.0, 1.0))
    m = pyro.sample("m", dist.Normal(0.0, 2.0 * precision.rsqrt()))
    noise = precision.rsqrt()
    return pyro.sample("y", dist.Normal(m, noise).expand([len(x)]).to_event(1), obs=y)


def _normal_gamma() -> Reference:
    y = np.array(FEW)
    n, k = len(y), 0.25
    a, mean = 2 + n / 2, y.sum() / (n + k)
    b = 1 + 0.5 * ((y**2).sum() - (n + k) * mean**2)
    log_evidence = special.gammaln(a) - special.gammaln(2.0) - a * np.log(b)
    log_evidence += 0.5 * np.log(k / (n + k)) - n / 2 * np.log(2 * np.pi)
    scale = np.sqrt(b / (a * (n + k)))
    laws = {"precision": stats.gamma(a, scale=1 / b), "m": stats.t(2 * a, mean, scale)}
    return by_laws(laws, log_evidence)


def censored_waits(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Exponential waits, some of them cut off."""
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    seen = x[:, 1] == 0
    pyro.factor("cut", -(rate * x[:, 0] * x[:, 1]).sum())
    waits = dist.Exponential(rate).expand([len(x)]).mask(seen)
    return pyro.sample("y", waits.to_event(1), obs=y)


def _censored_waits() -> Reference:
    n_seen, total = (WAITS[:, 1] == 0).sum(), WAITS[:, 0].sum()
    log_evidence = special.gammaln(2 + n_seen) - (2 + n_seen) * np.log(1 + total)
    return by_laws({"rate": stats.gamma(2 + n_seen, scale=1 / (1 + total))}, log_evidence)


CORRELATED_X = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 0.9]])
CORRELATED_Y = [3.0, 3.1, 2.8]


def correlated_pair(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two normals of correlation -.999."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 5.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 0.3).to_event(1), obs=y)


SCALES_X = np.array([[1e4, 0.0], [0.0, 1e-4], [1e4, 1e-4], [2e4, 3e-4]])
SCALES_Y = [1.3, -0.4, 0.6, 0.9]


def scales(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Two latents of scales 1e-4 and 1e4."""
    small = pyro.sample("small", dist.Normal(0.0, 1e-4))
    large = pyro.sample("large", dist.Normal(0.0, 1e4))
    expected = x[:, 0] * small + x[:, 1] * large
    return pyro.sample("y", dist.Normal(expected, 0.5).to_event(1), obs=y)


def _scales() -> Reference:
    prior = np.diag([1e-8, 1e8])
    parts = linear_gaussian(SCALES_X, np.array(SCALES_Y), np.zeros(2), prior, 0.25 * np.eye(4))
    return by_normals([1.0], named(["small", "large"], *parts[1:]), parts[0].item())


def _regression(x: np.ndarray, y: np.ndarray, prior: float, noise: float) -> Reference:
    n, d = x.shape
    prior_cov, noise_cov = prior**2 * np.eye(d), noise**2 * np.eye(n)
    parts = linear_gaussian(x, np.asarray(y), np.zeros(d), prior_cov, noise_cov)
    return by_normals([1.0], named(labels_of("w", d), *parts[1:]), parts[0].item())


def _data(n: int, d: int, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.normal(size=(n, d)).round(2)
    return x, (x @ generator.normal(size=d) + noise * generator.normal(size=n)).round(2)


def regression_7d(x: Tensor, y: Tensor | None = None) -> Tensor:
    """A wide prior: most of the evidence is the price of its width."""
    w = pyro.sample("w", dist.Normal(torch.zeros(7), 10.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)


def regression_8d(x: Tensor, y: Tensor | None = None) -> Tensor:
    """The same with 8 weights and a prior of width 30."""
    w = pyro.sample("w", dist.Normal(torch.zeros(8), 30.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 1.0).to_event(1), obs=y)


def regression_25d(x: Tensor, y: Tensor | None = None) -> Tensor:
    """Barely more rows than weights."""
    w = pyro.sample("w", dist.Normal(torch.zeros(25), 1.0).to_event(1))
    return pyro.sample("y", dist.Normal(x @ w, 0.5).to_event(1), obs=y)


WIDE_7, WIDE_8, MANY = _data(25, 7, 0.5, 1), _data(30, 8, 1.0, 2), _data(30, 25, 0.5, 3)

ENTRIES = {
    "prior conflict": Entry(prior_conflict, FAR, _prior_conflict),
    "beta, no success": Entry(beta_no_success, NO_SUCCESS, _beta_no_success),
    "gamma, no counts": Entry(gamma_no_counts, [0.0, 0.0], _gamma_no_counts),
    "uniform, upper end": Entry(uniform_upper, UPPER, _uniform_upper),
    "Dirichlet": Entry(dirichlet, CLASSES, _dirichlet),
    "normal-gamma": Entry(normal_gamma, FEW, _normal_gamma),
    "censored waits": Entry(censored_waits, WAITS[:, 0], _censored_waits, WAITS),
    "correlated pair": Entry(
        correlated_pair,
        CORRELATED_Y,
        lambda: _regression(CORRELATED_X, np.array(CORRELATED_Y), 5.0, 0.3),
        CORRELATED_X,
    ),
    "scales 1e-4, 1e4": Entry(scales, SCALES_Y, _scales, SCALES_X),
    "regression 7d": Entry(
        regression_7d, WIDE_7[1], lambda: _regression(*WIDE_7, 10.0, 0.5), WIDE_7[0]
    ),
    "regression 8d": Entry(
        regression_8d, WIDE_8[1], lambda: _regression(*WIDE_8, 30.0, 1.0), WIDE_8[0]
    ),
    "regression 25d": Entry(regression_25d, MANY[1], lambda: _regression(*MANY, 1.0, 0.5), MANY[0]),
}
