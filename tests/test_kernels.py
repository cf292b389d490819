"""Covariance functions against scikit-learn's, and the laws that all of them keep."""

import math

import numpy as np
import pytest
import torch
from sklearn.gaussian_process import kernels as peer
from torch.func import grad, vmap

from amortized.priors.regression.kernels import KERNELS

LENGTHSCALE = torch.tensor([0.7, 1.3, 2.0], dtype=torch.float64)
PERIOD = torch.tensor([1.1, 2.5, 0.6], dtype=torch.float64)
each_kernel = pytest.mark.parametrize("name", KERNELS)


def kernel(name, x, z, lengthscale=LENGTHSCALE, period=PERIOD):
    n = x.shape[-1]
    periods = [period[..., :n].to(x)] if name == "periodic" else []
    return KERNELS[name](x, z, lengthscale[..., :n].to(x), *periods)


def inputs(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


ISOTROPIC = {
    "rbf": peer.RBF,
    "matern12": lambda ls: peer.Matern(ls, nu=0.5),
    "matern32": lambda ls: peer.Matern(ls, nu=1.5),
    "matern52": lambda ls: peer.Matern(ls, nu=2.5),
}


@pytest.mark.parametrize("name", ISOTROPIC)
@pytest.mark.parametrize("n_features", [1, 3])
def test_is_scikit_learns(name, n_features):
    x, z = inputs(6, n_features), inputs(4, n_features)
    expected = ISOTROPIC[name](LENGTHSCALE[:n_features].numpy())(x.numpy(), z.numpy())
    np.testing.assert_allclose(kernel(name, x, z), expected, rtol=1e-12)


def test_periodic_is_scikit_learns():
    x, z = inputs(6, 1), inputs(4, 1)
    expected = peer.ExpSineSquared(0.7, 1.1)(x.numpy(), z.numpy())
    np.testing.assert_allclose(kernel("periodic", x, z), expected, rtol=1e-12)


def test_periodic_in_many_features_is_a_product():
    x, z = inputs(6, 3), inputs(4, 3)
    factors = [
        KERNELS["periodic"](x[:, [j]], z[:, [j]], LENGTHSCALE[[j]], PERIOD[[j]]) for j in range(3)
    ]
    torch.testing.assert_close(kernel("periodic", x, z), math.prod(factors))


def test_periodic_repeats():
    x, z = inputs(6, 3), inputs(4, 3)
    torch.testing.assert_close(kernel("periodic", x + PERIOD, z), kernel("periodic", x, z))


@each_kernel
def test_is_one_at_distance_zero(name):
    for dtype in (torch.float32, torch.float64):
        x = 100 * inputs(5, 3, dtype=dtype)
        assert (kernel(name, x, x).diagonal() == 1).all()


@each_kernel
def test_is_symmetric_and_at_most_one(name):
    x, z = inputs(6, 3), inputs(4, 3)
    torch.testing.assert_close(kernel(name, x, z), kernel(name, z, x).mT)
    assert (kernel(name, x, z) <= 1).all() and (kernel(name, x, z) > 0).all()


@each_kernel
@pytest.mark.parametrize("n_features", [1, 3])
def test_is_positive_semi_definite(name, n_features):
    x = inputs(40, n_features)
    assert torch.linalg.eigvalsh(kernel(name, x, x)).min() > -1e-12


@each_kernel
def test_small_distances_are_kept_in_float32(name):
    """The expanded square |x|^2 - 2xz + |z|^2 would lose them."""
    x = torch.tensor([[10.0]])
    z = x + torch.logspace(-4, 0, 20)[:, None]
    exact = kernel(name, x.double(), z.double())
    torch.testing.assert_close(kernel(name, x, z).double(), exact, rtol=1e-4, atol=3e-6)


@each_kernel
def test_lengthscales_belong_to_their_feature(name):
    x, z = inputs(6, 3), inputs(4, 3)
    order = [2, 0, 1]
    mixed = kernel(name, x[:, order], z[:, order], LENGTHSCALE[order], PERIOD[order])
    torch.testing.assert_close(mixed, kernel(name, x, z))
    flat = kernel(name, x, z, torch.tensor([0.7, 1.3, 1e9], dtype=torch.float64))
    torch.testing.assert_close(flat, kernel(name, x[:, :2], z[:, :2]), rtol=1e-6, atol=1e-9)


@each_kernel
def test_batches_are_loops(name):
    x, z = inputs(5, 6, 2), inputs(5, 4, 2)
    lengthscale, period = torch.rand(2, 5, 2).double() + 0.5
    together = kernel(name, x, z, lengthscale, period)
    for i in range(5):
        torch.testing.assert_close(together[i], kernel(name, x[i], z[i], lengthscale[i], period[i]))


@each_kernel
def test_gradients_are_finite_and_right(name):
    """Also where inputs are equal, at a distance of zero, whose root has no derivative."""
    x = inputs(5, 3)
    x[3] = x[1]
    direction = inputs(5, 5)
    direction = direction + direction.mT

    def total(log_lengthscale):
        return (kernel(name, x, x, log_lengthscale.exp()) * direction).sum()

    points = LENGTHSCALE.log() + 0.1 * inputs(4, 3)
    gradients = vmap(grad(total))(points)
    assert gradients.isfinite().all() and (gradients != 0).all()
    step = 1e-6 * torch.eye(3).double()
    for point, gradient in zip(points, gradients, strict=True):
        slopes = torch.stack([total(point + s) - total(point - s) for s in step]) / 2e-6
        torch.testing.assert_close(gradient, slopes, rtol=1e-6, atol=1e-7)


@each_kernel
def test_gradients_in_the_inputs_are_finite(name):
    x = inputs(5, 3)
    x[3] = x[1]
    assert grad(lambda x: kernel(name, x, x).sum())(x).isfinite().all()
