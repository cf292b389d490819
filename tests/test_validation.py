"""Counts, seeds and shares: every value of another kind is refused, by name, at the border."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import EarlyStopping, compare, fit_parameters, infer, load
from amortized.crowds import TruthInference
from amortized.diagnostics import PosteriorTrial, PredictiveTrial, log_score, sbc
from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.estimators import PFNDensity
from amortized.forecasting import Autoregression, MarkovChain, StructuralForecaster
from amortized.mcmc import Hamiltonian, RandomWalk, Slice, Target, run_chains
from amortized.priors import ProgramPrior
from amortized.priors.state_space.periodic import Seasonal
from amortized.priors.state_space.state_space_model import LinearGaussianModel
from amortized.sampling.filters.particle_filter import particle_filter
from amortized.uncertainty import joint_log_prob, joint_sample, martingale_posterior
from amortized.validation import generator_from, number_between, seed_number, whole_number

ODD = [None, "a", "1", [], (1, 2), math.nan, math.inf, -math.inf, 1.5, -7, 10**30, 1j]


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.float32(3.0), torch.tensor(3)])
def test_a_whole_number_of_any_type_counts(value):
    found = whole_number("n", value, 1)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_what_is_no_count_is_refused(value):
    with pytest.raises(ValueError, match="^Expected n to be an integer >= 1.*; got "):
        whole_number("n", value, 1)


@pytest.mark.parametrize("value", [None, "a", [], math.nan, math.inf, 1.5, 10**30, 1j], ids=repr)
def test_what_is_no_seed_is_refused(value):
    for use in (seed_number, generator_from):
        with pytest.raises(ValueError, match="^Expected a seed, an integer"):
            use(value)


@pytest.mark.parametrize("value", [None, "0.5", [], math.nan, math.inf, 10**400, 1.0, 0, 1j])
def test_what_is_no_share_is_refused(value):
    with pytest.raises(ValueError, match=r"^Expected share in \(0, 1\); got"):
        number_between("share", value, 0, 1)


def normal(x, y=None):
    mean = pyro.sample("m", dist.Normal(0.0, 1.0))
    return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)


def with_parameter(x, y=None):
    mean = pyro.param("mean", torch.tensor(0.0))
    z = pyro.sample("z", dist.Normal(mean, 1.0))
    return pyro.sample("y", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=y)


Y, X = [0.5, 1.0], np.zeros((2, 0))
SERIES = np.sin(np.arange(30.0))
FORECASTER = StructuralForecaster().fit(SERIES)
GP, ROW = load("gp-1d"), torch.zeros(1, 1, 1)
ONE = torch.ones(1, 1)
WALK = LinearGaussianModel(ONE, ONE, ONE, ONE, torch.zeros(1), ONE)
MIXTURE = GaussianMixture(torch.zeros(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
TARGET = Target(lambda u: -0.5 * u.square().sum(-1), 1)
KERNEL = RandomWalk(TARGET)
TRIAL = PosteriorTrial({"m": torch.zeros(4)}, {"m": torch.zeros(3, 4)})
CALLS = {
    "draws": (lambda v: infer(normal, Y, n_draws=v), "n_draws"),
    "an option": (lambda v: infer(normal, Y, method="vi", n_steps=v), "n_steps"),
    "warmup": (lambda v: infer(normal, Y, method="nuts", n_warmup=v), "n_warmup"),
    "parameters": (lambda v: fit_parameters(with_parameter, X, Y, n_steps=v), "n_steps"),
    "trial": (
        lambda v: PosteriorTrial.run(ProgramPrior(normal), "exact", n_datasets=v, progress=False),
        "n_datasets",
    ),
    "steps ahead": (lambda v: FORECASTER.predict(v), "h, the steps ahead,"),
    "lags": (lambda v: Autoregression(v).fit(SERIES), "order"),
    "posterior draws": (lambda v: infer(normal, Y).sample(v), "n"),
    "harmonics": (lambda v: Seasonal(4.0, v, 1.0), "n_harmonics of Seasonal"),
    "divergence": (lambda v: MIXTURE.kl(MIXTURE, v), "n_draws"),
    "tasks": (lambda v: ProgramPrior(normal).sample(v, 1, 1, seed=0), "n_tasks"),
    "chains": (lambda v: run_chains(KERNEL, torch.zeros(2, 1), v), "n_draws"),
    "crowd": (lambda v: TruthInference(n_draws=v).fit([0, 1], [0, 0], [0, 1]), "n_draws"),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_count_is_checked_at_the_border(name, no_shape_checks):
    call, argument = CALLS[name]
    for value in ODD:
        with pytest.raises(ValueError, match=f"^Expected {argument} to be an integer"):
            call(value)


WHOLE = {  # a count that is a float, or a bool, counts as an integer
    "joint draws": lambda one: joint_sample(GP, ROW, ROW[0], ROW, one),
    "futures": lambda one: martingale_posterior(
        GP, ROW[0], ROW[0, 0], lambda x, y: y.mean(1), n_draws=one, n_future=one
    ),
    "particles": lambda one: particle_filter(WALK, torch.zeros(1, 2, 1), one),
    "density": lambda one: PFNDensity(n_orders=one).fit(np.arange(8.0)[:, None]),
    "orders": lambda one: Autoregression(one, n_jumps=20).fit(SERIES).sample_paths(one, one),
    "chains": lambda one: run_chains(KERNEL, torch.zeros(2, 1), one, n_warmup=one),
    "prior": lambda one: ProgramPrior(normal, inputs=one).sample(one, one, one, seed=one),
    "crowd": lambda one: TruthInference(n_draws=one, n_warmup=one, n_chains=one).fit(
        [0, 1], [0, 0], [0, 1]
    ),
    "posterior": lambda one: infer(normal, Y, method="vi", n_steps=one, n_draws=one).sample(one),
}


# One step of VI is far from its end, and says so.
@pytest.mark.filterwarnings("ignore:These draws are in doubt")
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("one", [1.0, True, np.int64(1), torch.tensor(1)], ids=repr)
def test_whole_numbers_of_any_type_count_in_every_call(name, one, no_shape_checks):
    WHOLE[name](one)


REFUSED = {
    "no levels": (lambda: FORECASTER.predict_quantiles(3, []), "list of levels"),
    "one scale too many": (lambda: RandomWalk(TARGET, [1.0, 1.0]), "positive scale"),
    "no width": (lambda: Slice(TARGET, []), "positive width"),
    "a period in words": (lambda: Seasonal("1", 1, 1.0), "period of Seasonal"),
    "no period": (lambda: StructuralForecaster(period=0).fit(SERIES), "period as one to three"),
    "a word as period": (lambda: StructuralForecaster(period="a").fit(SERIES), "period as one to"),
    "a huge series": (lambda: Autoregression(1).fit([1e200, *SERIES]), "units"),
    "no method": (lambda: infer(normal, Y, method=["smc"]), "a method among"),
    "a threshold": (lambda: EarlyStopping(threshold="0.5"), "threshold in"),
    "a level": (lambda: compare({"a": normal, "b": normal}, X, Y).log_bayes_factor("a", "b", "1"),
                "level in"),
    "a seed": (lambda: infer(normal, Y).sample(2, seed=10**30), "a seed"),
    "a seed of ranks": (lambda: sbc(TRIAL, seed=1.5), "a seed"),
    "an infinite score": (
        lambda: log_score(PredictiveTrial(torch.zeros(1, 1), torch.full((1, 1), math.inf), None)),
        "below infinity",
    ),
    "no draws": (lambda: PosteriorTrial({"m": torch.zeros(0)}, {"m": torch.zeros(3, 0)}),
                 "at least one dataset"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_arguments_are_checked_at_the_border(name, no_shape_checks):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=f"^Expected .*{message}"):
        call()


WRONG_SYMBOLS = {
    "lists": [[["a"], ["b"]], [["a"], ["b"]]],
    "missing": [1.0, math.nan, 2.0],
    "several kinds": ["a", None, "b"],
}


@pytest.mark.parametrize("sequence", WRONG_SYMBOLS.values(), ids=WRONG_SYMBOLS)
def test_symbols_that_cannot_be_told_apart_are_refused(sequence):
    with pytest.raises(ValueError, match="^Expected .*symbols"):
        MarkovChain().fit(sequence)


def test_symbols_may_be_a_string_and_sequences_tensors():
    chain = MarkovChain(symbols="abc").fit("abab")
    assert chain.classes_.tolist() == ["a", "b", "c"]
    chain = MarkovChain().fit([torch.tensor([0, 1, 0]), torch.tensor([1, 0, 1])])
    assert chain.classes_.tolist() == [0, 1]


def test_numbers_whose_squares_overflow_are_refused():
    with pytest.raises(ValueError, match=r"at most 1e\+150 in y; got 1e\+200. Change its units"):
        infer(normal, [1.0, 1e200])
    with pytest.raises(ValueError, match=r"at most 1e\+18 in y_query; got 1\.0*15.*e\+30. Change"):
        joint_log_prob(GP, ROW, ROW[0], ROW, torch.full((1, 1), 1e30))


@pytest.mark.parametrize("start", [math.nan, math.inf])
def test_chains_start_at_numbers(start):
    with pytest.raises(ValueError, match="Expected start to be finite"):
        run_chains(KERNEL, torch.full((2, 1), start), 3)


def test_hamiltonian_moves_keep_the_dtype():
    target = Target(lambda u: -0.5 * u.square().sum(-1), 1)
    draws = run_chains(Hamiltonian(target, 0.5), torch.zeros(2, 1), 3)
    assert draws.dtype is torch.float32 and bool(draws.isfinite().all())


def test_no_queries_have_no_quantiles():
    def line(x, y=None):
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        return pyro.sample("y", dist.StudentT(3.0, slope * x[:, 0], 1.0).to_event(1), obs=y)

    posterior = infer(line, np.ones((2, 1)), Y, method="importance", n_draws=50)
    none = posterior.predictive(np.zeros((0, 1))).icdf(torch.tensor(0.3, dtype=torch.float64))
    assert none.shape == (0,)
