"""The regressor keeps scikit-learn's contract, and answers or refuses whatever it is given."""

import copy
import hashlib
import json
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from amortized import PFNRegressor, load, save
from amortized.diagnostics import PredictiveTrial
from amortized.networks import PFN, PFNConfig, TabularPFNConfig
from amortized.priors import ProgramPrior, named_prior
from amortized.training import TrainingConfig, train


# The checks use up to 30 features, of which gp-1d takes one and gp the ten strongest.
@pytest.mark.filterwarnings("ignore:Expected at most 10 features")
@parametrize_with_checks([PFNRegressor("gp")])
def test_scikit_learn_checks(estimator, check, no_shape_checks):
    check(estimator)


MODELS = {"gp-1d": 1, "gp": 3}  # of raw units; of standardised data
each_model = pytest.mark.parametrize("model", MODELS)


def data(model, n=30, seed=0, m=70):
    """Smooth data with noise, in the model's units, for as many features as it takes."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n + m, MODELS[model]))
    if model == "gp-1d":
        y = 0.6 * np.sin(4 * X[:, 0]) + 0.02 * rng.normal(size=n + m)
    else:
        y = 10 + 3 * np.sin(2 * X[:, 0]) + 2 * X[:, -1] + 0.1 * rng.normal(size=n + m)
    return X[:n], y[:n], X[n:], y[n:]


def fit(model, n=30, **options):
    X, y, Z, z = data(model, n)
    return PFNRegressor(model, **options).fit(X, y), Z, z


# --- laws


@each_model
@pytest.mark.parametrize("n", [1, 2, 30, 50])
def test_answers_do_not_depend_on_the_batch(model, n, filter_warnings):
    """To the last bit: a row is answered alike alone, in company, and in any place."""
    estimator, Z, _ = fit(model, n)
    together = estimator.predict(Z)
    assert np.array_equal(
        np.concatenate([estimator.predict(Z[[i]]) for i in range(0, 9)]), together[:9]
    )
    order = np.random.default_rng(0).permutation(len(Z))
    assert np.array_equal(estimator.predict(Z[order]), together[order])
    assert np.array_equal(estimator.predict(Z[40:]), together[40:])


@each_model
def test_answers_do_not_depend_on_the_number_of_threads(model):
    """Up to float32's rounding, as sums are cut in other places."""
    n_threads, means = torch.get_num_threads(), []
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            estimator, Z, _ = fit(model)
            means.append(estimator.predict(Z))
    finally:
        torch.set_num_threads(n_threads)
    np.testing.assert_allclose(*means, rtol=1e-5)


@each_model
def test_the_order_of_the_training_rows_does_not_matter(model):
    X, y, Z, _ = data(model)
    order = np.random.default_rng(0).permutation(len(X))
    one, other = PFNRegressor(model).fit(X, y), PFNRegressor(model).fit(X[order], y[order])
    np.testing.assert_allclose(one.predict(Z), other.predict(Z), rtol=1e-4)


@pytest.mark.parametrize("scale, shift", [(2.0**40, 0.0), (2.0**-40, 0.0), (3.0, 1e4)])
def test_units_do_not_matter_to_a_network_of_standardised_data(scale, shift):
    X, y, Z, _ = data("gp")
    mean, std = PFNRegressor("gp").fit(X, y).predict(Z, return_std=True)
    other = PFNRegressor("gp").fit(scale * X + shift, scale * y - shift)
    found, spread = other.predict(scale * Z + shift, return_std=True)
    np.testing.assert_allclose((found + shift) / scale, mean, rtol=1e-3)
    np.testing.assert_allclose(spread / scale, std, rtol=1e-2)


@each_model
def test_every_answer_comes_from_one_distribution(model):
    estimator, Z, _ = fit(model)
    d = estimator.predict_distribution(Z)
    assert d.batch_shape == (len(Z),) and d.mean.dtype == torch.float64
    mean, std = estimator.predict(Z, return_std=True)
    assert np.array_equal(estimator.predict(Z), mean)
    np.testing.assert_array_equal(mean, d.mean)
    np.testing.assert_array_equal(std, d.stddev)
    levels = [0.01, 0.3, 0.5, 0.99]
    quantiles = estimator.predict_quantiles(Z, levels)
    assert quantiles.shape == (len(Z), 4) and (np.diff(quantiles) > 0).all()
    found = d.cdf(torch.as_tensor(quantiles.T))
    np.testing.assert_allclose(found.T, np.tile(levels, (len(Z), 1)), rtol=1e-6)
    np.testing.assert_array_equal(estimator.predict_quantiles(Z, 0.5), quantiles[:, [2]])


@each_model
def test_draws_follow_the_distribution(model):
    estimator, Z, _ = fit(model)
    draws = estimator.sample_y(Z, 4000, random_state=0)
    assert draws.shape == (len(Z), 4000)
    levels = estimator.predict_distribution(Z).cdf(torch.as_tensor(draws.T)).T
    assert min(stats.kstest(row, "uniform").pvalue for row in levels) > 1e-5
    assert np.array_equal(draws, estimator.sample_y(Z, 4000, random_state=0))
    assert not np.array_equal(draws[:, 0], estimator.sample_y(Z, 1, random_state=1)[:, 0])


@each_model
def test_learns_a_smooth_function(model):
    """Far better than the mean of y, and with bands that hold what they say, roughly."""
    estimator, Z, z = fit(model, 40)
    mean, std = estimator.predict(Z, return_std=True)
    assert np.sqrt(np.mean((mean - z) ** 2)) < 0.25 * z.std()
    low, high = estimator.predict_quantiles(Z, [0.05, 0.95]).T
    assert 0.7 < np.mean((low < z) & (z < high)) <= 1
    assert std.mean() < 0.5 * z.std()


def test_is_less_sure_where_there_are_no_data():
    estimator, Z, _ = fit("gp-1d")
    assert estimator.predict([[2.0]], return_std=True)[1] > 2 * np.median(
        estimator.predict(Z, return_std=True)[1]
    )


# --- units


def test_networks_say_their_units():
    expected = {"gp": "standardised", "gp-1d": "raw", "learning-curve": "raw"}
    for name, units in (expected | {"tabular-regressor": "standardised"}).items():
        assert load(name).config.units == units
        assert named_prior(name).units == units


def test_numbers_go_to_a_network_of_raw_units_as_they_are():
    task = named_prior("gp-1d").sample(1, 20, 30, seed=3)
    network = load("gp-1d")
    X, y, Z = (part[0].double().numpy() for part in (task.x_context, task.y_context, task.x_query))
    estimator = PFNRegressor("gp-1d").fit(X, y)
    assert np.array_equal(np.sort(estimator.X_train_, axis=0), np.sort(X, axis=0))
    with torch.inference_mode():
        own = network(task.x_context, task.y_context, task.x_query)
    answer = estimator.predict_distribution(Z)
    torch.testing.assert_close(answer.mean, own.mean[0].double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(answer.borders, network.borders.double())


def natural(temperature, y=None):
    """Heat against temperature, in units of physics."""
    slope = pyro.sample("slope", dist.Normal(4.2, 0.3))
    heat = slope * (temperature[:, 0] - 273.0)
    return pyro.sample("y", dist.Normal(heat, 20.0).to_event(1), obs=y)


def test_a_network_of_ones_own_is_used_in_the_units_of_its_prior(tmp_path):
    prior = ProgramPrior(natural, inputs=lambda *shape: 273.0 + 100.0 * torch.rand(*shape, 1))
    size = PFNConfig(n_features=1, max_context=10, d_model=32, n_heads=2, n_layers=2, n_bars=100)
    network = PFN.new(prior, size)
    assert network.config.units == "raw"
    ((low, high),) = network.config.x_range
    assert 273 <= low < 275 and 371 < high <= 373
    stored = load(save(network, tmp_path / "own"))
    assert stored.config == network.config
    task = prior.sample(1, 5, 5, seed=1)
    X, y = task.x_context[0].numpy(), task.y_context[0].numpy()
    estimator = PFNRegressor(network).fit(X, y)
    assert np.array_equal(np.sort(estimator.y_train_), np.sort(y.astype(float)))
    with pytest.warns(UserWarning, match=r"feature 0 of X between 273 and 373, .* in raw units"):
        estimator.predict(X - 273.0)
    with pytest.warns(UserWarning, match="Expected y between .* in raw units; got .*Do not trust"):
        PFNRegressor(network).fit(X, 1000 * y)


def exact_heat(batch):
    """The predictive of ``natural`` in closed form: of its slope a normal posterior."""
    x, z = batch.x_context[..., 0].double() - 273, batch.x_query[..., 0].double() - 273
    precision = 0.3**-2 + (x / 20).square().sum(1)
    slope = (4.2 * 0.3**-2 + (x * batch.y_context.double() / 400).sum(1)) / precision
    variance = z.square() / precision[:, None] + 400
    return torch.distributions.Normal(slope[:, None] * z, variance.sqrt())


def test_a_network_in_natural_units_is_as_good_as_its_numbers_of_order_one():
    """Within a twentieth of a nat of the exact answer after seconds of training."""
    prior = ProgramPrior(natural, inputs=lambda *shape: 273.0 + 100.0 * torch.rand(*shape, 1))
    size = PFNConfig(
        n_features=1,
        max_context=12,
        d_model=32,
        n_heads=2,
        n_layers=2,
        d_hidden=64,
        n_bars=200,
        frequencies=(0.1, 1.0),
    )
    rates = {"lr": 5e-3, "muon_lr": 2e-2, "ema_decay": 0.97}
    steps = TrainingConfig(n_steps=200, n_context=(2, 12), n_query=32, **rates)
    network = train(prior, size, steps, progress=False)
    (centre, spread), (middle, scale) = network.config.scaling
    assert 320 < centre < 326 and 30 < spread < 38 and 190 < middle < 230 and 130 < scale < 155
    trial = {"n_datasets": 100, "n_context": 8, "n_query": 8, "progress": False}
    oracle, bare, ours = (
        PredictiveTrial.run(prior, method, **trial).scores
        for method in (exact_heat, network, PFNRegressor(network))
    )
    torch.testing.assert_close(ours, bare, atol=1e-3, rtol=1e-3)
    assert -0.02 < (oracle - ours).mean() < 0.05
    assert load("gp-1d").config.scaling is None


def old_file(network, folder, **config):
    """A folder as it was saved before networks said their units."""
    path = save(network, folder)
    stored = json.loads((path / "config.json").read_text())
    for name in ("units", "x_range", "scaling"):
        stored["config"].pop(name)
    stored["config"] |= config
    content = json.dumps(stored).encode()
    (path / "config.json").write_bytes(content)
    with (path / "CARD.md").open("a") as card:
        card.write(hashlib.sha256(content).hexdigest())
    return path


@pytest.mark.parametrize(
    "prior, units", [("gp", "standardised"), ("gp-1d", "raw"), (None, "raw"), ("mine", "raw")]
)
def test_a_file_that_says_no_units_has_those_of_its_prior(tmp_path, prior, units):
    own = PFN(PFNConfig(n_features=1, max_context=9, d_model=16, n_layers=1, n_bars=9))
    assert load(old_file(own, tmp_path / "own", prior=prior)).config.units == units


# --- devices


ELSEWHERE = "cuda:63"  # no machine of these tests has so many


def test_a_file_of_an_estimator_that_ran_elsewhere_opens_here(tmp_path):
    estimator, Z, _ = fit("gp-1d")
    expected = estimator.predict(Z)
    estimator.device = ELSEWHERE
    path = estimator.save(tmp_path / "fitted")
    with pytest.warns(UserWarning, match="device 'cuda:63', on which .* It runs on 'cpu' now"):
        again = PFNRegressor.load(path)
    assert again.device == "cpu" and np.array_equal(again.predict(Z), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chosen = PFNRegressor.load(path, device="cpu")
    assert np.array_equal(chosen.predict(Z), expected)


@pytest.mark.parametrize("named", [True, False])
def test_a_pickle_of_an_estimator_that_ran_elsewhere_opens_here(named):
    X, y, Z, _ = data("gp-1d")
    estimator = PFNRegressor("gp-1d" if named else load("gp-1d")).fit(X, y)
    expected = estimator.predict(Z)
    estimator.device = ELSEWHERE
    with pytest.warns(UserWarning, match="It runs on 'cpu' now"):
        again = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(again.predict(Z), expected)
    assert again.network == "gp-1d" if named else again.network_ is again.network


def test_state_of_an_estimator_holds_its_network_on_the_cpu():
    """Whatever it ran on, and without moving the network itself."""
    network = PFN(PFNConfig(n_features=1, max_context=9, d_model=16, n_layers=1, n_bars=9))
    away = copy.deepcopy(network).to("meta")  # stands for any other device
    estimator = PFNRegressor(away)
    with pytest.raises(NotImplementedError, match="meta tensor"):  # which cannot be brought back
        estimator.__getstate__()
    assert next(away.parameters()).device.type == "meta"


def test_unknown_units_are_refused(no_shape_checks):
    with pytest.raises(ValueError, match="units among .'raw', 'standardised'.; got 'metric'"):
        PFNConfig(n_features=1, max_context=9, units="metric")
    with pytest.raises(ValueError, match="take a PFNConfig"):
        TabularPFNConfig(target="regression", units="raw")


# --- scikit-learn


@each_model
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["copy", "pickle"]
)
def test_a_copy_gives_the_same_answers(model, copied):
    estimator, Z, _ = fit(model)
    assert np.array_equal(copied(estimator).predict(Z), estimator.predict(Z))
    assert len(pickle.dumps(estimator)) < 20_000  # the network is named, not carried


def test_an_unfitted_estimator_can_be_copied():
    assert pickle.loads(pickle.dumps(PFNRegressor("gp-1d"))).network == "gp-1d"
    assert clone(fit("gp-1d", random_state=3)[0]).get_params() == (
        PFNRegressor("gp-1d", random_state=3).get_params()
    )


def test_a_network_of_ones_own_can_be_given(tmp_path):
    size = PFNConfig(n_features=2, max_context=9, d_model=16, n_layers=1, n_bars=9)
    own = PFN(replace(size, units="standardised"))
    X, y, Z, _ = data("gp")
    with pytest.warns(UserWarning, match="at most 9 rows"):
        estimator = PFNRegressor(own, random_state=0).fit(X[:, :2], y)
    assert estimator.network_ is own and len(estimator.X_train_) == 9
    copied = pickle.loads(pickle.dumps(estimator))
    assert np.array_equal(copied.predict(Z[:, :2]), estimator.predict(Z[:, :2]))
    by_path = PFNRegressor(str(save(own, tmp_path / "own")))
    assert by_path.fit(X[:5, :2], y[:5]).predict(Z[:, :2]).shape == (70,)


def test_works_in_a_grid_and_in_a_pipeline():
    X, y, Z, _ = data("gp-1d")
    search = GridSearchCV(PFNRegressor("gp"), {"network": ["gp", "gp-1d"]}, cv=2).fit(X, y)
    assert search.best_params_["network"] in ("gp", "gp-1d") and search.best_score_ > 0.5
    pipeline = make_pipeline(StandardScaler(), PFNRegressor("gp")).fit(X, y)
    alone = PFNRegressor("gp").fit(X, y)
    np.testing.assert_allclose(pipeline.predict(Z), alone.predict(Z), rtol=1e-3, atol=1e-4)


def test_real_data():
    """Not far from ridge regression with the best penalty, on a table that is close to linear."""
    X, y = load_diabetes(return_X_y=True)
    X, y = X[150:300], y[150:300]
    ridge = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-2, 4, 20)))
    best = cross_val_score(ridge, X, y, cv=3).mean()
    assert cross_val_score(PFNRegressor("gp"), X, y, cv=3).mean() > best - 0.15


def test_feature_names_are_kept_and_checked():
    X, y, Z, _ = data("gp")
    table = pandas.DataFrame(X, columns=["a", "b", "c"])
    estimator = PFNRegressor("gp").fit(table, y)
    assert list(estimator.feature_names_in_) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(table[["b", "a", "c"]])


# --- bad input


@pytest.fixture
def filter_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


X, Y = np.linspace(0, 1, 8)[:, None], np.linspace(0, 1, 8) ** 2


def with_one(values, value):
    values = values.astype(type(value) if isinstance(value, complex) else float)
    values.flat[3] = value
    return values


BAD_FITS = {
    "NaN in X": (with_one(X, np.nan), Y, "Input X contains NaN"),
    "infinity in X": (with_one(X, np.inf), Y, "Input X contains infinity"),
    "NaN in y": (X, with_one(Y, np.nan), "Input y contains NaN"),
    "infinity in y": (X, with_one(Y, -np.inf), "Input y contains infinity"),
    "no rows": (X[:0], Y[:0], "0 sample"),
    "no features": (X[:, :0], Y, r"0 feature\(s\)"),
    "no y": (X, None, "requires y to be passed"),
    "fewer y than X": (X, Y[:5], "inconsistent numbers of samples"),
    "one list": (X[:, 0], Y, "Expected 2D array, got 1D array"),
    "three dimensions": (X[..., None], Y, "Found array with dim 3"),
    "targets of three dimensions": (X, Y[:, None, None], "Found array with dim 3"),
    "strings in X": ([["a"], ["b"]], [1, 2], "could not convert string to float"),
    "strings in y": (X[:2], ["a", "b"], "could not convert string to float"),
    "complex X": (with_one(X, 1j), Y, "Complex data not supported"),
    "complex y": (X, with_one(Y, 1j), "Complex data not supported"),
    "objects": ([[{}], [{}]], [1, 2], "not 'dict'|argument must be"),
    "numbers too large in X": (1e200 * X, Y, "at most 1e[+]150 in X; got 1e[+]200. Change its"),
    "numbers too large in y": (X, -1e300 * Y, "at most 1e[+]150 in y; got 1e[+]300. Change its"),
}


@pytest.mark.parametrize("bad", BAD_FITS.values(), ids=BAD_FITS)
def test_bad_data_are_refused(bad, no_shape_checks):
    bad_x, bad_y, message = bad
    with pytest.raises((ValueError, TypeError), match=message):
        PFNRegressor("gp").fit(bad_x, bad_y)


def test_sparse_data_are_refused(no_shape_checks):
    with pytest.raises(TypeError, match="dense data is required"):
        PFNRegressor("gp").fit(sparse.csr_matrix(X), Y)


BAD_QUERIES = {
    "NaN": ([[np.nan]], "Input X contains NaN"),
    "infinity": ([[np.inf]], "Input X contains infinity"),
    "other features": ([[1.0, 2.0]], "X has 2 features, but PFNRegressor is expecting 1"),
    "no rows": (np.zeros((0, 1)), "0 sample"),
    "strings": ([["a"]], "could not convert string to float"),
    "complex": (np.array([[1j]]), "Complex data not supported"),
}


@pytest.mark.parametrize("bad", BAD_QUERIES.values(), ids=BAD_QUERIES)
def test_bad_queries_are_refused(bad, no_shape_checks):
    query, message = bad
    with pytest.raises(ValueError, match=message):
        PFNRegressor("gp").fit(X, Y).predict(query)


BAD_CALLS = {
    "level of zero": (lambda e: e.predict_quantiles(X, [0.0, 0.5]), "strictly between 0 and 1"),
    "level above one": (lambda e: e.predict_quantiles(X, 1.1), "strictly between 0 and 1"),
    "level that is no number": (lambda e: e.predict_quantiles(X, np.nan), "strictly between"),
    "table of levels": (lambda e: e.predict_quantiles(X, [[0.1, 0.9]]), "list of levels"),
    "no draws": (lambda e: e.sample_y(X, 0), "n_samples to be an integer >= 1; got 0"),
    "half a draw": (lambda e: e.sample_y(X, 1.5), "n_samples to be an integer >= 1; got 1.5"),
}


@pytest.mark.parametrize("bad", BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_are_refused(bad, no_shape_checks):
    call, message = bad
    with pytest.raises(ValueError, match=message):
        call(PFNRegressor("gp").fit(X, Y))


@pytest.mark.parametrize("model", ["no-such-network", "", __file__, 3, None])
def test_what_is_no_model_is_refused(model, no_shape_checks):
    with pytest.raises(ValueError, match="Expected a folder of a saved network or one of"):
        PFNRegressor(model).fit(X, Y)


WARNED = {
    "one row": (X[:1], Y[:1], "does not vary"),
    "constant y": (X, np.full(8, 7.0), "does not vary"),
    "constant y, very large": (X, np.full(8, 1e100), "does not vary"),
    "more rows than trained for": (
        np.linspace(0, 1, 300)[:, None],
        np.linspace(0, 1, 300),
        "at most 200 rows, which network='gp' was trained for; got 300",
    ),
    "more features than trained for": (
        np.ones((8, 11)) * X,
        Y,
        "at most 10 features, which network='gp' was trained for; got 11. The strongest 10",
    ),
    "a column of y": (X, Y[:, None], "A column-vector y was passed"),
}


@pytest.mark.parametrize("odd", WARNED.values(), ids=WARNED)
def test_odd_data_are_answered_with_a_warning(odd):
    odd_x, odd_y, message = odd
    with pytest.warns(UserWarning, match=message):
        estimator = PFNRegressor("gp", random_state=0).fit(odd_x, odd_y)
    mean, std = estimator.predict(odd_x, return_std=True)
    assert np.isfinite(mean).all() and (std > 0).all()
    if np.ptp(odd_y) == 0:
        np.testing.assert_allclose(mean, odd_y.ravel(), atol=1.0, rtol=1e-6)


def test_which_rows_are_kept_is_up_to_the_random_state(filter_warnings):
    long = np.linspace(0, 1, 300)[:, None]
    kept = [
        PFNRegressor("gp", random_state=seed).fit(long, long[:, 0]).X_train_[:, 0]
        for seed in (0, 0, 1)
    ]
    assert len(kept[0]) == 200 and np.array_equal(kept[0], kept[1])
    assert not np.array_equal(kept[0], kept[2])


UNUSUAL = {
    "integers": (np.arange(8)[:, None], np.arange(8)),
    "booleans": (np.arange(8)[:, None] % 2 == 0, np.arange(8) % 2 == 0),
    "float32": (X.astype(np.float32), Y.astype(np.float32)),
    "lists": (X.tolist(), Y.tolist()),
    "a constant feature": (np.concatenate([X, np.ones((8, 1))], 1), Y),
    "equal rows": (np.ones((8, 1)), Y),
    "columns in memory": (np.asfortranarray(np.random.randn(8, 3)), Y),
    "tiny numbers": (1e-290 * X, 1e-290 * Y),
    "a mean far from zero": (1e12 + X, 1e15 + Y),
}


@pytest.mark.parametrize("unusual", UNUSUAL.values(), ids=UNUSUAL)
def test_unusual_data_are_answered(unusual):
    X, y = unusual
    mean, std = PFNRegressor("gp").fit(X, y).predict(X, return_std=True)
    assert np.isfinite(mean).all() and np.isfinite(std).all() and (std >= 0).all()
