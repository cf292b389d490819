"""Laws of the bar distribution: everything follows from its density, whatever the bars."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from amortized.distributions.bar_distribution import BarDistribution, equal_mass_borders

float64 = functools.partial(torch.tensor, dtype=torch.float64)
N_NODES = 400  # Gauss-Legendre nodes of a tail; 8 suffice for a bar


def bars(logits, borders):
    return BarDistribution(
        torch.as_tensor(logits, dtype=torch.float64), torch.as_tensor(borders, dtype=torch.float64)
    )


def normal_bars(n):
    """Bars that follow a normal density, between borders of equal mass."""
    borders = stats.norm.ppf(np.linspace(0.5 / n, 1 - 0.5 / n, n + 1))
    middle = (borders[1:] + borders[:-1]) / 2
    return bars(stats.norm.logpdf(middle) + np.log(np.diff(borders)), borders)


BARS = {
    "three": lambda: bars([0.3, -0.2, 0.1], [-1.0, 0.5, 0.7, 3.0]),
    "a normal density": lambda: normal_bars(50),
    "far from zero": lambda: bars([0.0, 1.0, 0.5, -1.0], 1e6 + np.array([0.0, 1, 2, 4, 5])),
    "tiny": lambda: bars([0.0, 1.0, 0.5, -1.0], 1e-6 * np.array([-1.0, 1, 2, 4, 5])),
    "all mass in a tail": lambda: bars([30.0, 0.0, 0.0, 0.0], [-3.0, -1.0, 0.0, 1.0, 2.0]),
    "a bar without mass": lambda: bars([0.0, -math.inf, 0.0, 1.0], [-2.0, -1.0, 0.0, 1.0, 2.0]),
    "two modes": lambda: bars([0.0, 3.0, -5.0, 3.0, 0.0], np.linspace(-2, 2, 6)),
}
each_bars = pytest.mark.parametrize("make", BARS.values(), ids=BARS)


def quadrature(d, *ends):
    """Nodes and weights of an integral over the line; the ends cut it, as borders do."""
    b = d.borders.numpy()
    reach = 12 * (b[1] - b[0] + b[-1] - b[-2])
    far = min(b[1] - reach, *ends, math.inf), max(b[-2] + reach, *ends, -math.inf)
    ends = np.unique([*far, *b[1:-1], *ends])
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    half = np.diff(ends)[:, None] / 2
    return torch.as_tensor(ends[:-1, None] + half * (1 + nodes)), torch.as_tensor(half * weights)


def expectation(d, f):
    y, weights = quadrature(d)
    return float((weights * d.log_prob(y).exp() * f(y)).sum())


@each_bars
def test_density_integrates_to_one(make):
    assert expectation(make(), torch.ones_like) == pytest.approx(1, abs=1e-9)


@each_bars
def test_cdf_is_the_integral_of_the_density(make):
    d = make()
    for y in d.icdf(float64([1e-3, 0.1, 0.35, 0.5, 0.8, 0.999])):
        z, weights = quadrature(d, float(y))
        area = (weights * d.log_prob(z).exp())[z < y].sum()
        torch.testing.assert_close(d.cdf(y), area, rtol=0, atol=1e-8)


@each_bars
def test_icdf_inverts_cdf(make):
    d = make()
    p = torch.cat([torch.tensor([1e-12, 1e-6]), torch.linspace(0.01, 0.99, 99)]).double()
    torch.testing.assert_close(d.cdf(d.icdf(p)), p, rtol=1e-6, atol=1e-9)
    assert (d.icdf(p).diff() > 0).all()


@each_bars
def test_ends_of_the_line(make):
    d = make()
    ends = float64([-math.inf, math.inf])
    torch.testing.assert_close(d.cdf(ends), float64([0.0, 1.0]))
    assert (d.log_prob(ends) == -math.inf).all()
    assert torch.equal(d.icdf(float64([0.0, 1.0])), ends)


@each_bars
def test_moments_are_integrals(make):
    d = make()
    mean, unit = float(d.mean), float(d.stddev)
    assert expectation(d, lambda y: (y - mean) / unit) == pytest.approx(0, abs=1e-8)
    assert expectation(d, lambda y: ((y - mean) / unit) ** 2) == pytest.approx(1, abs=1e-8)


@each_bars
def test_entropy_is_an_integral(make):
    d = make()
    surprise = expectation(d, lambda y: -d.log_prob(y).nan_to_num(neginf=0.0))
    assert float(d.entropy()) == pytest.approx(surprise, abs=1e-8)


@each_bars
@pytest.mark.parametrize("level", [1e-9, 0.02, 0.4, 0.9, 1 - 1e-9])
def test_crps_is_an_integral(make, level):
    """CRPS = int (F(z) - 1[z > y])^2 dz."""
    d = make()
    y = d.icdf(float64(level))
    z, weights = quadrature(d, float(y))
    expected = (weights * (d.cdf(z) - (z > y).double()).square()).sum()
    torch.testing.assert_close(d.crps(y), expected, rtol=1e-7, atol=0)


@each_bars
def test_crps_is_proper(make):
    """Its expectation under the distribution itself is half the mean difference of two draws."""
    d = make()
    one, other = d.sample((2, 40_000))
    expected = (one - other).abs().mean() / 2
    torch.testing.assert_close(d.crps(one).mean(), expected, rtol=0.03, atol=0)


@each_bars
def test_mode_has_the_highest_density(make):
    d = make()
    everywhere = d.icdf(torch.linspace(1e-6, 1 - 1e-6, 20_001).double())
    assert d.log_prob(d.mode) >= d.log_prob(everywhere).max() - 1e-6


@each_bars
def test_draws_follow_the_cdf(make):
    d = make()
    draws = d.sample((20_000,))
    assert draws.shape == (20_000,) and draws.isfinite().all()
    assert stats.kstest(d.cdf(draws).numpy(), "uniform").pvalue > 1e-3
    z = (draws - d.mean) / d.stddev
    assert abs(z.mean()) < 4 / math.sqrt(20_000)
    assert abs(z.square().mean() - 1) < 4 * z.square().std() / math.sqrt(20_000)


def test_tails_are_half_normal():
    borders = float64([-2.0, -1.0, 1.0, 4.0])
    d = BarDistribution(float64([0.2, 0.5, 0.3]).log(), borders)
    # Half of a tail's mass lies in its bar.
    torch.testing.assert_close(d.cdf(borders[[0, 3]]), float64([0.1, 0.85]))
    y = torch.linspace(1.0, 20.0, 50).double()
    tail = stats.halfnorm(loc=1.0, scale=3.0 / stats.halfnorm.median())
    np.testing.assert_allclose(d.log_prob(y[1:]), tail.logpdf(y[1:]) + math.log(0.3))
    np.testing.assert_allclose(d.cdf(y), 0.7 + 0.3 * tail.cdf(y))


def test_draws_in_float32_are_finite():
    """The cumulative sum of a thousand float32 masses misses 1 by more than a tail's mass."""
    d = BarDistribution(torch.randn(1000), torch.linspace(-3, 3, 1001))
    assert d.sample((500_000,)).isfinite().all()
    level = float64([1e-30, 1 - 1e-12])
    assert d.icdf(level).isfinite().all() and d.icdf(level).dtype == torch.float32


def test_batches_broadcast():
    d = BarDistribution(torch.randn(2, 3, 5), torch.linspace(-1, 1, 6))
    assert d.batch_shape == (2, 3) and d.event_shape == ()
    for value in (torch.tensor(0.2), torch.zeros(3), torch.zeros(7, 1, 1), torch.zeros(2, 3)):
        shape = torch.broadcast_shapes(value.shape, (2, 3))
        for function in (d.log_prob, d.cdf, d.crps):
            assert function(value).shape == shape
        assert d.icdf(value.sigmoid()).shape == shape
    for value in (d.mean, d.variance, d.stddev, d.mode, d.entropy()):
        assert value.shape == (2, 3)
    assert d.sample((4,)).shape == (4, 2, 3) and d.masses.shape == (2, 3, 5)


def test_each_member_of_a_batch_stands_alone():
    logits, borders = torch.randn(4, 6).double(), torch.linspace(-2, 2, 7).double()
    together = BarDistribution(logits, borders)
    y = torch.randn(4).double()
    for i in range(4):
        alone = BarDistribution(logits[i], borders)
        for function in ("log_prob", "cdf", "crps"):
            torch.testing.assert_close(
                getattr(together, function)(y)[i], getattr(alone, function)(y[i])
            )
        for name in ("mean", "variance", "mode"):
            torch.testing.assert_close(getattr(together, name)[i], getattr(alone, name))


def test_expand_repeats_the_distribution():
    d = BarDistribution(torch.randn(3, 5), torch.linspace(-1, 1, 6))
    wide = d.expand((4, 3))
    assert wide.batch_shape == (4, 3)
    y = torch.randn(4, 3)
    torch.testing.assert_close(wide.log_prob(y), d.log_prob(y))
    torch.testing.assert_close(wide.mean, d.mean.expand(4, 3))


def test_values_of_another_dtype_are_taken():
    d = BarDistribution(torch.zeros(4), torch.linspace(-1, 1, 5))
    for function in (d.log_prob, d.cdf, d.icdf, d.crps):
        assert function(float64(0.25)).dtype == torch.float32


def test_logits_get_the_gradient_of_the_softmax():
    logits = torch.randn(5, dtype=torch.float64, requires_grad=True)
    borders = torch.linspace(-1, 1, 6).double()
    y = float64([-3.0, -0.1, 0.5, 2.0])
    torch.autograd.gradcheck(lambda values: BarDistribution(values, borders).log_prob(y), logits)


def test_extreme_logits_keep_everything_finite():
    d = BarDistribution(torch.tensor([-1e4, 1e4, 0.0, -1e4]), torch.linspace(-1, 1, 5))
    y = torch.linspace(-0.4, 0.4, 9)
    values = [d.mean, d.variance, d.entropy(), d.mode, d.cdf(y), d.crps(y), d.log_prob(y)]
    assert all(value.isfinite().all() for value in values)
    torch.testing.assert_close(d.mean, torch.tensor(-0.25))


@settings(max_examples=50)
@given(
    logits=hnp.arrays(float, 6, elements=st.floats(-30, 30)),
    widths=hnp.arrays(float, 6, elements=st.floats(1e-3, 1e3)),
    start=st.floats(-1e3, 1e3),
    y=st.floats(-1e4, 1e4),
)
def test_any_bars_keep_the_laws(logits, widths, start, y):
    d = bars(logits, start + np.append(0, np.cumsum(widths)))
    y = float64(y)
    assert d.variance > 0 and d.log_prob(y) < math.inf
    # |E Y - y| - E|Y - Y'| / 2 <= CRPS <= E|Y - y|, which is at most the root of the square's mean
    distance = (d.variance + (d.mean - y).square()).sqrt()
    assert -1e-9 <= d.crps(y) <= distance * (1 + 1e-9)
    p = float64([0.05, 0.5, 0.95])
    torch.testing.assert_close(d.cdf(d.icdf(p)), p, rtol=1e-6, atol=1e-9)


def test_borders_of_equal_mass_are_quantiles():
    draws = torch.randn(100_000)
    borders = equal_mass_borders(draws, 10)
    assert torch.equal(borders[[0, -1]], torch.stack([draws.min(), draws.max()]))
    counts = torch.histogram(draws, borders).hist
    assert (counts - 10_000).abs().max() <= 2


def test_ties_give_fewer_bars():
    draws = torch.cat([torch.zeros(600), torch.linspace(-1, 1, 401)])
    borders = equal_mass_borders(draws, 100)
    assert (borders.diff() > 0).all() and 4 <= len(borders) < 50
    BarDistribution(torch.zeros(len(borders) - 1), borders)


WRONG = {
    "two bars": (lambda: BarDistribution(torch.zeros(2), torch.zeros(3)), "3 or more bars"),
    "one border short": (
        lambda: BarDistribution(torch.zeros(4), torch.arange(4.0)),
        "one border more than bars; got 4 bars",
    ),
    "equal borders": (
        lambda: BarDistribution(torch.zeros(3), torch.tensor([0.0, 1.0, 1.0, 2.0])),
        "strictly increasing borders",
    ),
    "falling borders": (
        lambda: BarDistribution(torch.zeros(3), torch.arange(4.0).flip(0)),
        "strictly increasing borders",
    ),
    "borders that are no numbers": (
        lambda: BarDistribution(torch.zeros(3), torch.tensor([0.0, 1.0, math.nan, 2.0])),
        "strictly increasing borders",
    ),
    "draws that do not vary": (
        lambda: equal_mass_borders(torch.ones(100), 10),
        "at least 4 distinct quantiles; got 1",
    ),
    "too few draws": (lambda: equal_mass_borders(torch.arange(3.0), 10), "4 distinct quantiles"),
    "no draws": (lambda: equal_mass_borders(torch.zeros(0), 10), "4 distinct quantiles; got 0"),
    "draws that are no numbers": (
        lambda: equal_mass_borders(torch.tensor([0.0, 1, 2, 3, math.nan]), 4),
        "finite draws",
    ),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()
