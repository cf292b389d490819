"""Sample sites whose density is not that of their distribution are refused, or put right."""

import math
import warnings
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import ExpTransform, PowerTransform
from scipy.special import ive

from amortized import infer
from amortized.program.vectorised import draw
from amortized.seeding import seeded

Y = torch.tensor([1.3, 1.55, 1.5, 1.42], dtype=torch.float64)


def _observed(mean, y):
    return pyro.sample("y", dist.Normal(mean, 0.3).expand([4]).to_event(1), obs=y)


def switched_bound(x, y=None):
    z = pyro.sample("z", dist.Bernoulli(0.5))
    return _observed(pyro.sample("m", dist.Uniform(0.0, 1.0 + z)), y)


def scaled_latent(x, y=None):
    with pyro.poutine.scale(scale=0.5):
        return _observed(pyro.sample("m", dist.Normal(0.0, 1.0)), y)


def squared(x, y=None):
    law = dist.TransformedDistribution(dist.Normal(0.0, 1.0), [PowerTransform(torch.tensor(2.0))])
    return _observed(pyro.sample("m", law), y)


def logarithm(x, y=None):
    law = dist.TransformedDistribution(dist.Normal(1.0, 1.0), [ExpTransform().inv])
    return _observed(pyro.sample("m", law), y)


def constant(x, y=None):
    return _observed(pyro.sample("m", dist.Delta(torch.tensor(0.5))), y)


def copied(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 4):
        each = pyro.sample("each", dist.Delta(2 * m, log_density=-m.square()))
        return pyro.sample("y", dist.Normal(each, 0.3), obs=y)


def number(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    pyro.sample("before", dist.Normal(m, 1.0), obs=1.5)
    return _observed(m, y)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (switched_bound, "do not depend on discrete ones"),
        (scaled_latent, "outside of pyro.poutine.scale"),
        (squared, "domain of its transforms"),
        (logarithm, "domain of its transforms"),
        (constant, r"Write pyro.deterministic\('m', value\)"),
        (copied, r"pyro.factor\('each_density', ...\)"),
        (number, "Expected a tensor as the observation at 'before'"),
    ],
)
@pytest.mark.parametrize("method", ["auto", "importance"])
def test_refused_with_what_to_write(program, message, method):
    with pytest.raises(ValueError, match=message):
        infer(program, Y, method=method)


def by_numpy(x, y=None):
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    return _observed(torch.as_tensor(m.numpy() * 1.0), y)


@pytest.mark.parametrize("method", ["auto", "nuts", "laplace", "importance"])
def test_a_latent_read_by_numpy_has_no_gradient(method):
    with (
        pytest.warns(UserWarning, match=r"one by one.*m in place of float\(m\)"),
        pytest.raises(ValueError, match=r"read by \.numpy\(\)\. Write torch"),
    ):
        infer(by_numpy, Y, method=method)


def as_number(x, y=None):
    return _observed(float(pyro.sample("m", dist.Normal(0.0, 1.0))), y)


def test_a_latent_read_as_a_number_is_weighted_all_the_same():
    with pytest.warns(UserWarning, match=r"one by one.*m in place of float\(m\)"):
        posterior = infer(as_number, Y, method="importance", n_draws=100)
    law = dist.MultivariateNormal(torch.zeros(4), 0.09 * torch.eye(4) + 1)
    error = posterior.log_evidence - law.log_prob(Y.float())
    assert abs(error) < 4 * posterior.log_evidence_error


def test_square_answers_do_not_meet_a_plate_of_rows():
    """A slope times the inputs of the rows would be compared with columns."""

    def rows(x, y=None):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            return pyro.sample("y", dist.Normal(m * x[:, 0], 1.0), obs=y)

    with pytest.raises(ValueError, match=r"shape \(4,\) for one dataset.*got \(4, 4\)"):
        infer(rows, Y[:, None], Y.expand(4, 4))


@pytest.mark.parametrize(("method", "lost"), [("exact", False), ("importance", True)])
def test_mass_that_rounds_to_an_end_is_said(method, lost):
    def edges(x, y=None):
        p = pyro.sample("p", dist.Beta(0.05, 0.05))
        return pyro.sample("y", dist.Bernoulli(p).expand([4]).to_event(1), obs=y)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        infer(edges, torch.ones(4), method=method, n_draws=100)
    said = [str(w.message) for w in caught if "rounds to an end" in str(w.message)]
    assert [each.split(",")[0] for each in said] == ["Of the prior of 'p'"] * lost


def test_discrete_latents_of_crossed_plates_are_drawn_one_by_one():
    y = torch.tensor([[1.0, 2.2], [0.3, 1.1], [-1.1, 0.4]]).double()

    def crossed(x, y=None, one_by_one=False):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 2, dim=-1)
        if one_by_one:
            z = torch.stack([pyro.sample(f"z{j}", dist.Bernoulli(0.3)) for j in range(2)], -1)
        else:
            with columns:
                z = pyro.sample("z", dist.Bernoulli(0.3))
        with rows:
            w = pyro.sample("w", dist.Bernoulli(0.4))
            with columns:
                return pyro.sample("y", dist.Normal(m + 2 * z - w, 0.7), obs=y)

    with pytest.raises(ValueError, match=r"shorter plate outside of it.*torch\.stack"):
        infer(crossed, torch.zeros(3, 0), y)
    rewritten = partial(crossed, one_by_one=True)
    posterior = infer(rewritten, torch.zeros(3, 0), y, method="importance", n_draws=50)
    m = torch.linspace(-0.5, 1.0, 3).double()
    expected = dist.Normal(0.0, 1.0).log_prob(m)
    of_columns = []
    for z in ([0, 0], [0, 1], [1, 0], [1, 1]):
        centre = m[:, None, None] + 2 * torch.tensor(z)
        of_rows = [
            math.log(share) + dist.Normal(centre - w, 0.7).log_prob(y).sum(-1)
            for w, share in ((0, 0.6), (1, 0.4))
        ]
        prior = sum(math.log(0.3 if each else 0.7) for each in z)
        of_columns.append(prior + torch.logaddexp(*of_rows).sum(-1))
    expected = expected + torch.stack(of_columns).logsumexp(0)
    ours = posterior.log_prob({"m": m}) + posterior.log_evidence
    torch.testing.assert_close(ours, expected)


def test_sites_of_the_same_name_are_refused():
    def repeated(x, y=None):
        m = sum(pyro.sample("m", dist.Normal(0.0, 1.0)) for _ in range(2))
        return _observed(m, y)

    with pytest.raises(ValueError, match=r"got multiple sample sites named 'm'.*f'z\{i\}'"):
        infer(repeated, Y)


def test_a_switched_bound_may_be_written_by_a_share():
    def rewritten(x, y=None):
        z = pyro.sample("z", dist.Bernoulli(0.5))
        share = pyro.sample("share", dist.Uniform(0.0, 1.0))
        return _observed(pyro.deterministic("m", share * (1.0 + z)), y)

    posterior = infer(rewritten, Y, seed=1)
    m = np.linspace(0, 2, 4001)
    prior = 0.5 * (m < 1) + 0.25
    joint = prior * np.exp(-0.5 * ((Y.numpy()[:, None] - m) / 0.3) ** 2).prod(0)
    mean = (joint * m).sum() / joint.sum()
    sd = math.sqrt((joint * (m - mean) ** 2).sum() / joint.sum())
    assert posterior.mean["m"].item() == pytest.approx(mean, abs=0.2 * sd)
    assert posterior.std["m"].item() == pytest.approx(sd, rel=0.2)


def test_a_latent_angle_is_on_the_circle():
    def angle(x, y=None):
        a = pyro.sample("a", dist.VonMises(0.5, 2.0))
        return pyro.sample("y", dist.Normal(a.sin(), 1.0).expand([4]).to_event(1), obs=y)

    posterior = infer(angle, Y, method="importance", n_draws=4000)
    a = np.linspace(-np.pi, np.pi, 4001)
    step = a[1] - a[0]
    prior = np.exp(2 * np.cos(a - 0.5)) / (2 * np.pi * np.i0(2.0))
    likelihood = np.exp(-0.5 * (Y.numpy()[:, None] - np.sin(a)) ** 2).prod(0) / (2 * np.pi) ** 2
    evidence = (prior * likelihood).sum() * step
    error = 4 * posterior.log_evidence_error.item()
    assert posterior.log_evidence.item() == pytest.approx(math.log(evidence), abs=error)
    at = torch.tensor([1.0, 1.0 + 2 * math.pi])
    right = np.interp(1.0, a, np.log(prior * likelihood / evidence))
    assert posterior.log_prob({"a": at}).tolist() == pytest.approx([right] * 2, abs=error)


@pytest.mark.parametrize("concentration", [1e-7, 0.3, 4.0, 1e4])
def test_angles_are_drawn_with_their_moments(concentration):
    law = dist.VonMises(torch.tensor(0.5).double(), torch.tensor(concentration).double())
    with seeded(0):
        off = draw(law, [20_000]) - 0.5
    first, second = (ive(n, concentration) / ive(0, concentration) for n in (1, 2))
    for each, mean, square in (
        (off.cos(), first, (1 + second) / 2),
        (off.sin(), 0.0, (1 - second) / 2),
    ):
        sd = math.sqrt(max(square - mean**2, 1e-12))
        assert each.mean().item() == pytest.approx(mean, abs=4 * sd / math.sqrt(20_000))


def test_a_zero_inflated_law_has_a_predictive():
    def counts(x, y=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        law = dist.ZeroInflatedPoisson(rate, gate=torch.tensor(0.5)).expand([len(x)])
        return pyro.sample("y", law.to_event(1), obs=y)

    posterior = infer(counts, torch.tensor([0.0, 0.0, 3.0, 1.0]), method="importance", n_draws=100)
    predictive = posterior.predictive(torch.zeros(1, 0))
    rates, log_weights = posterior.weighted_draws()
    share = (log_weights.softmax(0) * (0.5 + 0.5 * (-rates["rate"]).exp())).sum()
    assert predictive.log_prob(torch.zeros(1)).exp().item() == pytest.approx(share.item(), rel=1e-6)


def test_a_masked_impossible_row_has_no_log_likelihood():
    def waits(x, y=None):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        with pyro.plate("rows", len(x)), pyro.poutine.mask(mask=torch.tensor([True, False])):
            return pyro.sample("y", dist.Exponential(rate), obs=y)

    posterior = infer(waits, torch.tensor([1.0, -1.0]), method="importance", n_draws=20)
    groups = posterior._groups(posterior.weighted_draws()[0])
    log_likelihood = groups["log_likelihood"]["y"]
    assert log_likelihood.isfinite().all() and (log_likelihood[:, 1] == 0).all()
