"""LearningCurveRegressor: laws of one pass over many curves, units, and stopping by it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad

from amortized import LearningCurveRegressor
from amortized.estimators.curves.curve_sets import StepScale, curves_of
from amortized.estimators.curves.metric_scale import MetricScale, usual_size
from amortized.networks import PFN, PFNConfig
from amortized.pretrained import load, save
from amortized.priors import named_prior


def untrained():
    """A network whose answers depend on the curve, although it has learnt nothing."""
    torch.manual_seed(0)
    config = PFNConfig(n_features=1, max_context=20, d_model=16, n_layers=2, n_bars=50)
    network = PFN(config, torch.linspace(-0.2, 1.2, 51))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.eval()


NETWORK = untrained()
CURVES = [[0.2, 0.4, 0.5, 0.55], [0.1, np.nan, 0.3], [0.7], list(np.linspace(0.3, 0.6, 15))]
LATER = [20.0, 60.0, 100.0]


def estimator(**options):
    return LearningCurveRegressor(NETWORK, **options)


@pytest.mark.parametrize("number", range(len(CURVES)))
def test_a_curve_among_others_is_answered_as_alone(number):
    together = estimator().fit(None, CURVES).predict_quantiles(LATER)[number]
    alone = estimator().fit(None, CURVES[number]).predict_quantiles(LATER)
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_chunks_of_curves_change_nothing(monkeypatch):
    fitted = estimator().fit(None, CURVES)
    whole = fitted.predict(LATER), fitted.probability_of_exceeding([0.1, 0.2, 0.3, 0.4], LATER)
    monkeypatch.setattr("amortized.estimators.curves.learning_curve_regressor.CURVE_CHUNK", 2)
    np.testing.assert_allclose(fitted.predict(LATER), whole[0], atol=1e-6)
    parts = fitted.probability_of_exceeding([0.1, 0.2, 0.3, 0.4], LATER)
    np.testing.assert_allclose(parts, whole[1], atol=1e-6)


def test_a_missing_epoch_is_one_that_was_not_given():
    missing = estimator().fit(None, [0.1, np.nan, 0.3, np.nan]).predict(LATER)
    left_out = estimator().fit([1, 3], [0.1, 0.3]).predict(LATER)
    np.testing.assert_array_equal(missing, left_out)


def test_order_of_the_values_does_not_matter():
    ordered = estimator().fit([1, 2, 5], [0.1, 0.3, 0.4]).predict(LATER)
    shuffled = estimator().fit([5, 1, 2], [0.4, 0.1, 0.3]).predict(LATER)
    np.testing.assert_array_equal(ordered, shuffled)


def test_predictive_quantiles_and_chance_agree():
    fitted = estimator().fit(None, CURVES)
    predictive = fitted.predict_distribution(LATER)
    assert predictive.batch_shape == (4, 3)
    median = fitted.predict_quantiles(LATER, [0.5])[..., 0]
    np.testing.assert_allclose(predictive.cdf(torch.as_tensor(median)), 0.5, atol=1e-5)
    chance = fitted.probability_of_exceeding(median[:, 0], at=LATER)
    np.testing.assert_allclose(chance[:, 0], 0.5, atol=1e-5)
    assert fitted.probability_of_exceeding(0.4, at=100).shape == (4,)
    mean, std = fitted.predict(LATER, return_std=True)
    draws = fitted.sample_y(LATER, 4000, random_state=0)
    np.testing.assert_allclose(draws.mean(-1), mean, atol=0.03)
    np.testing.assert_allclose(draws.std(-1), std, atol=0.03)


def test_units_of_a_bounded_metric_do_not_matter():
    plain = estimator().fit(None, CURVES)
    percent = estimator(low=-100.0, high=100.0).fit(None, [200 * np.array(c) - 100 for c in CURVES])
    np.testing.assert_allclose(percent.predict(LATER), 200 * plain.predict(LATER) - 100, atol=1e-2)
    y = torch.full((4, 3), 0.45)
    one = plain.predict_distribution(LATER).log_prob(y)
    other = percent.predict_distribution(LATER).log_prob(200 * y.double() - 100)
    np.testing.assert_allclose(other, one - np.log(200), atol=1e-3)


def test_an_error_is_an_accuracy_upside_down():
    accuracy = estimator().fit(None, CURVES)
    error = estimator(minimize=True).fit(None, [1 - np.array(c) for c in CURVES])
    np.testing.assert_allclose(error.predict(LATER), 1 - accuracy.predict(LATER), atol=1e-5)
    np.testing.assert_allclose(
        error.predict_quantiles(LATER, [0.1, 0.9]),
        1 - accuracy.predict_quantiles(LATER, [0.9, 0.1]),
        atol=1e-5,
    )
    np.testing.assert_allclose(
        error.probability_of_exceeding(0.6, LATER),
        1 - accuracy.probability_of_exceeding(0.4, LATER),
        atol=1e-5,
    )


FALLING = np.array([1.3, 1.22, 1.17, 1.12, 1.09, 1.06, 1.04, 1.02, 1.01, 1.0])


@pytest.mark.parametrize("low", [0.0, -np.inf])
@pytest.mark.parametrize("at", [[0], [3], [9], [2, 5]], ids=str)
def test_a_loss_that_blew_up_once_does_not_set_the_scale(low, at):
    values = FALLING.copy()
    values[at] = [1000.0, 400.0][: len(at)]
    options = {"low": low, "high": np.inf, "minimize": True}
    fitted = LearningCurveRegressor("learning-curve", **options).fit(None, values)
    assert 1.0 < fitted.usual_ <= 1.3
    median = fitted.predict_quantiles([50.0], [0.5]).item()
    assert 0.7 < median < 1.4  # without the accident .93


def test_the_usual_size_is_the_largest_but_for_a_few_outliers():
    steps = np.arange(1.0, 101.0)
    for fall in (1 / steps, steps**-2, np.exp(-steps / 10), np.exp(-steps)):
        assert usual_size(fall) == fall.max()
    assert usual_size([5.0, 0.1, 0.1]) == 5.0  # of three, one is no small part
    assert usual_size([1.0, np.nan, 2.0]) == 2.0
    assert usual_size(np.r_[np.ones(20), 50.0, 1e3, 1e6]) == 1.0
    assert usual_size(np.zeros(8)) == 0.0


@pytest.mark.parametrize("minimize", [False, True])
@pytest.mark.parametrize("bounded", [(True, True), (True, False), (False, True), (False, False)])
def test_nothing_lies_past_a_bound(bounded, minimize):
    low, high = np.where(bounded, (2.0, 5.0), (-np.inf, np.inf))
    options = {"low": low, "high": high, "usual": 3.0, "minimize": minimize}
    fitted = estimator(**options).fit(None, [[2.5, 3.0, 4.0], [5.0, 4.5, 2.0]])
    draws = fitted.sample_y(LATER, 4000)
    assert (draws >= low).all() and (draws <= high).all()
    predictive = fitted.predict_distribution(LATER)
    ends = torch.tensor([2.0, 5.0]).double()[:, None, None]
    assert predictive.log_prob(ends).isfinite().all()
    past = predictive.log_prob(ends + torch.tensor([-1e-9, 1e-9]).double()[:, None, None])
    assert (past.isinf().all((1, 2)).numpy() == bounded).all()
    chances = np.stack([fitted.probability_of_exceeding(end, LATER) for end in (2.0, 5.0)])
    assert (np.isclose(chances[0], 1, atol=1e-6).all(), (chances[1] < 1e-6).all()) == bounded
    np.testing.assert_allclose(predictive.masses.sum(-1), 1, atol=1e-5)


def test_a_network_whose_bars_end_inside_has_all_values_to_the_bound():
    scale = MetricScale(0.0, 1.0, bounded=(True, True))
    predictive = scale.predictive(torch.zeros(4), torch.tensor([0.2, 0.4, 0.5, 0.6, 0.8]))
    masses = predictive.cdf(torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]).double())
    torch.testing.assert_close(masses, torch.tensor([0, 0.125, 0.25, 0.75, 0.875, 1.0]).double())


def test_a_metric_far_from_zero_is_as_precise():
    near = estimator().fit(None, CURVES)
    far = estimator(low=1e6, high=1e6 + 1).fit(None, [1e6 + np.array(c) for c in CURVES])
    np.testing.assert_allclose(far.predict(LATER) - 1e6, near.predict(LATER), atol=1e-6)
    quantiles = near.predict_quantiles(LATER)
    np.testing.assert_allclose(far.predict_quantiles(LATER) - 1e6, quantiles, atol=1e-6)


def test_density_of_a_loss_integrates_to_one():
    options = {"low": 0.0, "high": np.inf, "minimize": True}
    fitted = estimator(**options).fit(None, [2.3, 1.7, 1.5])
    predictive = fitted.predict_distribution([50.0])
    borders = predictive.borders[1:-1].tolist()  # the first is the bound
    edges = [*borders, borders[-1] + 400]
    total = sum(
        quad(lambda y: predictive.log_prob(torch.tensor([y])).exp().item(), low, high)[0]
        for low, high in zip(edges, edges[1:], strict=False)
    )
    assert total == pytest.approx(1, abs=1e-4)
    assert predictive.icdf(torch.tensor([0.01])) < predictive.icdf(torch.tensor([0.99]))


@given(
    st.floats(-1e3, 1e3),
    st.floats(1e-2, 1e3),
    st.tuples(st.booleans(), st.booleans()),
    st.booleans(),
    arrays(np.float64, 5, elements=st.floats(-5, 5)),
)
def test_metric_scale_is_invertible_and_ordered(low, width, bounded, minimize, r):
    scale = MetricScale(low, low + width, bounded=bounded, minimize=minimize)
    values = np.sort(low + width * r)
    unit = scale.to_unit(values)
    np.testing.assert_allclose(scale.from_unit(unit), values, atol=1e-6 * (abs(low) + width))
    assert (np.diff(unit) * (-1 if minimize else 1) >= 0).all()
    if not any(bounded):
        assert (unit > 0).all() and (unit < 1).all()


def test_step_scale_keeps_short_and_compresses_long_trainings():
    steps = np.array([1.0, 10.0, 50.0])
    np.testing.assert_array_equal(StepScale(1.0, 50.0, "linear").to_prior(steps, 100), steps)
    assert StepScale(1.0, 199.0, "linear").to_prior(np.array([100.0]), 100)[0] == 50.5
    doubling = StepScale(16.0, 4096.0, "log").to_prior(16 * 2.0 ** np.arange(9), 100)
    np.testing.assert_allclose(np.diff(np.log(doubling)), np.log(100) / 8)
    few = StepScale(16.0, 1024.0, "log").to_prior(np.array([16.0, 160.0, 1024.0]), 100)
    np.testing.assert_allclose(few, [1, 10, 64])


def test_a_power_law_of_training_sizes_stays_one():
    """Whatever the range of the sizes: c - a s^-b becomes c - a' t^-b'."""
    sizes = 16 * 2.0 ** np.arange(12)
    t = StepScale(16.0, sizes[-1], "log").to_prior(sizes, 100)
    slopes = np.diff(np.log(0.3 * sizes**-0.4)) / np.diff(np.log(t))
    np.testing.assert_allclose(slopes, slopes[0])


def test_long_curves_are_thinned_with_both_ends_kept():
    fitted = estimator(horizon=500).fit(None, np.linspace(0, 1, 400))
    assert fitted.steps_.shape == (1, 20)
    assert (fitted.steps_[0, 0], fitted.steps_[0, -1]) == (1.0, 400.0)
    assert np.isfinite(fitted.predict([500.0])).all()


@settings(max_examples=40)
@given(st.data())
def test_any_curves_get_finite_ordered_answers(data):
    lengths = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=5))
    values = st.one_of(st.just(np.nan), st.floats(-1e6, 1e6))
    curves = [data.draw(arrays(np.float64, n, elements=values)) for n in lengths]
    for curve in curves:
        curve[0] = 1.0 if np.isnan(curve[0]) else curve[0]
    fitted = estimator(low=-np.inf, high=np.inf, minimize=data.draw(st.booleans()))
    quantiles = fitted.fit(None, curves).predict_quantiles(LATER, [0.05, 0.5, 0.95])
    assert np.isfinite(quantiles).all() and (np.diff(quantiles) >= 0).all()
    chance = fitted.probability_of_exceeding(1.0, LATER)
    assert ((chance >= 0) & (chance <= 1 + 1e-6)).all()


WRONG = {
    "bounds": ({"low": 1.0, "high": 0.0}, None, [0.5], "low < high"),
    "scale": ({"step_scale": "root"}, None, [0.5], "'linear' or 'log'; got 'root'"),
    "horizon": ({"horizon": 1.0}, None, [0.5], "first_step < horizon"),
    "log from 0": ({"first_step": 0.0, "step_scale": "log"}, None, [0.5], "first_step > 0"),
    "usual": ({"usual": -1.0}, None, [0.5], "usual > 0"),
    "outside": ({}, None, [0.5, 1.5], r"values in \[0.0, 1.0\]; got 1.5"),
    "text": ({}, None, ["a"], "y as numbers"),
    "empty": ({}, None, [], "not empty"),
    "cube": ({}, None, np.zeros((2, 2, 2)), "shape"),
    "all missing": ({}, None, [[0.1], [np.nan]], "curve 1 has none"),
    "infinite": ({"high": np.inf}, None, [np.inf], "curve 0 has infinity"),
    "lengths": ({}, [1, 2, 3], [0.1, 0.2], "curve 0 has 3 and 2"),
    "rows": ({}, [[1, 2], [1, 2], [1, 2]], [[0.1, 0.2], [0.1, 0.2]], "got 3 rows"),
    "step": ({}, [1, 101], [0.1, 0.2], "horizon=100 in X; got 101"),
    "before": ({}, [0, 1], [0.1, 0.2], "first_step=1 to"),
    "NaN step": ({}, [1, np.nan], [0.1, 0.2], "finite steps"),
    "network": ({"network": "gp"}, None, [0.5], "trained on learning curves"),
}


@pytest.mark.parametrize("options, X, y, message", WRONG.values(), ids=WRONG)
def test_wrong_input_is_refused(options, X, y, message, no_shape_checks):
    with pytest.raises(ValueError, match=message):
        LearningCurveRegressor(**{"network": NETWORK} | options).fit(X, y)


def test_wrong_questions_are_refused(no_shape_checks):
    fitted = estimator().fit(None, CURVES)
    for ask, message in (
        (lambda: fitted.predict([101.0]), "horizon=100 in X; got 101"),
        (lambda: fitted.predict([[1.0], [2.0, 3.0]]), "4 curve"),
        (lambda: fitted.predict([[1.0], [2.0, 3.0], [1.0], [1.0]]), "for every curve"),
        (lambda: fitted.predict_quantiles([5.0], [1.0]), "strictly between"),
        (lambda: fitted.sample_y([5.0], 0), "n_samples"),
        (lambda: fitted.probability_of_exceeding([0.1, 0.2], 5.0), "one for each of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            ask()


def test_fitted_estimator_can_be_stored(tmp_path):
    folder = save(NETWORK, tmp_path / "network")
    fitted = LearningCurveRegressor(str(folder), high=np.inf).fit(None, CURVES)
    again = LearningCurveRegressor.load(fitted.save(tmp_path / "fitted"))
    np.testing.assert_array_equal(again.predict(LATER), fitted.predict(LATER))
    assert again.high == np.inf


def test_curves_may_come_as_a_table_with_shared_steps():
    curves = curves_of([[1.0], [2.0], [4.0]], [0.1, 0.2, 0.3])
    assert curves.steps.tolist() == [[1.0, 2.0, 4.0]] and not curves.many
    square = curves_of([[1.0], [2.0], [4.0]], np.full((3, 3), 0.5))
    assert square.steps.tolist() == 3 * [[1.0, 2.0, 4.0]]
    shared = curves_of([1.0, 2.0], [[0.1, 0.2], [0.3, np.nan]])
    assert shared.many and shared.steps[0].tolist() == [1.0, 2.0] and shared.steps[1, 0] == 1.0


def test_plot_draws_every_curve():
    figure = estimator().fit(None, CURVES).plot()
    assert len(figure.axes[0].lines) == 2 * len(CURVES)


def test_released_network_beats_the_last_value():
    curves = named_prior("learning-curve").whole_curves(300, seed=10**6)
    unit = curves.clamp(0, 1).double().numpy()
    fitted = LearningCurveRegressor().fit(None, unit[:, :20])
    end = curves[:, -1:].double()
    errors = np.abs(fitted.predict([100.0]) - end.numpy()).mean()
    assert errors < 0.9 * np.abs(unit[:, 19:20] - end.numpy()).mean()
    assert fitted.predict_distribution([100.0]).log_prob(end).mean() > 1.5
    assert load("learning-curve").config.max_context == 100
