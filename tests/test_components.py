"""Parts of series as state-space models against the dense Gaussian process of the same kernel."""

import time

import pytest
import torch
from torch.distributions import LogNormal, MultivariateNormal

from amortized.priors.regression.kernels import KERNELS
from amortized.priors.state_space.components import Sum
from amortized.priors.state_space.matern import Matern
from amortized.priors.state_space.periodic import Periodic, Seasonal
from amortized.priors.state_space.trends import LocalLevel, LocalTrend
from amortized.sampling.filters.kalman import kalman_filter
from amortized.sampling.filters.kalman_smoother import kalman_smoother

F64 = torch.float64


def times(n=60, seed=0):
    """Irregular times, two of them equal and two very near."""
    generator = torch.Generator().manual_seed(seed)
    t = 12 * torch.rand(n, generator=generator, dtype=F64) - 3
    t[1], t[2], t[3] = t[0], t[4] + 1e-7, t[4] + 1e-3
    return t.sort().values


def kernel(name, lengthscale, outputscale, *period):
    one = torch.ones(1, dtype=F64)
    others = [p * one for p in period]
    return lambda t: (
        outputscale**2 * KERNELS[name](t[:, None], t[:, None], lengthscale * one, *others)
    )


def since_start(t):
    u = t - t[0]
    return u[:, None], u[None, :], torch.minimum(u[:, None], u[None, :])


def level(drift, start):
    return lambda t: start**2 + drift**2 * since_start(t)[2]


def trend(bend, slope):
    def covariance(t):
        u, v, least = since_start(t)
        return bend**2 * (least**3 / 3 + least**2 * (u - v).abs() / 2) + slope**2 * u * v

    return covariance


def seasonal(period, n_harmonics, scale, drift):
    def covariance(t):
        u, v, least = since_start(t)
        turns = [torch.cos(2 * torch.pi * j * (u - v) / period) for j in range(1, n_harmonics + 1)]
        return sum(turns) / n_harmonics * (scale**2 + drift**2 * least)

    return covariance


MATERN = {
    name: (Matern(name, 0.8, 1.3), kernel(name, 0.8, 1.3)) for name in KERNELS if "mat" in name
}
REPEATING = Periodic(2.5, 1.2, 0.7), kernel("periodic", 1.2, 0.7, 2.5)
PARTS = MATERN | {
    "long lengthscale": (Matern("matern52", 40.0, 2.0), kernel("matern52", 40.0, 2.0)),
    "periodic": REPEATING,
    "many harmonics": (
        Periodic(2.5, 0.4, 0.7, n_harmonics=30),
        kernel("periodic", 0.4, 0.7, 2.5),
    ),
    "level": (LocalLevel(0.3, 2.0), level(0.3, 2.0)),
    "trend": (LocalTrend(0.2, 0.5), trend(0.2, 0.5)),
    "seasonal": (Seasonal(3.0, 2, 0.9, 0.2), seasonal(3.0, 2, 0.9, 0.2)),
}


def paired(a, b, how):
    first, second = PARTS[a], PARTS[b]
    both = {"+": lambda x, y: x + y, "*": lambda x, y: x * y}[how]
    return both(first[0], second[0]), lambda t: both(first[1](t), second[1](t))


PARTS["sum"] = paired("matern32", "trend", "+")
PARTS["sum of sums"] = paired("sum", "level", "+")
PARTS["product"] = paired("matern52", "periodic", "*")
PARTS["product of a sum"] = paired("sum", "periodic", "*")


@pytest.mark.parametrize(("part", "covariance"), PARTS.values(), ids=PARTS)
def test_equals_the_dense_gaussian_process(part, covariance):
    """Evidence, and mean and variance of the function where a third of the answers are missing."""
    t = times()
    noisy = covariance(t) + 0.2**2 * torch.eye(len(t), dtype=F64)
    law = MultivariateNormal(torch.full_like(t, 0.5), noisy)
    y = law.sample()
    seen = torch.rand(len(t)) > 1 / 3
    gain = torch.linalg.solve(noisy[seen][:, seen], covariance(t)[seen]).T
    mean = 0.5 + gain @ (y[seen] - 0.5)
    variance = (covariance(t) - gain @ covariance(t)[seen]).diagonal()
    known = MultivariateNormal(law.mean[seen], noisy[seen][:, seen]).log_prob(y[seen])

    model = part.model(t, noise=0.2, mean=0.5)
    smoothed = kalman_smoother(model, y.where(seen, torch.nan)[None, :, None])
    h = model.observation
    torch.testing.assert_close(smoothed.log_evidence[0], known, rtol=1e-8, atol=1e-8)
    function = (smoothed.mean @ h.mT)[0, :, 0] + 0.5
    torch.testing.assert_close(function, mean, rtol=1e-8, atol=1e-8)
    spread = (h @ smoothed.cov @ h.mT)[0, :, 0, 0]
    torch.testing.assert_close(spread, variance, rtol=1e-8, atol=1e-8)


def test_hyperparameters_in_a_batch():
    t, y = times(20), torch.randn(1, 20, 1, dtype=F64)
    scales = torch.tensor([0.5, 1.0, 3.0], dtype=F64)

    def evidence(s):
        walk = LocalLevel(s, 1.0) + LocalTrend(0.1 * s, s) + Seasonal(3.0, 2, s, 0.1 * s)
        part = walk + Matern("matern32", s, s) * Periodic(2.0, s, s)
        return kalman_filter(part.model(t, noise=s, mean=s), y).log_evidence

    each = torch.cat([evidence(s) for s in scales])
    torch.testing.assert_close(evidence(scales), each, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["matern12", "matern32", "matern52"])
def test_gradient_of_the_evidence(name):
    """By finite differences, with equal times, where the noise of a step vanishes."""
    t, y = times(15), torch.randn(1, 15, 1, dtype=F64)

    def evidence(u):
        lengthscale, scale, noise = u.exp()
        return kalman_filter(Matern(name, lengthscale, scale).model(t, noise), y).log_evidence

    torch.autograd.gradcheck(evidence, torch.zeros(3, dtype=F64, requires_grad=True))


def test_twenty_thousand_points():
    """Twice the points take twice the time; the dense matrix would have 3 GB."""
    part, seconds = Matern("matern32", 0.8, 1.3), []
    kalman_smoother(part.model(times(100), 0.2), torch.zeros(1, 100, 1, dtype=F64))
    for n in (5_000, 20_000):
        t = times(n) * n / 60
        y = torch.sin(t)[None, :, None]
        begin = time.process_time()
        kalman_smoother(part.model(t, 0.2), y)
        seconds.append(time.process_time() - begin)
    assert seconds[1] < 20
    assert seconds[1] < 4 * 1.6 * seconds[0] + 0.5


WRONG = {
    "a negative lengthscale": (lambda: Matern("matern32", -1.0, 1.0), "lengthscale of Matern.*> 0"),
    "no number": (lambda: LocalLevel(float("nan"), 1.0), "drift of LocalLevel.*>= 0.*got nan"),
    "no such kernel": (lambda: Matern("rbf", 1.0, 1.0), "kind to be one of .*matern12"),
    "two that change": (
        lambda: Matern("matern32", 1.0, 1.0) * LocalLevel(1.0, 1.0),
        "second factor to be a Periodic.*got LocalLevel.*other order",
    ),
    "nothing": (lambda: Sum(()), "at least one part"),
    "a distribution": (
        lambda: Matern("matern32", LogNormal(0.0, 1.0), 1.0).model(times(), 0.1),
        "Give the part to a StructuralSeries",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_parts(no_shape_checks, make, message):
    with pytest.raises(ValueError, match=message):
        make()
