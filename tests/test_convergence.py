"""Diagnostics of draws: equal to ArviZ's, and they catch what they are for."""

import arviz
import numpy as np
import pytest
import torch
from scipy import stats

from amortized.sampling.checks import convergence
from amortized.sampling.checks.pareto import fit_generalised_pareto, smooth_weights


def chains(correlation, n_chains=4, n=500):
    noise = torch.randn(n_chains, n, 3, dtype=torch.float64)
    draws = noise.clone()
    for t in range(1, n):
        draws[:, t] = correlation * draws[:, t - 1] + noise[:, t]
    draws[..., 1] = draws[..., 1].exp()
    draws[0, :, 2] += 0.5
    return draws


@pytest.mark.parametrize("correlation", [-0.5, 0.0, 0.5, 0.95])
def test_agrees_with_arviz(correlation):
    draws = chains(correlation)
    ours = [convergence.r_hat, convergence.ess_bulk, convergence.ess_tail, convergence.ess_mean]
    theirs = [
        arviz.rhat,
        arviz.ess,
        lambda a: arviz.ess(a, method="tail"),
        lambda a: arviz.ess(a, method="mean"),
    ]
    for our, their in zip(ours, theirs, strict=True):
        expected = [float(their(draws[..., k].numpy())) for k in range(3)]
        np.testing.assert_allclose(our(draws), expected, rtol=1e-6)


def test_r_hat_sees_a_chain_elsewhere_and_one_too_wide():
    draws = torch.randn(4, 500, 3)
    draws[0, :, 1] += 1
    draws[0, :, 2] *= 4
    assert (convergence.r_hat(draws) > 1.01).tolist() == [False, True, True]


MEASURES = {
    "R-hat": convergence.r_hat,
    "nested R-hat": lambda draws: convergence.nested_r_hat(draws, 2),
    "bulk ESS": convergence.ess_bulk,
    "tail ESS": convergence.ess_tail,
    "ESS of the mean": convergence.ess_mean,
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_a_draw_that_is_nan_is_said(measure):
    draws = torch.randn(4, 100, 3)
    expected = measure(draws)
    draws[1, 7, 1] = draws[2, 50, 1] = torch.nan
    with pytest.warns(UserWarning, match="got 2 NaN of 1,200 draws, in 1 of 3 quantities"):
        found = measure(draws)
    assert found.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(found[[0, 2]], expected[[0, 2]])


def test_draws_without_end_have_no_effective_number_for_their_mean():
    draws = torch.randn(4, 100, 2)
    draws[0, 0, 1] = torch.inf
    assert convergence.ess_mean(draws).isnan().tolist() == [False, True]
    assert convergence.ess_bulk(draws).isfinite().all()  # of ranks


def test_nested_r_hat_is_content_with_short_chains_and_sees_superchains_apart():
    draws = torch.randn(64, 5, 2)
    draws[:16, :, 1] += 2
    slow = torch.randn(64, 1) + 0.3 * torch.randn(64, 5)  # a chain hardly moves
    assert convergence.r_hat(slow) > 1.5 and convergence.nested_r_hat(slow, 4) < 1.2
    nested = convergence.nested_r_hat(draws, 4)
    # Means of 4 superchains of 80 draws: above 1.05 needs a chi-square(3) of 24, p = 2e-5.
    assert nested[0] < 1.05 < 1.2 < nested[1]


def test_replicate_ess_of_independent_draws_is_their_number():
    means = torch.randn(2000, 50, 1).mean(1)
    ess = convergence.replicate_ess(means, torch.ones(1))
    assert abs(ess - 50) < 10


def test_pareto_smoothing_agrees_with_arviz():
    scales = torch.tensor([0.3, 0.5, 1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    log_weights = torch.randn(6, 1000, dtype=torch.float64) * scales[:, None]
    ours = smooth_weights(log_weights)
    for i in range(6):
        smoothed, k_hat = arviz.psislw(log_weights[i].numpy())
        np.testing.assert_allclose(ours.k_hat[i], k_hat, rtol=1e-6)
        np.testing.assert_allclose(ours.log_weights[i], smoothed, rtol=1e-6)


def test_pareto_fit_finds_the_shape():
    for shape in (0.1, 0.5, 1.0):
        excess = torch.tensor(stats.genpareto(shape).rvs((50, 2000), random_state=0)).sort(-1)
        fitted, scale = fit_generalised_pareto(excess.values)
        assert abs(fitted.mean() - shape) < 0.02 and abs(scale.mean() - 1) < 0.02


def test_weights_that_are_no_use_say_so():
    none = smooth_weights(torch.full((1, 100), -torch.inf))
    assert none.k_hat.item() == torch.inf and none.ess.item() == 0
    one = torch.zeros(1, 100)
    one[0, 3] = 60.0
    assert smooth_weights(one).k_hat > 0.7 and smooth_weights(one).ess < 5
    broken = torch.zeros(1, 100)
    broken[0, 3] = torch.nan
    assert smooth_weights(broken).log_weights[0, 3] < -20


WRONG = {
    "too short": (lambda: convergence.r_hat(torch.zeros(2, 3)), "at least 4 draws"),
    "one superchain": (lambda: convergence.nested_r_hat(torch.zeros(4, 9), 1), "2 superchains"),
    "uneven": (lambda: convergence.nested_r_hat(torch.zeros(5, 9), 2), "divide 5 chains"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()


def test_weights_near_their_mean_have_no_tail():
    torch.manual_seed(0)
    wavy = 0.05 * torch.distributions.StudentT(3.0).sample((50, 100)).clamp(-6, 6).double()
    smoothed = smooth_weights(wavy)
    assert (smoothed.k_hat == -torch.inf).all()
    assert torch.allclose(smoothed.log_weights, wavy.log_softmax(-1))


@pytest.mark.parametrize("name", ["r_hat", "ess_bulk", "ess_tail", "ess_mean"])
def test_whole_numbers_count_as_numbers(name):
    measure = getattr(convergence, name)
    draws = torch.poisson(torch.full((4, 200), 3.0))
    torch.testing.assert_close(measure(draws.long()), measure(draws.double()))
