"""Early stopping: the rule, the callback of Lightning, and successive halving."""

import lightning
import numpy as np
import pytest
import torch
from test_learning_curve_regressor import estimator
from torch.utils.data import DataLoader

from amortized import EarlyStopping
from amortized.estimators import EarlyStoppingCallback, survivors


@pytest.mark.parametrize("min_delta", [0.0, 0.05])
def test_stopping_follows_the_chance_to_beat_the_best(min_delta):
    curve, best = [0.2, 0.3, 0.4], 0.8 - min_delta
    chance = estimator().fit(None, curve).probability_of_exceeding(0.8, at=100)
    for threshold, stops in ((chance - 1e-3, False), (chance + 1e-3, True)):
        rule = {"threshold": float(threshold), "min_delta": min_delta}
        stopping = EarlyStopping(estimator(), best=best, **rule)
        assert [stopping.update(value) for value in curve] == [False, False, stops]
        assert stopping.chance == pytest.approx(chance, abs=1e-6)


def test_stopping_knows_that_a_loss_should_fall():
    curve = [2.0, 1.5, 1.2]
    loss = estimator(low=0.0, high=4.0, minimize=True)
    stopping = EarlyStopping(loss, best=0.6, min_delta=0.1)
    for value in curve:
        stopping.update(value)
    below = 1 - loss.fit(None, curve).probability_of_exceeding(0.5, at=100)
    assert stopping.chance == pytest.approx(below, abs=1e-6)
    assert stopping.update(float("nan"))  # a training that has diverged


def test_a_training_that_has_diverged_can_go_on():
    stopping = EarlyStopping(estimator())
    assert [stopping.update(value) for value in (0.3, 0.2, np.inf, 0.1)] == [False] * 2 + [True] * 2
    first = EarlyStopping(estimator(), fewest=1)
    assert first.update(np.nan) and first.update(0.2) and np.isfinite(first.chance)


def test_a_value_that_is_refused_is_forgotten():
    stopping = EarlyStopping(estimator())
    for wrong in ({"value": 1.5}, {"value": 0.3, "step": -1.0}):
        with pytest.raises(ValueError, match=r"Expected (values|steps)"):
            stopping.update(**wrong)
    assert not stopping.update(0.3) and stopping.values == [0.3] and stopping.steps == [1.0]


@pytest.mark.parametrize("value", [np.float32(0.25), torch.tensor(0.25), np.array(0.25)])
def test_a_value_may_be_any_number(value):
    stopping = EarlyStopping(estimator())
    stopping.update(value)
    assert stopping.values == [0.25]


@pytest.mark.parametrize("value", ["0.3x", None, 1j, 10**400, [0.1, 0.2]])
def test_a_value_that_is_no_number_is_refused(value, no_shape_checks):
    with pytest.raises((ValueError, TypeError), match="Expected"):
        EarlyStopping(estimator()).update(value)


@pytest.mark.parametrize("minimize", [False, True])
def test_a_training_at_the_bound_stops(minimize):
    perfect = EarlyStopping(estimator(minimize=minimize), threshold=1e-3)
    assert [perfect.update(0.0 if minimize else 1.0) for _ in range(3)] == [False, False, True]


def test_a_training_that_has_become_as_good_as_it_will_be_stops():
    steps = np.arange(1, 80)
    noise = np.random.default_rng(0).normal(0, 0.002, len(steps))
    stopping = EarlyStopping(min_delta=0.01)
    stops = [stopping.update(value) for value in 0.8 - 0.4 * np.exp(-steps / 5) + noise]
    assert 10 < stops.index(True) < 70


@pytest.mark.parametrize(
    "options, message",
    [
        ({"threshold": 0.0}, r"threshold in \(0, 1\)"),
        ({"min_delta": -0.1}, "min_delta >= 0"),
        ({"fewest": 0}, "fewest to be an integer >= 1"),
        ({"best": float("nan")}, "best to be a finite number"),
        ({"own": False}, "best, or own=True; got neither"),
    ],
)
def test_stopping_refuses_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(estimator(), **options)


class _Climber(lightning.LightningModule):
    """A training whose accuracy after each epoch is known."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        return self.layer(batch).sum()

    def validation_step(self, batch, _):
        self.log("accuracy", 0.1 + 0.05 * self.current_epoch)
        self.log("twice", 0.2 + 0.1 * self.current_epoch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.0)


def fit_climber(*callbacks, epochs=6):
    rows = DataLoader(torch.zeros(2, 1))
    trainer = lightning.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(_Climber(), rows, rows)
    return trainer.current_epoch


@pytest.mark.filterwarnings("ignore")
def test_callback_ends_a_training():
    hopeless = EarlyStoppingCallback("accuracy", estimator=estimator(), best=5.0, fewest=2)
    assert fit_climber(hopeless) == 2
    other = EarlyStoppingCallback("twice", estimator=estimator(high=2.0), fewest=10)
    hopeless = EarlyStoppingCallback("accuracy", estimator=estimator(), best=5.0, fewest=2)
    assert fit_climber(hopeless, other) == 2 and len(other.stopping.values) == 2
    hopeful = EarlyStoppingCallback("accuracy", estimator=estimator(), best=-5.0, own=False)
    assert fit_climber(hopeful) == 6
    assert hopeful.stopping.values == pytest.approx([0.1 + 0.05 * epoch for epoch in range(6)])
    with pytest.raises(ValueError, match="logged metric 'loss'"):
        fit_climber(EarlyStoppingCallback("loss", estimator=estimator()))


def test_halving_keeps_those_that_end_best():
    curves = [[0.1, 0.2], [0.5, 0.6], [0.3, 0.2], [0.7, 0.9]]
    ends = estimator().fit(None, curves).predict([100.0])[:, 0]
    assert survivors(estimator(), curves).tolist() == np.argsort(-ends)[:2].tolist()
    least = survivors(estimator(minimize=True), curves, share=0.25)
    ends = estimator(minimize=True).fit(None, curves).predict([100.0])[:, 0]
    assert least.tolist() == [ends.argmin()]
    with pytest.raises(ValueError, match="share in"):
        survivors(estimator(), curves, share=0.0)
