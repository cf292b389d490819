"""Input that would be broadcast, cut or ignored is refused; other input is answered exactly."""

from datetime import date

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.linear_model import LinearRegression
from torch.distributions import HalfNormal, Independent, Normal

from amortized import infer
from amortized.debiased import debiased_regression
from amortized.estimators import EarlyStopping, PFNDensity
from amortized.forecasting import MarkovChain, StructuralSeries
from amortized.forecasting.times.series_table import series_table
from amortized.generators import ParticleGibbs, TokenGenerator
from amortized.mcmc import AnnealedSampler, Independence, RandomWalk, Target, mix, temper
from amortized.priors.state_space.trends import LocalLevel
from amortized.uncertainty import (
    ConformalRegressor,
    joint_log_prob,
    joint_sample,
    martingale_posterior,
    split_by_twins,
)

pytestmark = pytest.mark.usefixtures("no_shape_checks")
DRIFT, START, NOISE = 0.3, 1.0, 0.5
SERIES = StructuralSeries(level=LocalLevel(DRIFT, START), noise=NOISE)
T, Y, NEW = (
    torch.tensor([[0.0], [1.0], [3.0]]),
    torch.tensor([1.0, 2.0, 0.0]),
    torch.tensor([[2.0], [4.0]]),
)


def level_cov(t):
    t = np.ravel(t).astype(float)  # as the filter does, in double precision
    return START**2 + DRIFT**2 * np.minimum.outer(t, t)


@pytest.mark.parametrize(
    "kind", [torch.Tensor.double, torch.Tensor.int, np.asarray, torch.Tensor.tolist]
)
def test_a_structural_series_reads_any_numbers_and_is_exact(kind):
    x, y, new = kind(T), kind(Y), kind(NEW)
    exact = multivariate_normal(np.zeros(3), level_cov(T) + NOISE**2 * np.eye(3)).logpdf(Y)
    assert abs(SERIES.log_evidence(x, y).item() - exact) < 1e-9
    cov = level_cov(np.vstack((T, NEW)))
    mean = cov[3:, :3] @ np.linalg.solve(cov[:3, :3] + NOISE**2 * np.eye(3), Y.numpy())
    found = SERIES.predictive(infer(SERIES, T, Y), x, y, new)
    np.testing.assert_allclose(found.mean, mean, atol=1e-6)


WITH_LATENT = StructuralSeries(level=LocalLevel(HalfNormal(0.3), 1.0), noise=0.5)
WRONG_SERIES = {
    "a row of times": (lambda: SERIES.log_evidence(T.T, Y), r"x of shape \(n, 1\)"),
    "times without a column": (lambda: SERIES.log_evidence(T[:, 0], Y), r"t\[:, None\]"),
    "a covariate": (lambda: infer(SERIES, T.expand(3, 2), Y), r"x of shape \(n, 1\)"),
    "too few times": (lambda: SERIES.log_evidence(T[:2], Y), r"each of 2 times.*got \(3,\)"),
    "too few values": (lambda: SERIES.log_evidence(T, Y[:2]), r"each of 3 times.*got \(2,\)"),
    "values beyond": (lambda: SERIES.predictive(infer(SERIES, T, Y), T[:2], Y, NEW), "each of 2"),
    "new times in a row": (lambda: SERIES.predictive(infer(SERIES, T, Y), T, Y, NEW.T), "x_new of"),
    "a latent it has not": (
        lambda: WITH_LATENT.log_evidence(T, Y, {"level_drift": 0.3, "nois": 9.0}),
        r"\['level_drift'\] only; got \['nois'\]",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG_SERIES.values(), ids=WRONG_SERIES)
def test_series_of_other_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_index_of_dates_is_read_and_another_order_refused():
    days = [date(2020, 1, d) for d in (3, 1, 2, 5)]
    values = [3.0, 1.0, 2.0, 5.0]
    for labels in (days, [str(d) for d in days]):
        index = pd.Index(labels, dtype=object)
        found = series_table(pd.Series(values, index=index)).values[0]
        np.testing.assert_array_equal(found, [1, 2, 3, np.nan, 5])
    pairs = pd.MultiIndex.from_product([["a", "b"], days[:2]])
    for index, message in (
        ([2003, 2001, 2002, 2005], "steps between -2 and 3"),
        ([1, 2, 5, 9], "numbers in equal steps"),
        (list("abcd"), "numbers or dates"),
        (pairs, "unstack"),
    ):
        with pytest.raises(ValueError, match=message):
            series_table(pd.Series(values, index=index))


def test_symbols_of_pandas_are_read_and_mixed_ones_refused():
    by_list = MarkovChain().fit(list("abaab")).predict_proba()
    for dtype in (object, "string", "category"):
        series = pd.Series(list("abaab"), dtype=dtype)
        np.testing.assert_array_equal(MarkovChain().fit(series).predict_proba(), by_list)
    with pytest.raises(ValueError, match="all strings or all numbers"):
        MarkovChain().fit(["a", 1, "1", "a"])
    assert MarkovChain(0).fit(["ab", "a"]).classes_.tolist() == ["a", "b"]


def of(log_density, dim=2, drawn=None):
    sample = None if drawn is None else lambda n, generator: torch.zeros(n, drawn)
    return Target(log_density, dim, sample=sample)


def right(u):
    return -0.5 * u.square().sum(-1)


WRONG_KERNELS = {
    "not summed": lambda: RandomWalk(of(lambda u: -u.square())).step(
        torch.zeros(2, 2), torch.Generator()
    ),
    "summed over points": lambda: of(lambda u: -u.square().sum()).log_density(torch.zeros(3, 2)),
    "another dimension": lambda: AnnealedSampler(RandomWalk(of(right, 1)), of(right, 2, 2), [1.0]),
    "draws of another shape": lambda: AnnealedSampler(
        RandomWalk(of(right, 2)), of(right, 2, 4), [1.0]
    ).sample(2, torch.Generator()),
    "a batch of proposals": lambda: Independence(
        of(right), Independent(Normal(torch.zeros(3, 2), 1.0), 1)
    ),
    "infinite weights": lambda: mix(RandomWalk(of(right)), weights=[float("inf")]),
}


@pytest.mark.parametrize("call", WRONG_KERNELS.values(), ids=WRONG_KERNELS)
def test_points_that_would_be_mixed_are_refused(call):
    with pytest.raises(ValueError, match="^Expected"):
        call()


def test_particle_gibbs_has_no_other_target():
    tokens = TokenGenerator(lambda tokens: torch.zeros(len(tokens), 2), 3)
    kernel = ParticleGibbs(tokens, lambda state, t: torch.zeros(len(state)), target=of(right, 3))
    with pytest.raises(TypeError, match="keeps that of its generator"):
        temper(kernel, 0.5)


X, V = torch.zeros(2, 3, 1), torch.zeros(2, 3)


@pytest.mark.parametrize("shape", [(), (1, 1), (2,), (2, 3, 1)])
def test_a_predictive_that_is_shared_by_queries_is_refused(shape):
    def shared(x, y, z):
        return Normal(torch.zeros(shape), 1.0)

    for call in (
        lambda: joint_log_prob(shared, X, V, X, V),
        lambda: joint_sample(shared, X, V, X, 4),
        lambda: split_by_twins(shared, X, V, X),
        lambda: martingale_posterior(shared, X[0], V[0], lambda x, y: y.mean(1), n_future=3),
    ):
        with pytest.raises(ValueError, match="one distribution for each query"):
            call()


def test_masked_targets_do_not_calibrate():
    x = np.arange(20.0)[:, None]
    with pytest.raises(ValueError, match="NaN"):
        ConformalRegressor(LinearRegression()).fit(x, np.ma.array(x[:, 0], mask=x[:, 0] > 15))


@pytest.mark.parametrize("name", ["gold", "sampled", "probability"])
def test_debiased_regression_refuses_columns(name):
    y = np.arange(20.0)
    data = {"surrogate": y, "gold": y, "sampled": y > 3, "probability": np.full(20, 0.5)}
    data[name] = data[name][:, None]
    with pytest.raises(ValueError, match=r"^Expected .*\(20, 1\)"):
        debiased_regression(None, **data, kind="mean", nuisance=LinearRegression())


def test_a_step_is_a_number():
    with pytest.raises(ValueError, match="Expected step"):
        EarlyStopping().update(0.5, step=float("nan"))


def test_a_new_category_is_unusual_and_not_missing():
    X = pd.DataFrame({"c": ["a", "b"] * 10})
    density = PFNDensity(n_orders=1).fit(X)
    a, new, missing = density.score_samples(pd.DataFrame({"c": ["a", "zebra", None]}))
    assert new < a < missing == 0.0  # in log probabilities
    np.testing.assert_allclose(np.exp(new), 1 / 23)  # Laplace's share
