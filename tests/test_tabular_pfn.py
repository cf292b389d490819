"""The network over cells, by law: what may change its answer, and what may not."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical

from amortized.distributions.bar_distribution import BarDistribution
from amortized.networks import TabularPFN, TabularPFNConfig, new_network
from amortized.networks.layers.cells import CellDescription, column_groups, column_statistics
from amortized.networks.layers.decoders import class_slots
from amortized.pretrained import load, save
from amortized.priors import LinearRegressionPrior, TaskBatch, named_prior
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.tabular.table_mixtures import table_prior
from amortized.training import TrainingConfig, train
from amortized.training.data import NumberedBatches

SMALL = TabularPFNConfig(
    d_model=32,
    d_hidden=16,
    n_cell_blocks=2,
    n_row_blocks=1,
    d_row=48,
    n_retrieval_heads=2,
    n_thinking=3,
    n_bars=20,
    n_hashes=2,
)
TARGETS = ("classification", "regression")
each_target = pytest.mark.parametrize("target", TARGETS)


def network_of(target, **changes):
    """A network whose zero-initialised weights are random, so that every path matters."""
    network = TabularPFN(replace(SMALL, target=target, **changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.15 * torch.randn_like(parameter)
    return network


def batch_of(target, n_context=40, n_features=5):
    return table_prior(target, n_features=n_features).sample(3, n_context, 12, seed=0)


def answer(network, batch, **changes):
    batch = replace(batch, **changes)
    predictive = network(batch.x_context, batch.y_context, batch.x_query, batch.context_mask)
    return predictive.logits.detach()


def same(a, b, tolerance=2e-4):
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


@each_target
def test_forward_is_a_distribution(target):
    batch = batch_of(target)
    predictive = network_of(target)(batch.x_context, batch.y_context, batch.x_query)
    assert type(predictive) is (Categorical if target == "classification" else BarDistribution)
    assert predictive.batch_shape == (3, 12)
    assert predictive.log_prob(batch.y_query).shape == (3, 12)


def test_bars_of_a_new_network_hold_equal_mass_and_half_of_a_tail_lies_beyond():
    prior = ContextStandardised(LinearRegressionPrior(3))
    network = TabularPFN.new(prior, replace(SMALL, target="regression"))
    answers = torch.cat([prior.sample(32, 64, 64, seed=100 + i).y_query for i in range(20)])
    shares = torch.bucketize(answers, network.borders).flatten().bincount(minlength=22) / (
        answers.numel() / 20
    )
    same(shares[2:-2], torch.ones(18), 0.1)
    same(shares[[0, 1, -2, -1]], torch.full((4,), 0.5), 0.1)


def hashes_of(context, values, n=3):
    describe = CellDescription(n)
    described = describe(values[None, :, None], column_statistics(context[None, :, None]))
    return described[0, :, 0, -2 * n :]


def test_hashes_say_which_of_the_repeated_values_it_is():
    context = torch.tensor([0.1, 0.1, 0.2, 5.0, 5.0, 5.0, float("nan")])
    found = hashes_of(context, torch.tensor([0.1, 0.2, 5.0, 3.0, float("nan"), 9.0]))
    assert (found[3:] == 0).all()  # values that the context lacks, and missing ones
    # Six known values, three different ones: each of the three circles has a radius of a half.
    torch.testing.assert_close((found @ found.T).diagonal()[:3], torch.full((3,), 3 * 0.25))
    assert (found[:3] @ found[:3].T - 0.75 * torch.eye(3)).triu(1).max() < 0.7
    bent = hashes_of(context.exp(), torch.tensor([0.1, 0.2, 5.0]).exp())
    torch.testing.assert_close(bent, found[:3])
    assert (hashes_of(torch.randn(40), torch.randn(9)) == 0).all()


def test_codes_of_many_levels_stay_apart():
    levels = torch.arange(200.0)
    found = hashes_of(levels.repeat(50), levels, n=4)
    likeness = (found @ found.T) / found.square().sum(-1)
    assert (likeness - torch.eye(200)).max() < 0.95


def test_too_many_hashes_are_refused():
    with pytest.raises(ValueError, match="n_hashes from 0 to 8; got 9"):
        TabularPFN(replace(SMALL, n_hashes=9))


@each_target
def test_an_extended_network_answers_as_before_and_learns_from_what_is_new(target):
    batch, network = batch_of(target), network_of(target, n_hashes=0)
    wider = network.extended(replace(network.config, n_hashes=4, max_context=7)).eval()
    assert wider.config.max_context == 7 and wider.config.n_bars == network.config.n_bars
    same(answer(wider, batch), answer(network, batch), 1e-5)
    x = torch.randint(5, (3, 52, 5)).float()  # values that repeat
    repeated = replace(batch, x_context=x[:, :40], x_query=x[:, 40:])
    wider.loss(repeated).backward()
    new = wider.embed_cells.weight.grad.unflatten(1, (3, -1))[..., -8:]
    assert (new.abs().amax((0, 1)) > 0).all()


def test_absent_classes_have_no_probability():
    batch = batch_of("classification")
    probs = network_of("classification")(batch.x_context, batch.y_context, batch.x_query).probs
    for p, y in zip(probs, batch.y_context, strict=True):
        present = torch.zeros(10, dtype=torch.bool)
        present[y.unique().long()] = True
        assert (p[:, ~present] == 0).all() and (p[:, present] > 0).all()


def test_a_new_classifier_answers_with_the_class_frequencies():
    batch = batch_of("classification")
    predictive = TabularPFN(SMALL)(batch.x_context, batch.y_context, batch.x_query)
    frequency = torch.nn.functional.one_hot(batch.y_context.long(), 10).float().mean(1)
    same(predictive.probs, frequency[:, None].expand(-1, 12, -1), 1e-5)


@each_target
def test_context_order_does_not_matter(target):
    network, batch = network_of(target), batch_of(target)
    order = torch.randperm(batch.n_context)
    shuffled = answer(
        network, batch, x_context=batch.x_context[:, order], y_context=batch.y_context[:, order]
    )
    same(answer(network, batch), shuffled)


def test_renaming_the_classes_permutes_their_probabilities():
    network, batch = network_of("classification"), batch_of("classification")
    names = torch.randperm(10)
    renamed = answer(network, batch, y_context=names[batch.y_context.long()].float())
    same(answer(network, batch), renamed[..., names])


@each_target
def test_monotone_units_of_a_column_do_not_matter(target):
    network, batch = network_of(target), batch_of(target)
    scale, shift = torch.tensor([1e3, 1e-3, 1.0, 7.0, 2.0]), torch.tensor([5.0, 0.0, 1.0, 0.0, 0.0])
    rescaled = answer(
        network,
        batch,
        x_context=batch.x_context * scale + shift,
        x_query=batch.x_query * scale + shift,
    )
    same(answer(network, batch), rescaled, 5e-3)


@each_target
def test_circular_shift_of_columns_by_the_stride_does_not_matter(target):
    # With an even number of columns the groups are the same ones; any other order makes new ones.
    network, batch = network_of(target), batch_of(target, n_features=6)
    shifted = answer(
        network, batch, x_context=batch.x_context.roll(2, -1), x_query=batch.x_query.roll(2, -1)
    )
    same(answer(network, batch), shifted)


@each_target
def test_masked_rows_change_nothing(target):
    network, batch = network_of(target), batch_of(target)
    mask = torch.arange(batch.n_context) < torch.tensor([[40], [25], [31]])
    x, y = batch.x_context.clone(), batch.y_context.clone()
    masked = answer(network, batch, context_mask=mask)
    x[~mask], y[~mask] = 1e3, 1.0
    same(masked, answer(network, batch, x_context=x, y_context=y, context_mask=mask), 1e-5)
    alone = replace(
        batch,
        **{name: getattr(batch, name)[1:2] for name in ("x_query", "y_query")},
        x_context=batch.x_context[1:2, :25],
        y_context=batch.y_context[1:2, :25],
        latents=None,
    )
    same(masked[1:2], answer(network, alone))


@each_target
def test_cached_equals_uncached_and_queries_do_not_see_each_other(target):
    network, batch = network_of(target), batch_of(target)
    context = network.encode(batch.x_context, batch.y_context)
    together = network.decode(context, batch.x_query).logits
    same(together, answer(network, batch), 1e-6)
    parts = [network.decode(context, part).logits for part in batch.x_query.split(5, dim=1)]
    same(together, torch.cat(parts, dim=1), 1e-5)


@each_target
def test_tasks_do_not_see_each_other(target):
    network, batch = network_of(target), batch_of(target)
    single = network(batch.x_context[:1], batch.y_context[:1], batch.x_query[:1]).logits
    same(answer(network, batch)[:1], single, 1e-5)


@each_target
def test_answers_of_the_query_are_not_read(target):
    network, batch = network_of(target), batch_of(target)
    other = replace(batch, y_query=batch.y_query.flip(1))
    same(answer(network, batch), answer(network, other), 0.0)


@each_target
def test_every_parameter_has_a_gradient(target):
    network, batch = network_of(target).train(), batch_of(target)
    network.loss(batch).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@each_target
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30])
def test_missing_and_huge_cells_give_a_finite_loss_and_gradient(target, value):
    network, batch = network_of(target).train(), batch_of(target)
    x, asked = batch.x_context.clone(), batch.x_query.clone()
    x[:, ::3, 1], x[..., 2], asked[:, ::2, 0] = value, value, value
    loss = network.loss(replace(batch, x_context=x, x_query=asked))
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@each_target
@pytest.mark.parametrize(("n_context", "n_features"), [(1, 1), (2, 3), (70, 1), (5, 33)])
def test_any_size_of_table(target, n_context, n_features):
    batch = batch_of(target, n_context, n_features)
    assert answer(network_of(target), batch).isnan().sum() == 0


def test_regression_without_context():
    network = network_of("regression")
    predictive = network(torch.zeros(2, 0, 3), torch.zeros(2, 0), torch.randn(2, 4, 3))
    assert predictive.mean.isfinite().all()


def test_classes_that_the_context_lacks_are_left_out_of_the_loss():
    network = network_of("classification")
    x = torch.randn(1, 6, 2)
    labels = torch.tensor([[0.0, 1, 0, 1, 1, 0]])
    unseen = TaskBatch(x, labels, x[:, :2], torch.tensor([[5.0, 1.0]]))
    seen = TaskBatch(x, labels, x[:, 1:2], torch.tensor([[1.0]]))
    same(network.loss(unseen), network.loss(seen), 1e-5)


WRONG = {
    "class too large": (lambda n, x, y: n(x, y + 9, x), "classes 0 to 9"),
    "class not whole": (lambda n, x, y: n(x, y + 0.5, x), "classes 0 to 9"),
    "no context": (lambda n, x, y: n(x[:, :0], y[:, :0], x), "one row or more"),
    "other columns": (lambda n, x, y: n(x, y, x[..., :1]), "x_query with 3 features"),
    "target": (lambda n, x, y: TabularPFNConfig(target="ranking"), "target 'classification'"),
    "no cell block": (lambda n, x, y: TabularPFNConfig(n_cell_blocks=0), "n_cell_blocks from 1"),
    "narrow heads": (
        lambda n, x, y: TabularPFN(replace(SMALL, n_retrieval_heads=8)),
        "at least the 10 classes",
    ),
}


@pytest.mark.parametrize(("call", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(call, message, no_shape_checks):
    x, y = torch.randn(2, 4, 3), torch.tensor([[0.0, 1, 1, 0]] * 2)
    with pytest.raises(ValueError, match=message):
        call(network_of("classification"), x, y)


def test_description_of_a_column():
    x = torch.tensor([3.0, 1.0, 3.0, math.nan, 2.0])[None, :, None]
    value, rank, equals, missing = CellDescription()(x, column_statistics(x))[0, :, 0, :4].T
    same(rank, torch.tensor([0.5, -0.75, 0.5, 0.0, -0.25]), 1e-6)
    same(equals, torch.tensor([0.25, 0.0, 0.25, 0.0, 0.0]), 1e-6)
    assert missing.tolist() == [0, 0, 0, 1, 0]
    assert value[0] == value[2] > 0 > value[1]


@pytest.mark.parametrize("n_columns", [1, 2, 3, 7, 30])
def test_every_column_is_in_a_group(n_columns):
    groups = column_groups(n_columns, stride=2)
    assert len(groups) == math.ceil(n_columns / 2)
    assert set(groups.flatten().tolist()) == set(range(n_columns))


def test_slots_follow_frequency_then_the_tie_break():
    labels = torch.tensor([[4.0, 0.0, 4.0, 7.0, 0.0, 9.0]])
    ties = torch.tensor([[0.1, 0.9, 0.1, 0.2, 0.9, 0.8]])
    slots = class_slots(labels, ties, 10)
    assert slots.slot[0, [0, 4, 9, 7]].tolist() == [0, 1, 2, 3]
    same(slots.frequency[0, :5], torch.tensor([2.0, 2, 1, 1, 0]) / 6)


@each_target
def test_saved_and_loaded(target, tmp_path):
    network = network_of(target)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(parameter.half().float())  # what is stored
    again = load(save(network, tmp_path / "tables"))
    assert again.config == network.config
    batch = batch_of(target)
    same(answer(network, batch), answer(again, batch), 0.0)


@pytest.mark.parametrize("name", ["tabular-classifier", "tabular-regressor"])
def test_trains_on_its_named_prior(name):
    target = "classification" if name == "tabular-classifier" else "regression"
    prior = named_prior(name)
    size = replace(SMALL, target=target)
    config = TrainingConfig(n_steps=2, n_tasks=4, n_context=(16, 24), n_query=8, ema_decay=0.5)
    network = new_network(prior, size)
    start = deepcopy(network)
    train(prior, network, config, progress=False)
    assert not network.training
    changed = [
        name
        for (name, a), b in zip(network.named_parameters(), start.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert len(changed) > 10


def test_long_contexts_come_with_fewer_tasks():
    config = TrainingConfig(n_tasks=8, n_rows=120, n_context=(50, 50), n_query=10)
    assert NumberedBatches(table_prior(n_features=2), config).batch(0).n_tasks == 2


def test_learns_a_simple_table():
    def line(n_tasks, n_context, n_query, seed):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n_tasks, n_context + n_query, 2, generator=generator)
        direction = torch.randn(n_tasks, 1, 2, generator=generator)
        y = ((x * direction).sum(-1) > 0).float()
        return TaskBatch(x[:, :n_context], y[:, :n_context], x[:, n_context:], y[:, n_context:])

    torch.manual_seed(0)
    network = TabularPFN(SMALL)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for step in range(25):
        loss = network.loss(line(16, 30, 16, step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert network.loss(line(64, 30, 16, 10**6)) < 0.4  # guessing gives 0.69
