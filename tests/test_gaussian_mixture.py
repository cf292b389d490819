"""Laws of the Gaussian mixture, each for mixtures of several shapes and precisions."""

import math

import numpy as np
import oracles
import pytest
import torch
from scipy import stats

from amortized.distributions.gaussian_mixture import GaussianMixture


def mixture(*batch, k=3, dim=2, scale=1.0, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*batch, *shape, generator=generator, dtype=dtype)

    root = normal(k, dim, dim)
    tril = torch.linalg.cholesky(root @ root.mT + 0.1 * torch.eye(dim, dtype=dtype))
    return GaussianMixture(normal(k), 2 * scale * normal(k, dim), scale * tril)


MIXTURES = {
    "one normal": lambda: mixture(k=1),
    "one dimension": lambda: mixture(k=4, dim=1),
    "two dimensions": lambda: mixture(k=3, dim=2),
    "a batch": lambda: mixture(5, k=3, dim=3),
    "two batch dimensions": lambda: mixture(2, 3, k=2, dim=2),
    "tiny": lambda: mixture(2, k=3, dim=2, scale=1e-4),
    "an absent component": lambda: GaussianMixture(
        torch.tensor([0.0, -math.inf, 1.0]), *(t.float() for t in parts(mixture(k=3, dim=2)))
    ),
}
each_mixture = pytest.mark.parametrize("make", MIXTURES.values(), ids=MIXTURES)


def parts(m):
    return m.means, m.scale_tril


def brute_force_log_prob(m, value):
    """One mixture, one point, by scipy."""
    total = 0.0
    for log_w, mean, tril in zip(m.log_weights, *parts(m), strict=True):
        covariance = (tril @ tril.T).double().numpy()
        total += math.exp(log_w) * stats.multivariate_normal(mean.numpy(), covariance).pdf(value)
    return math.log(total)


@each_mixture
def test_log_prob_is_that_of_scipy(make):
    m = make()
    value = m.sample((4,))
    assert m.log_prob(value).shape == (4, *m.batch_shape)
    one = (0,) * len(m.batch_shape)
    single = m[one] if one else m
    for i in range(4):
        point = value[(i, *one)]
        expected = brute_force_log_prob(single, point.numpy())
        assert single.log_prob(point).item() == pytest.approx(expected, abs=1e-4)


def test_density_integrates_to_one():
    m = mixture(k=3, dim=2)
    line = torch.linspace(-25, 25, 801, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    total = m.log_prob(grid).exp().sum() * (line[1] - line[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=1e-6)


@each_mixture
def test_draws_have_the_moments(make):
    m = make()
    draws = m.sample((20_000,)).double()
    error = m.stddev.double() / math.sqrt(20_000)
    assert ((draws.mean(0) - m.mean).abs() < 5 * error).all()
    assert torch.allclose(draws.std(0), m.stddev.double(), rtol=0.06)


JOINT = {name: make for name, make in MIXTURES.items() if make().dim > 1}


@pytest.mark.parametrize("make", JOINT.values(), ids=JOINT)
def test_marginal_times_conditional_is_the_joint(make):
    m = make()
    value = m.sample((3,))
    last, rest = m.dim - 1, list(range(m.dim - 1))
    marginal = m.marginal([last])
    conditional = m.condition([last], value[..., [last]])
    split = marginal.log_prob(value[..., [last]]) + conditional.log_prob(value[..., rest])
    assert torch.allclose(split, m.log_prob(value), atol=2e-4)


@each_mixture
def test_whitening(make):
    m = make()
    mean, factor = m.whitening()
    white = m.whiten(mean, factor)
    eye = torch.eye(m.dim, dtype=m.means.dtype).expand_as(factor)
    assert torch.allclose(white.mean, torch.zeros_like(mean), atol=1e-5)
    assert torch.allclose(white.covariance_matrix, eye, atol=1e-4)
    value = m.sample((2,))
    back = white.unwhiten(mean, factor)
    assert torch.allclose(back.log_prob(value), m.log_prob(value), atol=1e-3)


def test_propagate_is_a_kalman_prediction():
    m = mixture(4, k=2, dim=3)
    matrix = torch.randn(2, 3, dtype=torch.float64)
    offset = torch.randn(2, dtype=torch.float64)
    noise = torch.diag(torch.tensor([0.3, 0.2], dtype=torch.float64))
    moved = m.propagate(matrix, offset, noise)
    assert torch.allclose(moved.mean, m.mean @ matrix.T + offset)
    expected = matrix @ m.covariance_matrix @ matrix.T + noise
    assert torch.allclose(moved.covariance_matrix, expected)
    still = m.propagate(torch.eye(3, dtype=torch.float64))
    assert torch.allclose(still.scale_tril, m.scale_tril)


def test_update_is_the_closed_form():
    """One normal against an oracle written through the joint covariance; then Bayes' theorem."""
    design, y = np.random.default_rng(0).normal(size=(4, 2)), np.array([0.3, -1.0, 0.5, 2.0])
    one = mixture(k=1, dim=2)
    noise = np.diag([0.5, 0.1, 0.2, 0.3])
    covariance = one.covariance_matrix.numpy()
    mean, cov, evidence = oracles.linear_gaussian(design, y, one.mean.numpy(), covariance, noise)
    posterior, log_evidence = one.update(
        torch.tensor(y), torch.tensor(design), torch.tensor(np.sqrt(noise))
    )
    np.testing.assert_allclose(posterior.mean, mean, rtol=1e-9)
    np.testing.assert_allclose(posterior.covariance_matrix, cov, rtol=1e-8)
    assert log_evidence.item() == pytest.approx(evidence)


@pytest.mark.parametrize("precision", [1.0, 1e4], ids=["weak", "strong"])
def test_update_obeys_bayes_theorem(precision):
    m = mixture(3, k=3, dim=2).to(torch.float32)
    matrix = torch.tensor([[1.0, 0.3]]).expand(3, 1, 2) * math.sqrt(precision)
    z = matrix @ torch.tensor([0.5, -0.2])
    posterior, log_evidence = m.update(z, matrix)
    u = posterior.sample((5,))
    off = z - (matrix @ u.unsqueeze(-1)).squeeze(-1)
    log_likelihood = -0.5 * off.square().sum(-1) - 0.5 * math.log(2 * math.pi)
    expected = m.log_prob(u) + log_likelihood - log_evidence
    assert torch.allclose(posterior.log_prob(u), expected, atol=2e-2 if precision > 1 else 1e-4)


def test_rows_of_zeros_say_nothing():
    m = mixture(3, k=3, dim=2)
    posterior, _ = m.update(torch.zeros(3, 2).double(), torch.zeros(3, 2, 2).double())
    for a, b in zip(parts(posterior), parts(m), strict=True):
        assert torch.allclose(a, b)


def test_cdf_and_icdf_are_inverse():
    m = mixture(3, k=4, dim=1)
    levels = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 0.999999], dtype=torch.float64)
    quantiles = m.icdf(levels.unsqueeze(-1).expand(6, 3))
    assert torch.allclose(m.cdf(quantiles), levels.unsqueeze(-1), atol=1e-9)


def test_kl_of_normals_is_the_closed_form():
    a = GaussianMixture.from_moments(torch.zeros(2), torch.eye(2))
    b = GaussianMixture.from_moments(torch.tensor([1.0, 0.0]), 4 * torch.eye(2))
    exact = torch.distributions.kl_divergence(
        *(torch.distributions.MultivariateNormal(m.mean, m.covariance_matrix) for m in (a, b))
    )
    assert a.kl(b, n_draws=50_000).item() == pytest.approx(exact.item(), abs=0.02)
    assert a.kl(a).item() == 0.0


ONE, EYE = torch.zeros(1), torch.eye(2).unsqueeze(0)
WRONG = {
    "shapes of means": (lambda: GaussianMixture(ONE, torch.zeros(2, 2), EYE), "scale_tril"),
    "weights": (lambda: GaussianMixture(torch.zeros(2), torch.zeros(1, 2), EYE), "log_weights"),
    "a NaN": (lambda: GaussianMixture(ONE, torch.full((1, 2), math.nan), EYE), "finite means"),
    "not positive": (lambda: GaussianMixture(ONE, torch.zeros(1, 2), -EYE), "positive diagonal"),
    "no component": (
        lambda: GaussianMixture(torch.full((1,), -math.inf), torch.zeros(1, 2), EYE),
        "log_weights",
    ),
    "not definite": (
        lambda: GaussianMixture.from_moments(torch.zeros(2), -torch.eye(2)),
        "positive definite",
    ),
    "dims": (lambda: mixture().marginal([2]), "distinct dims"),
    "all dims": (lambda: mixture().condition([0, 1], torch.zeros(2).double()), "fewer than all"),
    "quantiles in 2-D": (lambda: mixture().icdf(torch.tensor(0.5)), "one dimension"),
    "index": (lambda: mixture()[0], "batch of mixtures"),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
