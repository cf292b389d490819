"""Maps of a regression's target, and the one predictive that its views make together."""

import pickle

import numpy as np
import pytest
import torch
from scipy.stats import yeojohnson

from amortized.distributions.bar_distribution import BarDistribution
from amortized.estimators import PFNRegressor
from amortized.networks import TabularPFN, TabularPFNConfig
from amortized.pretrained import save
from amortized.tables.target_transforms import TRANSFORMS, YeoJohnson, fit_transform
from amortized.tables.target_views import TargetViews

N = 60
BORDERS = torch.linspace(-4, 4, 33).sinh() / 4


def network_of(**changes):
    """Random weights: enough for laws that hold for any weights."""
    size = {"d_model": 32, "d_hidden": 16, "n_cell_blocks": 2, "n_row_blocks": 1, "d_row": 48}
    config = TabularPFNConfig(target="regression", n_bars=32, **{**size, **changes})
    network = TabularPFN(config, BORDERS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return network


def views_of(network, x, y, **options):
    standard = {"n_views": 1, "transforms": ("none",), "y_mean": 0.0, "y_scale": 1.0}
    standard["precision"] = "float32"  # the laws are exact
    return TargetViews(
        network,
        x,
        y,
        columns=np.arange(x.shape[1]),
        unordered=np.zeros(x.shape[1], dtype=bool),
        random_state=np.random.RandomState(0),
        **{**standard, **options},
    )


def standardised(values):
    return (values - values.mean()) / values.std()


def table(n=N):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 3)).astype(np.float32), standardised(rng.gamma(2.0, size=n))


TARGETS = {
    "normal": lambda rng: rng.normal(size=200),
    "lognormal": lambda rng: np.exp(2 * rng.normal(size=200)),
    "skewed to the left": lambda rng: -np.exp(rng.normal(size=200)),
    "heavy tails": lambda rng: rng.standard_t(1.5, size=200),
    "mostly zero": lambda rng: np.maximum(rng.normal(size=200), 0.5),
    "three values": lambda rng: rng.integers(0, 3, 200).astype(float),
    "far from zero": lambda rng: 1e9 + rng.normal(size=200),
}
each_target = pytest.mark.parametrize("draw", TARGETS.values(), ids=TARGETS)


@each_target
@pytest.mark.parametrize("name", TRANSFORMS)
def test_maps_increase_and_have_an_inverse(name, draw):
    raw = draw(np.random.default_rng(0))
    y = standardised(raw)
    transform = fit_transform(name, y, raw.mean() / raw.std())
    mapped = transform.forward(y)
    np.testing.assert_allclose(transform.inverse(mapped), y, rtol=1e-9, atol=1e-9)
    grid = mapped.mean() + mapped.std() * np.linspace(-8, 8, 999)
    assert (np.diff(transform.inverse(grid)) > 0).all()
    np.testing.assert_allclose(transform.forward(transform.inverse(grid)), grid, rtol=1e-6)


@pytest.mark.parametrize("name", ["power", "quantile"])
@pytest.mark.parametrize("kind", ["lognormal", "skewed to the left"])
def test_skew_is_taken_away(name, kind):
    y = TARGETS[kind](np.random.default_rng(0))
    mapped = fit_transform(name, standardised(y), y.mean() / y.std()).forward(standardised(y))
    assert abs((standardised(mapped) ** 3).mean()) < 0.4 * abs((standardised(y) ** 3).mean())


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0, 1.7, 2.0])
def test_inverse_of_the_power(exponent):
    y = np.linspace(-20, 20, 41)
    np.testing.assert_allclose(YeoJohnson(exponent).inverse(yeojohnson(y, exponent)), y, rtol=1e-9)


def test_one_untransformed_view_is_the_network_itself():
    network, (x, y) = network_of(), table()
    found = views_of(network, x, y, y_mean=5.0, y_scale=2.0).predictive(x[:9])
    expected = network(*(torch.as_tensor(a).float()[None] for a in (x, y, x[:9])))
    torch.testing.assert_close(found.borders, 5.0 + 2.0 * BORDERS.double())
    torch.testing.assert_close(
        found.log_masses, expected.log_masses[0].double(), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("transforms", [("power",), ("quantile",), TRANSFORMS])
def test_every_view_has_its_masses_between_its_borders(transforms):
    """The mixture's cdf at an image of a border is the mean of the views' cdfs."""
    network, (x, y) = network_of(), table()
    views = views_of(network, x, y, n_views=len(transforms), transforms=transforms)
    found = views.predictive(x[:5])
    asked = views.borders[1:-1]
    expected = torch.zeros(len(asked), 5, dtype=torch.float64)
    for own, name in zip(next(views.views.masses(x[:5])), transforms, strict=True):
        transform = fit_transform(name, y, 0.0)
        mapped = transform.forward(y)
        centre, unit = (0.0, 1.0) if name == "none" else (mapped.mean(), mapped.std())
        image = transform.inverse(centre + unit * BORDERS.double().numpy())
        bars = BarDistribution(own.log(), torch.as_tensor(image))
        expected += bars.cdf(torch.as_tensor(asked)[:, None]) / len(transforms)
    torch.testing.assert_close(found.cdf(torch.as_tensor(asked)[:, None]), expected)


def test_the_predictive_is_a_density():
    network, (x, y) = network_of(), table()
    found = views_of(network, x, y, n_views=3, transforms=TRANSFORMS).predictive(x[:3])
    levels = (torch.arange(100_000, dtype=torch.float64) + 0.5)[:, None] / 100_000
    grid = found.icdf(levels).requires_grad_()
    (slope,) = torch.autograd.grad(found.cdf(grid).sum(), grid)
    torch.testing.assert_close(found.log_prob(grid).exp(), slope)
    torch.testing.assert_close(found.cdf(grid), levels.expand(-1, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(grid.mean(0), found.mean, atol=1e-2, rtol=0)


def test_a_logarithm_in_the_estimator_is_one_before_it():
    network, (x, y) = network_of(), table()
    options = {"n_estimators": 1, "random_state": 0}
    raw = np.exp(1.5 * y)
    inside = PFNRegressor(network, target_transforms=("power",), **options).fit(x, raw)
    before = PFNRegressor(network, target_transforms=("none",), **options).fit(x, np.log(raw))
    levels = [0.2, 0.4, 0.6]
    found, expected = (e.predict_quantiles(x, levels) for e in (inside, before))
    # Inside of a bar one is linear and the other is not; so are their tails, which are long.
    masses = before.predict_distribution(x).masses.numpy()
    inner = (masses[:, 0] < levels[0]) & (masses[:, -1] < 1 - levels[-1])
    assert inner.mean() > 0.7
    error = np.abs(np.log(found[inner]) - expected[inner]) / np.ptp(1.5 * y)
    assert np.quantile(error, 0.9) < 0.02  # wide bars, of few rows, hold the rest


def test_views_are_standardised_by_their_own_rows():
    """A new network answers with its bars alone, about the mean of the rows it sees."""
    network = TabularPFN(TabularPFNConfig(target="regression", max_context=20, n_bars=32), BORDERS)
    x, y = table()
    views = views_of(network, x, y, n_views=3)
    means = [y[view.rows].mean() for view in views.drawn]
    assert len(set(means)) == 3
    # Beyond the untransformed bars a half-normal tail stands for others.
    assert abs(float(views.predictive(x[:1]).mean) - np.mean(means)) < 0.05


def test_options_of_the_target_reach_the_views(tmp_path):
    x, y = table()
    folder = str(save(network_of(), tmp_path / "network"))
    answers = []
    for transforms in (("none",), ("power", "quantile"), ["power", "quantile"]):
        estimator = PFNRegressor(folder, n_estimators=2, target_transforms=transforms).fit(x, y)
        answers.append(estimator.predict(x))
        again = PFNRegressor.load(estimator.save(tmp_path / "fitted"))
        assert again.target_transforms == transforms
        np.testing.assert_array_equal(again.predict(x), answers[-1])
        copied = pickle.loads(pickle.dumps(estimator))
        np.testing.assert_array_equal(copied.predict(x), answers[-1])
    assert not np.array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[1], answers[2])


@pytest.mark.parametrize("wrong", [(), "power", ("log",)])
def test_wrong_transforms(wrong):
    with pytest.raises(ValueError, match="Expected target_transforms to be a tuple of"):
        PFNRegressor(network_of(), target_transforms=wrong).fit(*table())


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("scale, shift", [(1e-200, 0.0), (1e140, 0.0), (1.0, 1e15), (0.0, 3.0)])
def test_any_target_is_answered(n, scale, shift):
    x, y = table(n + 1)
    estimator = PFNRegressor(network_of(), target_transforms=TRANSFORMS)
    if n == 1 or scale == 0:
        with pytest.warns(UserWarning, match="does not vary"):
            estimator.fit(x[:n], scale * y[:n] + shift)
    else:
        estimator.fit(x[:n], scale * y[:n] + shift)
    predictive = estimator.predict_distribution(x)
    assert (predictive.borders.diff() > 0).all() and predictive.mean.isfinite().all()
    quantiles = estimator.predict_quantiles(x, [0.1, 0.9])
    assert np.isfinite(quantiles).all() and (quantiles[:, 0] < quantiles[:, 1]).all()
    assert predictive.log_prob(predictive.mean).isfinite().all()
