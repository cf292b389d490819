"""The posterior object: weights are never forgotten, and its answers are those of its draws."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

from amortized.infer import infer
from amortized.posterior import Posterior
from amortized.priors.regression.linear_regression import LinearRegressionPrior

N = 4000


def weighted(batch=()):
    """Draws of N(0, 1) with the weights that make them N(1, 1)."""
    draws = torch.randn(N, *batch, dtype=torch.float64)
    events = draws.unsqueeze(-1) * torch.tensor([1.0, 2.0], dtype=torch.float64)
    return Posterior({"a": draws, "b": events}, log_weights=draws, batch_shape=batch)


POSTERIORS = {
    "weighted": weighted,
    "weighted batch": lambda: weighted((3,)),
    "equal": lambda: Posterior({"a": torch.randn(N) + 1, "b": torch.randn(N, 2) + 1}),
    "equal batch": lambda: Posterior(
        {"a": torch.randn(N, 3) + 1, "b": torch.randn(N, 3, 2) + 1}, batch_shape=(3,)
    ),
}
each_posterior = pytest.mark.parametrize("make", POSTERIORS.values(), ids=POSTERIORS)


@each_posterior
def test_moments_use_the_weights(make):
    posterior = make()
    for value in (posterior.mean["a"], posterior.quantile(0.5)["a"]):
        assert value.shape == posterior.batch_shape and (value - 1).abs().max() < 0.12
    assert (posterior.std["a"] - 1).abs().max() < 0.1
    assert posterior.mean["b"].shape == (*posterior.batch_shape, 2)


@each_posterior
def test_samples_are_equally_weighted(make):
    posterior = make()
    for n in (100, N, 2 * N):
        draws = posterior.sample(n, seed=1)
        assert draws["b"].shape == (n, *posterior.batch_shape, 2)
        assert torch.equal(draws["a"], posterior.sample(n, seed=1)["a"])
    assert (draws["a"].mean(0) - 1).abs().max() < 0.12


@each_posterior
def test_samples_keep_the_latents_of_a_draw_together(make):
    posterior = make()
    if "b" in posterior.names and posterior._log_weights is not None:
        draws = posterior.sample(50)
        torch.testing.assert_close(draws["b"][..., 1], 2 * draws["a"])


def test_bare_draws_of_a_weighted_posterior_are_refused():
    with pytest.raises(ValueError, match="Expected equally weighted draws"):
        _ = weighted().draws
    draws, log_weights = weighted().weighted_draws()
    torch.testing.assert_close(log_weights.logsumexp(0), torch.tensor(0.0, dtype=torch.float64))
    assert draws["a"].shape == (N,)
    assert POSTERIORS["equal"]().draws["a"].shape == (N,)


@each_posterior
def test_summary_and_plot(make):
    posterior = make()
    rows = posterior.summary()
    assert len(rows) == 3 * max(1, posterior.batch_shape.numel())
    assert all(row["q5"] < row["q50"] < row["q95"] for row in rows.values())
    assert len(posterior.plot().axes) == len(rows)
    assert "Posterior" in repr(posterior)


@each_posterior
def test_arviz_sees_the_weighted_answer(make):
    posterior = make()
    data = posterior.to_inference_data()
    mean = data.posterior["a"].mean(("chain", "draw"))
    np.testing.assert_allclose(mean, posterior.mean["a"], atol=0.1)


def test_modes_have_the_shares_of_the_weights():
    right = torch.rand(N, 2) < 0.5
    draws = torch.randn(N, 2) + torch.where(right, 9.0, 0.0)
    # The weights treble the left mode of the second dataset alone.
    log_weights = torch.where(right, 0.0, torch.tensor([1.0, 3.0]).log())
    posterior = Posterior({"a": draws}, log_weights=log_weights, batch_shape=(2,))
    equal, unequal = posterior.mode_shares()
    assert [round(mode["share"], 1) for mode in equal] == [0.5, 0.5]
    assert abs(unequal[0]["share"] - 0.75) < 0.03 and abs(unequal[0]["mean"]["a"]) < 0.15
    assert abs(unequal[1]["mean"]["a"] - 9) < 0.15
    (only,) = POSTERIORS["weighted"]().mode_shares()
    assert only["share"] == 1.0 and only["mean"]["b"].shape == (2,)


def test_replicate_ess_counts_what_copies_of_a_draw_are_worth():
    """Every draw is there four times, so that 400 draws are worth 100."""
    draws = torch.randn(100, 300, 2, dtype=torch.float64).repeat(4, 1, 1)
    ess = Posterior({"a": draws}, batch_shape=(300,)).replicate_ess()["a"]
    assert ess.shape == (2,) and ((ess / 100).log().abs() < 0.35).all()  # its sd is 0.08


@pytest.mark.parametrize("method", ["exact", "laplace"])
def test_data_frames_are_taken_for_their_numbers(method):
    prior = LinearRegressionPrior(2)
    batch = prior.sample(1, 12, 3, seed=2)
    x, y = batch.x_context[0].double(), batch.y_context[0].double()
    frame, series = pd.DataFrame(x.numpy(), columns=["a", "b"]), pd.Series(y.numpy())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that are not writable
        warnings.filterwarnings("ignore", "These draws are in doubt")  # Laplace is wrong here
        predictive = infer(prior, frame, series, method=method, n_draws=50).predictive(frame)
    expected = infer(prior, x, y, method=method, n_draws=50).predictive(x)
    torch.testing.assert_close(predictive.mean, expected.mean)


WRONG = {
    "too few copies": (lambda: weighted((3,)).replicate_ess(), "at least 8 copies"),
    "modes of nothing": (lambda: Posterior({}).mode_shares(), "has none"),
    "no draws": (lambda: Posterior({"a": torch.zeros(0)}), "at least 1"),
    "uneven": (lambda: Posterior({"a": torch.zeros(2), "b": torch.zeros(3)}), "same number"),
    "quantile": (lambda: POSTERIORS["equal"]().quantile(2.0), "q in"),
    "no density": (lambda: POSTERIORS["equal"]().log_prob({}), "normalised density"),
    "no predictive": (lambda: POSTERIORS["equal"]().predictive(torch.zeros(1, 1)), "a program"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()


def test_quantiles_are_those_of_draws_that_have_a_weight():
    values = torch.tensor([9.0, -5.0, 0.0, 2.0, 1.0])
    weights = torch.tensor([0.0, 0.0, 0.2, 0.3, 0.5]).log()
    posterior = Posterior({"a": values}, log_weights=weights)
    found = [posterior.quantile(q)["a"].item() for q in (0.0, 0.1, 0.6, 0.9, 1.0)]
    assert found == [0.0, 0.0, 1.0, 2.0, 2.0]
