"""The prior of series: draws that are pure, finite, seen as promised, and of every kind."""

import pytest
import torch

from amortized.priors.series import signals
from amortized.priors.series.preview import preview
from amortized.priors.series.series_prior import HORIZON, SeriesPrior


@pytest.mark.parametrize("n_context", [1, 5, 30, 200])
def test_batches(n_context):
    prior = SeriesPrior(gaps=0.5)
    for seed in range(6):
        batch = prior.sample(7, n_context, 9, seed=seed)
        again = prior.sample(7, n_context, 9, seed=seed)
        assert torch.equal(batch.y_context, again.y_context)
        assert torch.equal(batch.y_query, again.y_query)
        assert batch.y_context.isfinite().all() and batch.y_query.isfinite().all()
        t, asked = batch.x_context[0, :, 0], batch.x_query[0, :, 0]
        assert (t.diff() > 0).all() and (asked.diff() > 0).all()
        assert t[-1] < asked[0] and asked[-1] <= t[-1] + HORIZON


def test_gaps_are_as_frequent_as_asked():
    def has_gap(prior, seed):
        t = prior.sample(1, 40, 1, seed=seed).x_context[0, :, 0]
        return bool((t.diff() > 1).any())

    assert not any(has_gap(SeriesPrior(gaps=0.0), seed) for seed in range(20))
    assert all(has_gap(SeriesPrior(gaps=1.0), seed) for seed in range(20))
    with pytest.raises(ValueError, match="gaps in"):
        SeriesPrior(gaps=1.5)


def test_every_kind_of_series_occurs():
    batches = [SeriesPrior().sample(50, 100, 20, seed=seed) for seed in range(8)]
    y = torch.cat([batch.y_context for batch in batches])
    assert ((y == 0).float().mean(1) > 0.5).any()  # intermittent demand
    assert (y.amin(1) > 0).float().mean() > 0.3  # positive
    assert (y.amin(1) < 0).float().mean() > 0.1
    periods = {batch.x_context[0, 0, 1].item() for batch in batches}
    assert len(periods) >= 3 and 1.0 in periods


def test_autoregressions_by_fourier_transforms():
    shocks = torch.randn(3, 50, dtype=torch.float64)
    t = torch.arange(50, dtype=torch.float64)
    fast = signals.filtered(shocks, (0.7**t).expand(3, -1))
    slow = [shocks[:, 0]]
    for i in range(1, 50):
        slow.append(0.7 * slow[-1] + shocks[:, i])
    torch.testing.assert_close(fast, torch.stack(slow, 1), atol=1e-10, rtol=1e-8)


def test_seasons_repeat_unless_they_drift():
    pattern = signals.season(400, 84, 12)
    repeats = (pattern[:, 12:] - pattern[:, :-12]).abs().amax(1) < 1e-4
    assert 0.4 < repeats.float().mean() < 0.9


def test_noise_has_variance_one_and_heavy_tails():
    noise = signals.heavy_tailed(500, 400)
    assert noise.square().mean().item() == pytest.approx(1.0, abs=0.1)
    tails = noise.pow(4).mean(1) / noise.square().mean(1) ** 2
    assert tails.median().item() == pytest.approx(3.0, abs=0.3) and (tails > 6).any()


def test_preview():
    assert len(preview(SeriesPrior(), n_series=3).axes) == 3
