"""The network's own laws; its weights here are random, as the laws hold for any."""

from dataclasses import replace

import pytest
import torch

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks import PFN, PFNConfig
from amortized.networks.layers.blocks import Attention
from amortized.priors import GaussianProcessPrior, LinearRegressionPrior

CONFIG = PFNConfig(
    n_features=3, max_context=30, d_model=32, n_heads=4, n_layers=2, d_hidden=48, n_bars=30
)


@pytest.fixture
def network():
    """With random weights everywhere; as made, its output projections are zero."""
    network = PFN(CONFIG, torch.linspace(-3, 3, 31))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


@pytest.fixture
def task():
    prior = GaussianProcessPrior(lengthscale=1.0, outputscale=1.0, noise=0.1, n_features=3)
    return prior.sample(4, 9, 6, seed=0)


def predict(network, task):
    return network(task.x_context, task.y_context, task.x_query, task.context_mask).logits


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def rows(task, order):
    return replace(task, x_context=task.x_context[:, order], y_context=task.y_context[:, order])


@pytest.mark.parametrize("n_context", [0, 1, 9])
def test_cached_is_uncached(network, task, n_context):
    task = rows(task, slice(n_context))
    context = network.encode(task.x_context, task.y_context)
    same(network.decode(context, task.x_query).logits, predict(network, task))


def test_cached_is_uncached_with_a_mask(network, task):
    mask = torch.arange(9).expand(4, 9) < torch.tensor([[9], [5], [1], [0]])
    masked = replace(task, context_mask=mask)
    context = network.encode(task.x_context, task.y_context, mask)
    same(network.decode(context, task.x_query).logits, predict(network, masked))


def test_extended_context_is_one_whose_earlier_rows_were_encoded_without_the_later(network, task):
    first, last = rows(task, slice(8)), rows(task, [8])
    context = network.encode(first.x_context, first.y_context)
    context = network.extend(context, last.x_context, last.y_context)
    whole = network.encode(task.x_context, task.y_context)
    for i, encoded in enumerate(whole.keys_values[0]):
        extended = torch.cat([context.keys_values[0][i], context.appended[0][i]], 2)
        same(extended, encoded)  # in the first block no row has seen another
    one_block = PFN(replace(CONFIG, n_layers=1), network.borders).eval()
    one_block.load_state_dict(network.state_dict(), strict=False)
    context = one_block.encode(first.x_context, first.y_context)
    context = one_block.extend(context, last.x_context, last.y_context)
    same(one_block.decode(context, task.x_query).logits, predict(one_block, task))


def test_extended_context_keeps_its_mask(network, task):
    mask = torch.arange(8).expand(4, 8) < 5
    first, last = rows(task, slice(8)), rows(task, [8])
    context = network.encode(first.x_context, first.y_context, mask)
    context = network.extend(context, last.x_context, last.y_context)
    short = rows(task, slice(5))
    other = network.encode(short.x_context, short.y_context)
    other = network.extend(other, last.x_context, last.y_context)
    same(*(network.decode(c, task.x_query).logits for c in (context, other)))


def test_continuations_share_a_context(network, task):
    """Each is as if the context had been encoded for it alone; the rows are appended in turn."""
    mask = torch.arange(9).expand(4, 9) < torch.tensor([[9], [5], [1], [0]])
    repeated = task.x_context.repeat(3, 1, 1), task.y_context.repeat(3, 1), mask.repeat(3, 1)
    copies = network.encode(*repeated)
    shared = network.encode(task.x_context, task.y_context, mask)
    query = torch.randn(12, 5, 3)
    same(network.decode(shared, query).logits, network.decode(copies, query).logits)
    for n in (1, 2):
        x, y = torch.randn(12, n, 3), torch.randn(12, n)
        shared, copies = network.extend(shared, x, y), network.extend(copies, x, y)
        same(network.decode(shared, query).logits, network.decode(copies, query).logits)
    assert shared.n_tasks == 12 and len(shared.keys_values[0][0]) == 4
    with pytest.raises(ValueError, match=r"x_query of shape \(12, query, 3\)"):
        network.decode(shared, query[:4])
    with pytest.raises(ValueError, match=r"x_query of shape \(4, query, 3\)"):
        network.decode(network.encode(task.x_context, task.y_context), query[:6])


def test_queries_do_not_see_each_other(network, task):
    together = predict(network, task)
    context = network.encode(task.x_context, task.y_context)
    for i in range(task.n_query):
        same(
            predict(
                network, replace(task, x_query=task.x_query[:, [i]], y_query=task.y_query[:, [i]])
            ),
            together[:, [i]],
        )
        same(network.decode(context, task.x_query[:, [i]]).logits, together[:, [i]])
    other = task.x_query.clone()
    other[:, 1:] += 10
    same(predict(network, replace(task, x_query=other))[:, 0], together[:, 0])
    assert (
        predict(network, replace(task, x_query=other))[:, 1:] - together[:, 1:]
    ).abs().max() > 0.1


def test_tasks_do_not_see_each_other(network, task):
    together = predict(network, task)
    alone = [
        network(task.x_context[[i]], task.y_context[[i]], task.x_query[[i]]).logits
        for i in range(4)
    ]
    same(torch.cat(alone), together)


def test_context_order_does_not_matter(network, task):
    same(predict(network, rows(task, torch.randperm(9))), predict(network, task))


def test_context_matters(network, task):
    for part in ("x_context", "y_context"):
        changed = replace(task, **{part: getattr(task, part).flip(1)})
        assert (predict(network, changed) - predict(network, task)).abs().max() > 0.1


def test_a_mask_is_as_good_as_fewer_rows(network, task):
    mask = torch.arange(9).expand(4, 9) < 5
    rubbish = replace(
        task,
        x_context=task.x_context.masked_fill(~mask[..., None], 7.0),
        y_context=task.y_context.masked_fill(~mask, -9.0),
        context_mask=mask,
    )
    same(predict(network, rubbish), predict(network, rows(task, slice(5))))


def test_no_context_and_none_that_exists_are_one(network, task):
    nothing = torch.zeros(4, 9, dtype=torch.bool)
    empty = predict(network, rows(task, slice(0)))
    same(predict(network, replace(task, context_mask=nothing)), empty)
    assert empty.isfinite().all()


def test_answers_are_not_read(network, task):
    changed = replace(task, y_query=task.y_query + 5)
    assert torch.equal(predict(network, changed), predict(network, task))
    shift = network.loss(changed) - network.loss(task)
    predictive = network(task.x_context, task.y_context, task.x_query)
    expected = predictive.log_prob(task.y_query) - predictive.log_prob(changed.y_query)
    torch.testing.assert_close(shift, expected.mean())


def test_masked_answers_do_not_count(network, task):
    mask = torch.arange(6).expand(4, 6) < 2
    rubbish = replace(task, y_query=task.y_query.masked_fill(~mask, 1e4), query_mask=mask)
    short = replace(task, x_query=task.x_query[:, :2], y_query=task.y_query[:, :2])
    torch.testing.assert_close(network.loss(rubbish), network.loss(short))


def test_missing_features_are_not_zeros(network, task):
    fewer = replace(task, x_context=task.x_context[..., :2], x_query=task.x_query[..., :2])
    zeros = replace(
        task,
        x_context=task.x_context * torch.tensor([1.0, 1.0, 0.0]),
        x_query=task.x_query * torch.tensor([1.0, 1.0, 0.0]),
    )
    assert (predict(network, fewer) - predict(network, zeros)).abs().max() > 1e-3


def test_a_new_network_answers_with_the_priors_marginal():
    """Zero logits between borders of equal mass: a sound start."""
    prior = LinearRegressionPrior(1, variance=0.2)
    network = PFN.new(prior, replace(CONFIG, n_features=1), seed=0)
    task = prior.sample(2000, 3, 1, seed=1)
    predictive = network(task.x_context, task.y_context, task.x_query)
    torch.testing.assert_close(predictive.masses, torch.full((2000, 1, 30), 1 / 30))
    level = predictive.cdf(task.y_query)
    assert abs(level.mean() - 0.5) < 0.03 and abs(level.std() - 12**-0.5) < 0.02


def test_new_networks_are_pure_in_the_seed():
    prior = LinearRegressionPrior(3, variance=0.2)
    before = torch.get_rng_state()
    one, again, other = (PFN.new(prior, CONFIG, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["embed_x.0.weight"], other["embed_x.0.weight"])


class _Rounded(LinearRegressionPrior):
    """Answers that are whole numbers, and so often equal."""

    def _sample(self, *sizes):
        batch = super()._sample(*sizes)
        return replace(batch, y_query=batch.y_query.round())


def test_ties_in_the_answers_give_fewer_bars():
    network = PFN.new(_Rounded(3, variance=0.2), CONFIG)
    assert network.config.n_bars == len(network.borders) - 1 < 30
    assert (network.borders.diff() > 0).all()


def test_every_parameter_has_a_gradient(task):
    """After one step: zero output projections let no gradient through at the very start."""
    network = PFN(CONFIG, torch.linspace(-3, 3, 31))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        network.loss(task).backward()
        optimizer.step()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_gradients_are_finite_where_a_task_has_no_context(task):
    network = PFN(CONFIG, torch.linspace(-3, 3, 31))
    mask = torch.arange(9).expand(4, 9) < torch.tensor([[9], [5], [1], [0]])
    network.loss(replace(task, context_mask=mask)).backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_bfloat16_is_close(network, task):
    with torch.autocast("cpu", torch.bfloat16):
        low = network(task.x_context, task.y_context, task.x_query)
    assert low.logits.dtype == torch.float32
    exact = network(task.x_context, task.y_context, task.x_query)
    assert (low.masses - exact.masses).abs().sum(-1).mean() < 0.1


def test_state_round_trip(network, task, tmp_path):
    torch.save(network.state_dict(), tmp_path / "state.pt")
    fresh = PFN(CONFIG).eval()
    fresh.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    # Not to the bit: where a tensor lies in memory decides how some kernels round.
    torch.testing.assert_close(predict(fresh, task), predict(network, task))


def x(*shape):
    return torch.zeros(shape)


WRONG = {
    "more features than it has": (
        lambda net: net(x(1, 2, 4), x(1, 2), x(1, 1, 4)),
        "Expected 1 to 3 features; got 4",
    ),
    "no features": (lambda net: net(x(1, 2, 0), x(1, 2), x(1, 1, 0)), "features; got 0"),
    "other features in the query": (
        lambda net: net(x(1, 2, 2), x(1, 2), x(1, 1, 1)),
        r"x_query of shape \(1, query, 2\), as the context; got \(1, 1, 1\)",
    ),
    "other features to decode": (
        lambda net: net.decode(net.encode(x(1, 2, 2), x(1, 2)), x(1, 1, 3)),
        r"x_query of shape \(1, query, 2\), as the context; got \(1, 1, 3\)",
    ),
    "other tasks in the query": (
        lambda net: net(x(2, 2, 3), x(2, 2), x(3, 1, 3)),
        r"x_query of shape \(2, query, 3\), as the context; got \(3, 1, 3\)",
    ),
    "fewer answers than inputs": (
        lambda net: net(x(1, 3, 3), x(1, 2), x(1, 1, 3)),
        r"y_context \(batch, context\); got \(1, 3, 3\) and \(1, 2\)",
    ),
    "a table without tasks": (lambda net: net(x(2, 3), x(2), x(1, 3)), "Expected x_context"),
    "a mask of another shape": (
        lambda net: net(x(1, 2, 3), x(1, 2), x(1, 1, 3), torch.ones(1, 3, dtype=torch.bool)),
        r"context_mask of shape \(1, 2\); got \(1, 3\)",
    ),
    "too few borders": (lambda net: PFN(CONFIG, torch.linspace(-3, 3, 30)), "31 borders; got"),
    "odd heads": (lambda net: Attention(20, 3), "multiple of 2"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, network, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call(network)


def test_forward_returns_a_distribution(network, task):
    predictive = network(task.x_context, task.y_context, task.x_query)
    assert isinstance(predictive, BarDistribution) and predictive.batch_shape == (4, 6)
