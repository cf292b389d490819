"""Modes of draws: those that are there, with their shares, and none that are not."""

import numpy as np
import pytest

from amortized.sampling.checks.modes import find_modes

N = 1000


def normal(rng, dim):
    return rng.randn(N, dim)


def banana(rng, dim):
    a = rng.randn(N)
    return np.column_stack([a, a**2 + 0.2 * rng.randn(N)])


ONE_MODE = {
    "line": lambda rng: normal(rng, 1),
    "ten dimensions": lambda rng: normal(rng, 10),
    "banana": lambda rng: banana(rng, 2),
    "skew": lambda rng: np.exp(normal(rng, 3)),
    "heavy tails": lambda rng: rng.standard_cauchy((N, 2)),
    "simplex": lambda rng: rng.dirichlet(np.ones(4), N),
    "a point": lambda rng: np.zeros((N, 2)),
}


@pytest.mark.parametrize("draw", ONE_MODE.values(), ids=ONE_MODE)
def test_one_mode_is_one(draw):
    modes = find_modes(draw(np.random.RandomState(0)))
    assert modes.shares.tolist() == [1.0] and not modes.labels.any()


@pytest.mark.parametrize("dim", [1, 5, 10])
def test_two_modes_have_their_shares(dim):
    rng = np.random.RandomState(0)
    right = rng.rand(N) < 0.3
    draws = 1e-3 * (rng.randn(N, dim) + 9 * np.outer(right, np.eye(dim)[0]))
    modes = find_modes(draws)
    np.testing.assert_allclose(modes.shares, [1 - right.mean(), right.mean()], atol=0.01)
    assert (modes.labels == right).mean() > 0.99


def test_four_mirror_images_are_told_apart():
    rng = np.random.RandomState(0)
    sign = np.sign(rng.randn(N, 2))
    draws = 0.2 * rng.randn(N, 5)
    draws[:, :2] += 2 * sign
    modes = find_modes(draws)
    assert len(modes.shares) == 4 and (np.diff(modes.shares) <= 0).all()
    for label in range(4):
        mine = modes.labels == label
        assert mine.mean() == modes.shares[label] and (np.ptp(sign[mine], axis=0) == 0).all()
