"""Every diagnostic passes an exact posterior and fails a narrow, a shifted and a halved one.

The posteriors are normals and pairs of normals in closed form, so that a trial costs nothing.
`benchmarks/diagnostics.py` measures false alarms and power over 200 repetitions.
"""

import dataclasses

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, Normal

from amortized.diagnostics import (
    PosteriorTrial,
    PredictiveTrial,
    c2st,
    coverage,
    importance_efficiency,
    local_c2st,
    log_score,
    order_sensitivity,
    pit,
    sbc,
    tarp,
)
from amortized.diagnostics.calibration import neighbour_density, ranks
from amortized.diagnostics.importance_efficiency import ImportanceEfficiency
from amortized.diagnostics.order_sensitivity import OrderSensitivity
from amortized.diagnostics.uniformity import Uniformity, simultaneous_band
from amortized.latent_priors.problems import named_tasks
from amortized.priors.regression.linear_regression import LinearRegressionPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior

ALARM = 0.05
FAULTS = ("narrow", "shifted", "one mode")


def trials(fault="exact", modes=False, n=1000, n_draws=100, seed=0, draws_seed=0, density=True):
    """theta = z, or z plus or minus 2, for z ~ N(0, 1) and y ~ N(z, 1): a trial of each kind."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=n)
    y = z + rng.normal(size=n)
    theta = torch.as_tensor(z + 2 * modes * rng.choice([-1, 1], size=n))

    def answer(fault):
        scale = np.sqrt(0.5)
        mean = torch.as_tensor(y / 2 + 0.5 * scale * (fault == "shifted"))
        scale = 0.8 * scale if fault == "narrow" else scale
        if not modes:
            return Normal(mean, scale)
        weights = torch.tensor([0.0, 1.0] if fault == "one mode" else [0.5, 0.5])
        pair = Normal(torch.stack([mean - 2, mean + 2], -1), scale)
        return MixtureSameFamily(Categorical(weights.double().expand(n, 2)), pair)

    torch.manual_seed(10**6 * draws_seed + seed)
    law = answer(fault)
    draws = law.sample((n_draws,))
    posterior = PosteriorTrial(
        {"theta": theta},
        {"theta": draws},
        log_prob_truth=law.log_prob(theta) if density else None,
        log_prob_draws=law.log_prob(draws) if density else None,
        log_density_draws=answer("exact").log_prob(draws),
        x=torch.zeros(n, 1, 0, dtype=torch.float64),
        y=torch.as_tensor(y)[:, None],
    )
    scores, cdf = law.log_prob(theta)[:, None], law.cdf(theta)[:, None]
    return posterior, PredictiveTrial(theta[:, None], scores, cdf)


def with_nan(trial, part):
    """The trial with two NaN in one of its parts."""

    def broken(value):
        value = value.clone()
        value.flatten()[[3, 5]] = torch.nan
        return value

    value = getattr(trial, part)
    changed = broken(value) if torch.is_tensor(value) else {k: broken(v) for k, v in value.items()}
    return dataclasses.replace(trial, **{part: changed})


OF_NAN = {
    "SBC": ("draws", sbc),
    "SBC of the truth": ("truth", sbc),
    "SBC of densities": ("log_prob_draws", sbc),
    "SBC of the truth's density": ("log_prob_truth", sbc),
    "TARP": ("draws", tarp),
    "coverage": ("draws", coverage),
    "highest coverage": ("draws", lambda t: coverage(t, "highest")),
    "highest coverage by density": ("log_prob_truth", lambda t: coverage(t, "highest")),
    "C2ST": ("draws", lambda t: c2st(t, trials(n=60)[0], progress=False)),
    "local C2ST": ("draws", lambda t: local_c2st(t, n_inspected=0, progress=False)),
    "log score": ("log_prob_truth", log_score),
    "weights": ("log_density_draws", importance_efficiency),
    "PIT": ("cdf", pit),
    "log score of predictives": ("log_prob", log_score),
}


@pytest.mark.parametrize("name", OF_NAN)
def test_nan_is_said_and_never_ranked(name):
    part, diagnostic = OF_NAN[name]
    trial = trials(n=60)[1 if part in ("cdf", "log_prob") else 0]
    broken = with_nan(trial, part)
    with pytest.raises(ValueError, match=r"without NaN; got [12] NaN of"):
        diagnostic(broken)


def of_posterior(test):
    return lambda **case: test(trials(**case)[0])


def of_two_posteriors(n, **case):
    ours, exact = (
        trials(**(case | change), n=1, n_draws=n)[0]
        for change in ({}, {"fault": "exact", "draws_seed": 1})
    )
    return c2st(ours, exact, seed=case.get("seed", 0), progress=False)


# Each of a case: fault, modes, n datasets (draws for c2st) and seed.
DIAGNOSTICS = {
    "sbc": of_posterior(sbc),
    "central coverage": of_posterior(coverage),
    "highest-density coverage": of_posterior(lambda trial: coverage(trial, "highest")),
    "tarp": of_posterior(tarp),
    "local c2st": of_posterior(lambda trial: local_c2st(trial, n_inspected=0, progress=False)),
    "importance efficiency": of_posterior(importance_efficiency),
    "pit": lambda **case: pit(trials(**case)[1]),
    "c2st": of_two_posteriors,
    "log score": lambda **case: log_score(
        trials(**case)[1], trials(**(case | {"fault": "exact"}))[1]
    ),
}
BLIND = {("importance efficiency", "shifted")}  # weights mend a shift: that is their purpose


@pytest.mark.parametrize("modes", [False, True], ids=["one mode", "two modes"])
@pytest.mark.parametrize("name", DIAGNOSTICS)
def test_false_alarms_on_exact_posteriors(name, modes):
    alarms = sum(DIAGNOSTICS[name](modes=modes, n=64, seed=s).p_value < ALARM for s in range(40))
    assert alarms <= 7  # of 40 at level 0.05: more have probability 0.0007


SEEN = [(name, fault) for fault in FAULTS for name in DIAGNOSTICS if (name, fault) not in BLIND]


@pytest.mark.parametrize("name, fault", SEEN)
def test_alarm_on_wrong_posterior(name, fault):
    p = DIAGNOSTICS[name](fault=fault, modes=fault == "one mode", n=1000).p_value
    assert p < ALARM


def test_highest_density_coverage_without_a_density():
    exact, narrow = (trials(fault, n=200, density=False)[0] for fault in ("exact", "narrow"))
    assert coverage(exact, "highest").p_value > ALARM
    assert coverage(narrow, "highest").p_value < ALARM


def test_ranks_break_ties_evenly():
    u = ranks(np.zeros(2000), np.zeros((9, 2000)))
    assert Uniformity({"u": u}, "ties", "u").p_value > 0.001
    assert 0 < u.min() < 0.01 and 0.99 < u.max() < 1


def test_band_holds_as_often_as_it_says():
    rng, level = np.random.default_rng(0), 0.1
    points, lower, upper = simultaneous_band(300, level)
    inside = 0
    for _ in range(400):
        height = np.searchsorted(np.sort(rng.random(300)), points, side="right") / 300
        inside += bool(((height >= lower - 1e-12) & (height <= upper + 1e-12)).all())
    assert 0.86 < inside / 400 < 0.94


def test_band_is_about_that_of_arviz():
    from arviz.stats.ecdf_utils import ecdf_confidence_band
    from scipy.stats import uniform

    points, lower, upper = simultaneous_band(200, 0.05)
    theirs = ecdf_confidence_band(
        200, points[1:-1], uniform(0, 1).cdf(points[1:-1]), prob=0.95, method="simulated"
    )
    assert np.abs(lower[1:-1] - theirs[0]).max() < 0.02
    assert np.abs(upper[1:-1] - theirs[1]).max() < 0.02


def test_p_values_are_uniform_and_resolve_far_faults():
    rng = np.random.default_rng(1)
    p = [Uniformity({"u": rng.random(200)}, "t", "u").p_value for _ in range(300)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.09
    assert Uniformity({"u": rng.random(1000) / 2}, "t", "u").p_value < 1e-20


def test_neighbour_density_orders_points_as_the_normal_density_does():
    draws = np.random.default_rng(0).normal(size=(400, 1, 2))
    truth = np.array([[3.0, 3.0]])
    at_truth, at_draws = neighbour_density(truth, draws)
    order = np.corrcoef(at_draws[:, 0], -(draws[:, 0] ** 2).sum(-1))[0, 1]
    assert order > 0.8 and (at_draws < at_truth).mean() < 0.02


@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_local_test_has_a_p_value_for_each_dataset(shift):
    trial, _ = trials(n=1000)
    draws = trial.draws["theta"] + shift * (trial.y[:, 0] > 0)
    moved = PosteriorTrial(trial.truth, {"theta": draws}, x=trial.x, y=trial.y)
    found = local_c2st(moved, n_inspected=60, n_null=19, progress=False)
    alarms = found.p_values <= ALARM
    if shift:
        assert alarms[(trial.y[found.inspected, 0] > 0.5).numpy()].mean() > 0.8
    else:
        assert alarms.mean() < 0.2


def test_efficiency_is_the_known_one_of_a_narrow_normal():
    trial, _ = trials("narrow", n=200, n_draws=2000)
    result = importance_efficiency(trial)
    # With r the ratio of the scales it is sqrt(2 r^2 - 1) / r^2; smoothing adds a little.
    assert result.mean == pytest.approx(np.sqrt(2 * 0.64 - 1) / 0.64, abs=0.04)
    assert importance_efficiency(trials(n=20)[0]).k_hat.max() == -np.inf
    beyond = ImportanceEfficiency(np.full(20, 0.1), np.full(20, 0.9), "bad")
    assert beyond.share_trusted == 0 and beyond.p_value < 1e-6
    trial, _ = trials(n=200)
    wavy = 0.05 * torch.randn_like(trial.log_prob_draws)
    nearly = dataclasses.replace(trial, log_prob_draws=trial.log_prob_draws + wavy)
    assert importance_efficiency(nearly).share_trusted == 1


def test_efficiency_of_a_program_needs_no_normalised_density():
    prior = NormalMeanPrior()
    trial = PosteriorTrial.run(prior, "exact", n_datasets=8, n_context=3, progress=False)
    assert importance_efficiency(trial, prior).mean == pytest.approx(1.0)
    weighted = PosteriorTrial.run(
        prior, "importance", n_datasets=8, n_context=3, n_draws=200, progress=False
    )
    assert 0.3 < importance_efficiency(weighted).mean <= 1


PRIOR = LinearRegressionPrior(1)


def prior_as_posterior(tasks, n):
    batch = tasks.sample(n, 1, seed=0)
    draws = batch.latent_prior.sample((50,))
    return PosteriorTrial({"u": batch.u}, {"u": draws})


def test_prior_is_calibrated_over_itself():
    trial = prior_as_posterior(named_tasks("dt-mean"), 500)
    assert sbc(trial).p_value > 0.01 and tarp(trial).p_value > 0.01


RESULTS = {
    "uniformity": lambda: sbc(trials(n=50)[0]),
    "coverage": lambda: coverage(trials(n=50)[0]),
    "c2st": lambda: of_two_posteriors(n=100),
    "local c2st": lambda: local_c2st(trials(n=50)[0], n_inspected=5, n_null=3, progress=False),
    "log score": lambda: log_score(trials(n=50)[1]),
    "importance": lambda: importance_efficiency(trials(n=50)[0]),
    "order": lambda: OrderSensitivity(np.full(5, 0.1), np.full(5, 0.2), "t"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_plot_has_labels_and_repr_has_the_verdict(name):
    result = RESULTS[name]()
    ax = result.plot()
    assert ax.get_xlabel() and ax.get_ylabel() and ax.get_title()
    assert type(result).__name__ in repr(result)


def test_coverage_table():
    table = coverage(trials(n=1000)[0]).table()["theta"]
    assert list(table) == [0.5, 0.8, 0.9, 0.95]
    assert all(abs(share - level) < 0.05 for level, share in table.items())


THETA = torch.zeros(3, dtype=torch.float64)
WRONG = {
    "no draws": (lambda: PosteriorTrial({"a": THETA}, {}), "at least one latent"),
    "other latents": (
        lambda: PosteriorTrial({"a": THETA}, {"b": torch.zeros(2, 3)}),
        "latents ['a']",
    ),
    "other datasets": (
        lambda: PosteriorTrial({"a": THETA}, {"a": torch.zeros(2, 4)}),
        "shape (n_draws, 3)",
    ),
    "nan": (
        lambda: Uniformity({"u": np.array([np.nan])}, "t", "u"),
        "without NaN; got 1 NaN of 1",
    ),
    "region": (lambda: coverage(trials(n=5)[0], "lowest"), "'central' or 'highest'"),
    "few for a classifier": (
        lambda: c2st(*(trials(n=2, n_draws=10)[0],) * 2, progress=False),
        "at least 20 draws",
    ),
    "few datasets": (lambda: local_c2st(trials(n=10)[0]), "at least 40 datasets"),
    "no density": (
        lambda: importance_efficiency(trials(n=5, density=False)[0]),
        "density of its own draws",
    ),
    "no such count": (
        lambda: PosteriorTrial.run(NormalMeanPrior(), "exact", n_draws=0),
        "n_draws to be an integer >= 1",
    ),
    "one row": (
        lambda: order_sensitivity(NormalMeanPrior(), "exact", n_context=1),
        "n_context to be an integer >= 2",
    ),
    "other oracle": (
        lambda: log_score(trials(n=5)[1], trials(n=5, seed=1)[1]),
        "oracle on the same datasets",
    ),
    "no distribution": (
        lambda: PredictiveTrial.run(PRIOR, lambda batch: batch.y_query, progress=False),
        "torch distribution",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_say_what_was_expected(name, no_shape_checks):
    call, message = WRONG[name]
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert message in str(error.value)
