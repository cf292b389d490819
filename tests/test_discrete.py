"""Discrete latents are answered: marginals, joint draws, evidence, and predictive."""

import itertools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized.infer import infer

COUPLINGS = torch.randn(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
MEANS = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
SHARES = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
MOVES = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.4, 0.3], [0.05, 0.15, 0.8]], dtype=torch.float64)
Y = torch.tensor([-1.9, 0.3, 2.5, 1.2, -0.4, 3.3], dtype=torch.float64)


def twelve_sites(x, y=None):
    """A chain of binary sites with couplings to the site before the last."""
    z = []
    for i in range(12):
        logit = sum((COUPLINGS[i, j] * z[j] for j in range(max(0, i - 2), i)), COUPLINGS[i, i])
        z.append(pyro.sample(f"z{i}", dist.Bernoulli(logits=logit)))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(z[3] + 2 * z[11], 1.0), obs=y)


def enumerated(y):
    """Evidence, marginals, and pairs of the twelve sites, by all their 4096 states."""
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=12)), dtype=torch.float64)
    log_p = torch.zeros(len(states), dtype=torch.float64)
    for i in range(12):
        before = range(max(0, i - 2), i)
        logit = COUPLINGS[i, i] + sum(COUPLINGS[i, j] * states[:, j] for j in before)
        log_p = log_p + dist.Bernoulli(logits=logit).log_prob(states[:, i])
    loc = states[:, 3] + 2 * states[:, 11]
    log_p = log_p + dist.Normal(loc.unsqueeze(-1), 1.0).log_prob(y).sum(-1)
    p = log_p.softmax(0)
    return log_p.logsumexp(0), p @ states, states.T @ (p[:, None] * states)


def test_twelve_sites_agree_with_all_their_states():
    n = 4000
    posterior = infer(twelve_sites, Y[:3], n_draws=n)
    evidence, marginals, pairs = enumerated(Y[:3])
    assert posterior.diagnostics["method"] == "exact"
    torch.testing.assert_close(posterior.log_evidence, evidence, rtol=0, atol=1e-9)
    ours = torch.stack([posterior.probabilities(f"z{i}") for i in range(12)])
    torch.testing.assert_close(ours[:, 1], marginals, rtol=0, atol=1e-9)
    torch.testing.assert_close(ours.sum(-1), torch.ones(12, dtype=torch.float64))
    draws = torch.stack([posterior.draws[f"z{i}"] for i in range(12)], -1)
    error = (pairs * (1 - pairs) / n).sqrt() + 1 / n
    assert ((draws.T @ draws / n - pairs).abs() < 5 * error).all()


def hidden_chain(x, y=None):
    state = None
    for t in pyro.markov(range(len(x))):
        law = dist.Categorical(SHARES if state is None else MOVES[state])
        state = pyro.sample(f"state{t}", law)
        pyro.sample(f"row{t}", dist.Normal(MEANS[state], 1.0), obs=x[t, 0])
    return pyro.sample("y", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1), obs=y)


def forward_backward(rows):
    """Log evidence, marginals ``(time, states)``, and pairs of neighbours, of the hidden chain."""
    seen = dist.Normal(MEANS, 1.0).log_prob(rows.unsqueeze(-1))
    forward, backward = [SHARES.log() + seen[0]], [torch.zeros(3, dtype=torch.float64)]
    for each in seen[1:]:
        forward.append((forward[-1][:, None] + MOVES.log()).logsumexp(0) + each)
    for each in seen[1:].flip(0):
        backward.append((MOVES.log() + each + backward[-1]).logsumexp(1))
    backward = backward[::-1]
    evidence = forward[-1].logsumexp(0)
    pairs = forward[0][:, None] + MOVES.log() + seen[1] + backward[1]
    return (
        evidence,
        (torch.stack(forward) + torch.stack(backward)).softmax(-1),
        (pairs - evidence).exp(),
    )


@pytest.mark.parametrize("n", [6, 402])
def test_a_hidden_chain_agrees_with_forward_backward(n):
    rows = Y.repeat(n // 6)
    zeros = torch.zeros(n, dtype=torch.float64)
    posterior = infer(hidden_chain, rows.unsqueeze(-1), zeros, n_draws=2000)
    evidence, marginals, pairs = forward_backward(rows)
    constant = dist.Normal(0.0, 1.0).log_prob(zeros).sum()
    torch.testing.assert_close(posterior.log_evidence, evidence + constant, rtol=0, atol=1e-9)
    ours = torch.stack([posterior.probabilities(f"state{t}") for t in range(n)])
    torch.testing.assert_close(ours, marginals, rtol=0, atol=1e-9)
    first, second = posterior.draws["state0"], posterior.draws["state1"]
    counts = torch.bincount(3 * first + second, minlength=9).reshape(3, 3) / len(first)
    p = pairs / pairs.sum()
    assert ((counts - p).abs() < 5 * (p * (1 - p) / 2000).sqrt() + 1e-3).all()


def by_items(x, y=None):
    """Dawid and Skene's items, each with the answers of three raters of known skill."""
    skill = torch.tensor([0.9, 0.6, 0.7], dtype=x.dtype)
    with pyro.plate("items", len(x)):
        truth = pyro.sample("truth", dist.Bernoulli(0.4))
        chance = torch.where(truth.unsqueeze(-1) > 0, skill, 1 - skill)
        return pyro.sample("y", dist.Bernoulli(chance).to_event(1), obs=y)


def test_truths_of_items_given_their_answers():
    answers = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    posterior = infer(by_items, torch.zeros(2, 0), answers)
    skill = torch.tensor([0.9, 0.6, 0.7], dtype=torch.float64)
    yes = 0.4 * torch.where(answers > 0, skill, 1 - skill).prod(-1)
    no = 0.6 * torch.where(answers > 0, 1 - skill, skill).prod(-1)
    torch.testing.assert_close(posterior.probabilities("truth")[:, 1], yes / (yes + no))
    torch.testing.assert_close(posterior.log_evidence, (yes + no).log().sum())
    assert posterior.draws["truth"].shape == (1000, 2)


def components(x, y=None):
    centre = pyro.sample("centre", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(SHARES))
        return pyro.sample("y", dist.Normal(centre + MEANS[z], 0.7), obs=y)


def grid_of_components(y):
    """The mixture's posterior by quadrature: probabilities of z and predictive density at y*=0."""
    centre = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    each = SHARES.log() + dist.Normal(centre[:, None, None] + MEANS, 0.7).log_prob(y[:, None])
    log_p = dist.Normal(0.0, 1.0).log_prob(centre) + each.logsumexp(-1).sum(-1)
    weight = log_p.softmax(0)
    new = (SHARES * dist.Normal(centre[:, None] + MEANS, 0.7).log_prob(torch.zeros(())).exp()).sum(
        -1
    )
    return (
        (weight[:, None, None] * each.softmax(-1)).sum(0),
        (weight * new).sum().log(),
        weight @ (centre + SHARES @ MEANS),
    )


@pytest.mark.parametrize("many", [False, True])
def test_components_of_rows_and_their_predictive(many):
    y = Y.expand(2, -1) if many else Y
    posterior = infer(components, torch.zeros(*y.shape, 0), y, method="smc", n_draws=2000)
    expected, log_new, mean_new = grid_of_components(Y)
    ours = posterior.probabilities("z")
    assert ours.shape == (*y.shape, 3) and posterior.draws["z"].shape == (2000, *y.shape)
    assert ((ours - expected).abs() < 0.03).all()
    each = (posterior.draws["z"].unsqueeze(-1) == torch.arange(3)).double().mean(0)
    assert ((each - ours).abs() < 5 * 0.5 / math.sqrt(2000)).all()
    predictive = posterior.predictive(torch.zeros(*y.shape[:-1], 4, 0))
    assert predictive.mean.shape == (*y.shape[:-1], 4)
    assert ((predictive.log_prob(torch.zeros(predictive.mean.shape)) - log_new).abs() < 0.03).all()
    assert ((predictive.mean - mean_new).abs() < 0.05).all()
    draws = predictive.sample((4000,))
    slack = 5 * predictive.variance.max().sqrt() / math.sqrt(2000)  # draws of few particles
    assert ((draws.mean(0) - predictive.mean).abs() < slack).all()
    level = torch.full_like(predictive.mean, 0.3)
    torch.testing.assert_close(predictive.cdf(predictive.icdf(level)), level)


def both_kinds(x, y=None):
    """A switch for all rows, one for each group, and one for each row."""
    scale = pyro.sample("scale", dist.Categorical(torch.tensor([0.5, 0.5])))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.2 + 0.5 * scale))
        return pyro.sample("y", dist.Normal(3 * z, 1.0 + scale), obs=y)


def test_switches_inside_and_outside_of_a_plate():
    posterior = infer(both_kinds, Y, n_draws=4000)
    logs, of_rows = [], []
    for scale in (0, 1):
        p = torch.tensor([0.8 - 0.5 * scale, 0.2 + 0.5 * scale], dtype=torch.float64)
        values = torch.tensor([0.0, 3.0], dtype=torch.float64)
        each = p.log() + dist.Normal(values, 1.0 + scale).log_prob(Y[:, None])
        logs.append(math.log(0.5) + each.logsumexp(-1).sum())
        of_rows.append(each.softmax(-1))
    p = torch.stack(logs).softmax(0)
    torch.testing.assert_close(posterior.log_evidence, torch.stack(logs).logsumexp(0))
    torch.testing.assert_close(posterior.probabilities("scale"), p)
    torch.testing.assert_close(posterior.probabilities("z"), p[0] * of_rows[0] + p[1] * of_rows[1])
    # Jointly: the rows' shares among draws with one scale are those given this scale.
    chosen = posterior.draws["scale"] == 1
    shares = posterior.draws["z"][chosen].mean(0)
    assert ((shares - of_rows[1][:, 1]).abs() < 5 * 0.5 / chosen.sum().sqrt()).all()
    predictive = posterior.predictive(torch.zeros(1, 0))
    mean = 3 * (0.2 + 0.5 * posterior.draws["scale"].double().mean())
    torch.testing.assert_close(predictive.mean, mean.reshape(1))


def test_integers_are_summarised_like_other_numbers():
    posterior = infer(components, Y, n_draws=200)
    assert posterior.draws["z"].dtype == torch.int64
    row = posterior.summary()["z[2]"]
    assert row["q5"] in (0, 1, 2) and 0 <= row["mean"] <= 2
    assert posterior.quantile(0.5)["z"].shape == (6,)
    (mode,) = posterior.mode_shares()
    assert set(mode["mean"]) == {"centre"}


def test_only_discrete_latents_have_probabilities():
    posterior = infer(components, Y, n_draws=10)
    with pytest.raises(ValueError, match=r"among \['z'\]; got 'centre'"):
        posterior.probabilities("centre")
    with pytest.raises(ValueError, match="method='exact' or 'auto'"):
        infer(both_kinds, Y, method="smc")


def padded(x, y=None):
    """A chain whose steps after the third are masked."""
    state, p = torch.tensor(0), pyro.sample("p", dist.Beta(2.0, 2.0))
    for t in range(5):
        with pyro.poutine.mask(mask=t < 3):
            state = pyro.sample(f"z{t}", dist.Bernoulli(torch.where(state == 1, 0.8, 0.3)))
            pyro.sample(f"y{t}", dist.Bernoulli(0.1 + 0.8 * state * p), obs=y[t])


def test_masked_latents_keep_their_prior():
    """The evidence is that of the three steps that are not masked."""
    posterior = infer(padded, data={"x": [0.0], "y": [1.0, 0.0, 1.0, 1.0, 0.0]})
    grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)
    change = torch.tensor([[0.7, 0.3], [0.2, 0.8]], dtype=torch.float64)
    forward = change[0].expand(1000, 2)
    for t, seen in enumerate((1.0, 0.0, 1.0)):
        rate = torch.stack([torch.full_like(grid, 0.1), 0.1 + 0.8 * grid], -1)
        forward = (forward @ change if t else forward) * (rate if seen else 1 - rate)
    exact = (forward.sum(-1) * 6 * grid * (1 - grid)).mean().log()
    assert abs(posterior.log_evidence - exact) < 5 * posterior.log_evidence_error


@pytest.mark.parametrize("method", ["auto", "smc"])
def test_masked_continuous_latents_keep_their_prior(method):
    def aside(x, y=None):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=torch.tensor(False)):
            pyro.sample("unused", dist.Normal(3.0, 1.0))
        return pyro.sample("y", dist.Normal(mean, 1.0).expand([len(x)]).to_event(1), obs=y)

    posterior = infer(aside, [1.0, 2.0], method=method)
    covariance = torch.eye(2) + 1
    exact = dist.MultivariateNormal(torch.zeros(2), covariance).log_prob(torch.tensor([1.0, 2.0]))
    error = 0.0 if posterior.log_evidence_error is None else posterior.log_evidence_error
    assert abs(posterior.log_evidence - exact) < 5 * error + 1e-5
    assert abs(posterior.mean["unused"] - 3.0) < 0.2


ITEM = torch.tensor([0, 1, 2, 3, 0, 1])
ANSWERS = torch.tensor([0.0, 1.0, 1.0, 0.0, 2.0, 1.0], dtype=torch.float64)


def indexed(x, y=None):
    """Rows that index a discrete latent of another plate."""
    with pyro.plate("items", 4):
        z = pyro.sample("z", dist.Bernoulli(0.3))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(2 * z[..., x[:, 0].long()], 1.0), obs=y)


def in_one_event(x, y=None):
    z = pyro.sample("z", dist.Bernoulli(0.3).expand([4]).to_event(1))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(2 * z[..., x[:, 0].long()], 1.0), obs=y)


def in_a_loop(x, y=None):
    """What the message proposes: items and rows one by one."""
    z = [pyro.sample(f"z{i}", dist.Bernoulli(0.3)) for i in range(4)]
    for row, item in enumerate(ITEM.tolist()):
        pyro.sample(f"y{row}", dist.Normal(2 * z[item], 1.0), obs=y[row])


def a_row_for_each_item(x, y=None):
    """The other proposal: a column for each answer."""
    with pyro.plate("items", len(x)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        law = dist.Normal(2 * z.unsqueeze(-1).expand(*z.shape, 2), 1.0)
        return pyro.sample("y", law.to_event(1), obs=y)


def test_rows_that_index_another_plate_are_refused_with_two_programs_that_are_exact():
    x = ITEM.double().unsqueeze(-1)
    for method in ("exact", "auto"):
        with pytest.raises(ValueError, match=r"'z' lies in the plate.*one row of y.*in a loop"):
            infer(indexed, x, ANSWERS, method=method)
    with pytest.raises(ValueError, match=r"inside a pyro\.plate"):
        infer(in_one_event, x, ANSWERS)
    states = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)), dtype=torch.float64)
    chance = torch.tensor(0.3, dtype=torch.float64)
    log_p = dist.Bernoulli(chance).log_prob(states).sum(-1)
    log_p = log_p + dist.Normal(2 * states[:, ITEM], 1.0).log_prob(ANSWERS).sum(-1)
    marginals, evidence = log_p.softmax(0) @ states, log_p.logsumexp(0)
    looped = infer(in_a_loop, x, ANSWERS)
    torch.testing.assert_close(looped.log_evidence, evidence, rtol=0, atol=1e-9)
    ours = torch.stack([looped.probabilities(f"z{i}")[1] for i in range(4)])
    torch.testing.assert_close(ours, marginals, rtol=0, atol=1e-9)
    wide = torch.full((4, 2), torch.nan, dtype=torch.float64)
    wide[:, 0], wide[:2, 1] = ANSWERS[:4], ANSWERS[4:]
    rows = infer(a_row_for_each_item, torch.zeros(4, 0), wide)
    torch.testing.assert_close(rows.log_evidence, evidence, rtol=0, atol=1e-9)
    torch.testing.assert_close(rows.probabilities("z")[:, 1], marginals, rtol=0, atol=1e-9)


def test_constants_in_single_precision_give_probabilities():
    """A chain whose constants are float32, with data in double precision, by enumeration."""
    moves = torch.tensor([[0.8, 0.2], [0.3, 0.7]])
    means = torch.tensor([-1.0, 2.0])

    def chain(y):
        state = torch.tensor(0)
        for t in pyro.markov(range(len(y))):
            state = pyro.sample(f"state{t}", dist.Categorical(moves[state]))
            pyro.sample(f"y{t}", dist.Normal(means[state], 1.0), obs=y[t])

    y = torch.tensor([-0.5, 0.7, 1.5], dtype=torch.float64)
    posterior = infer(chain, data={"y": y})
    joint = torch.zeros(2, 2, 2, dtype=torch.float64)
    for path in itertools.product(range(2), repeat=3):
        at = 0
        for state, value in zip(path, y, strict=True):
            law = torch.distributions.Normal(means[state].double(), 1.0)
            joint[path] += moves[at, state].double().log() + law.log_prob(value)
            at = state
    shares = joint.exp() / joint.exp().sum()
    for t in range(3):
        expected = shares.sum([axis for axis in range(3) if axis != t])
        found = posterior.probabilities(f"state{t}").double()
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
