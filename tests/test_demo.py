"""The demo's scores against closed forms, and its data."""

import pytest
import torch
from torch.distributions import Normal

from amortized import demo


def test_scores_of_a_normal_meet_the_closed_form():
    torch.manual_seed(0)
    truth = Normal(torch.zeros(20_000, dtype=torch.float64), 2.0)
    nlpd, crps, coverage = demo.scores(truth, truth.sample())
    assert nlpd == pytest.approx(truth.entropy()[0].item(), abs=0.02)
    assert crps == pytest.approx(2.0 / torch.pi**0.5, rel=0.02)  # sd / sqrt(pi)
    assert coverage == pytest.approx(0.9, abs=0.01)


def test_narrow_predictive_covers_less():
    torch.manual_seed(0)
    truth = Normal(torch.zeros(5_000, dtype=torch.float64), 1.0)
    narrow = Normal(truth.mean, 0.5)
    assert demo.scores(narrow, truth.sample())[2] < 0.65


@pytest.mark.parametrize("data", [demo.carbon_dioxide(), demo.diabetes()], ids=lambda d: d.name)
def test_data_is_split_without_overlap(data):
    known = {(*x, y) for x, y in zip(data.X, data.y, strict=True)}
    held_out = {(*x, y) for x, y in zip(data.X_test, data.y_test, strict=True)}
    assert known and held_out and not known & held_out
