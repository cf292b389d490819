"""Task batches are checked when they are made, and priors are pure functions of their arguments."""

import random
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from amortized.priors import GaussianProcessPrior, LinearRegressionPrior, Prior, named_prior
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.mixture import MixturePrior
from amortized.priors.named import PRIORS
from amortized.priors.prior import split
from amortized.priors.task import TaskBatch
from amortized.training import TrainingConfig
from amortized.training.data import NumberedBatches, batch_seed

MADE = {
    "linear regression": lambda: LinearRegressionPrior(2),
    "fixed gp": lambda: GaussianProcessPrior(
        lengthscale=0.5, outputscale=1.0, noise=0.1, n_features=(1, 4)
    ),
    "mixture": lambda: MixturePrior([LinearRegressionPrior(2), LinearRegressionPrior(2)], [1, 2]),
} | {name: PRIORS[name] for name in ("gp", "gp-1d")}  # tables have laws of their own
# Its context and query are not alike: one row of context is standardised to 0.
PURE = MADE | {"standardised by context": lambda: ContextStandardised(LinearRegressionPrior(2))}
each_prior = pytest.mark.parametrize("make", MADE.values(), ids=MADE)
each_pure = pytest.mark.parametrize("make", PURE.values(), ids=PURE)


def tensors(batch):
    named = {n: getattr(batch, n) for n in ("x_context", "y_context", "x_query", "y_query")}
    return named | dict(batch.latents or {})


def same(one, other):
    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


@each_pure
def test_equal_arguments_give_equal_tasks(make):
    first = make().sample(4, 6, 3, seed=5)
    assert same(first, make().sample(4, 6, 3, seed=5))
    other = make().sample(4, 6, 3, seed=6)
    assert first.n_features != other.n_features or not same(first, other)


@each_pure
def test_equal_tasks_whatever_was_drawn_before(make):
    first = make().sample(4, 6, 3, seed=5)
    torch.randn(17), np.random.rand(), random.random()
    assert same(first, make().sample(4, 6, 3, seed=5))


@each_pure
def test_sampling_leaves_the_random_state_alone(make):
    # Not Python's own state: the checks of shapes, which tests alone have, draw from it.
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    make().sample(4, 6, 3, seed=5)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


@each_prior
@pytest.mark.parametrize("n_context, n_query", [(6, 3), (0, 3), (6, 0), (1, 1)])
def test_shapes(make, n_context, n_query):
    batch = make().sample(4, n_context, n_query, seed=0)
    assert (batch.n_tasks, batch.n_context, batch.n_query) == (4, n_context, n_query)
    assert batch.x_query.shape == (4, n_query, batch.n_features)
    assert all(t.isfinite().all() and t.dtype == torch.float32 for t in tensors(batch).values())
    assert not any(t.requires_grad for t in tensors(batch).values())
    assert all(len(latent) == 4 for latent in batch.latents.values())


@each_prior
def test_context_and_query_are_alike(make):
    """The first row and the last have the same law: a split at another place is as good."""
    batch = make().sample(2000, 1, 1, seed=0)
    one, other = batch.y_context[:, 0], batch.y_query[:, 0]
    assert abs(one.std() / other.std() - 1) < 0.15
    assert abs(one.mean() - other.mean()) < 6 * one.std() / 2000**0.5


CONFIG = TrainingConfig(n_steps=7, n_tasks=3, n_context=(0, 5), n_query=2)


@pytest.fixture(scope="module")
def steps():
    return list(NumberedBatches(named_prior("gp"), CONFIG))


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_any_number_of_workers_draws_the_same_batches(steps, n_workers):
    batches = NumberedBatches(named_prior("gp"), CONFIG)
    loaded = list(DataLoader(batches, batch_size=None, num_workers=n_workers))
    assert len(loaded) == len(steps) == 7
    assert all(same(one, other) for one, other in zip(loaded, steps, strict=True))


def test_a_resumed_run_goes_on_with_the_next_batch(steps):
    resumed = list(NumberedBatches(named_prior("gp"), CONFIG, seen=lambda: 4))
    assert all(same(one, other) for one, other in zip(resumed, steps[4:], strict=True))


def test_devices_share_the_sizes_and_not_the_tasks():
    one, other = (
        NumberedBatches(named_prior("gp-1d"), CONFIG, rank=rank).batch(3) for rank in (0, 1)
    )
    assert one.n_context == other.n_context and not torch.equal(one.x_query, other.x_query)


@pytest.mark.parametrize("log_uniform", [False, True])
def test_context_sizes_span_the_range(log_uniform):
    config = replace(CONFIG, n_tasks=1, n_context=(1, 20), log_uniform_context=log_uniform)
    batches = NumberedBatches(LinearRegressionPrior(1, variance=1.0), config)
    sizes = np.array([batches.batch(step).n_context for step in range(400)])
    assert (sizes.min(), sizes.max()) == (1, 20)
    expected = 21**0.5 if log_uniform else 10.5
    assert np.median(sizes) == pytest.approx(expected, abs=1.5)


def test_seeds_of_steps_differ():
    seeds = {
        batch_seed(seed, step, rank) for seed in range(5) for step in range(50) for rank in range(4)
    }
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)


def test_named_priors_are_the_documented_ones():
    for name, n_features in {"gp-1d": (1, 1), "gp": (1, 10)}.items():
        prior = named_prior(name)
        assert prior.n_features == n_features
        seen = {prior.sample(1, 1, 1, seed=seed).n_features for seed in range(60)}
        assert (min(seen), max(seen)) == n_features
    one = named_prior("gp-1d").sample(500, 10, 10, seed=0)
    x, latents = torch.cat([one.x_context, one.x_query], 1), one.latents
    assert x.min() >= -2 and x.max() <= 2 and x.std() == pytest.approx(4 / 12**0.5, rel=0.02)
    assert 0.1 <= latents["lengthscale"].min() and latents["lengthscale"].max() <= 0.6
    assert 0.1 <= latents["outputscale"].min() and latents["outputscale"].max() <= 1.0


def test_split_cuts_where_it_is_told():
    x, y = torch.randn(2, 5, 3), torch.randn(2, 5)
    batch = split(x, y, 2, {"scale": torch.ones(2)})
    assert torch.equal(torch.cat([batch.x_context, batch.x_query], 1), x)
    assert torch.equal(torch.cat([batch.y_context, batch.y_query], 1), y)
    assert batch.n_context == 2 and batch.latents["scale"].shape == (2,)


def test_moving_keeps_everything():
    mask = torch.ones(2, 3, dtype=torch.bool)
    batch = replace(task(latents={"scale": torch.ones(2, 4)}), context_mask=mask)
    moved = batch.to("meta")
    assert moved.x_context.device.type == moved.latents["scale"].device.type == "meta"
    assert moved.context_mask.shape == (2, 3) and moved.query_mask is None
    assert same(batch.to("cpu"), batch)


def test_a_batch_does_not_change():
    with pytest.raises(FrozenInstanceError):
        task().x_context = torch.zeros(2, 3, 1)


def task(**changed):
    parts = {
        "x_context": torch.zeros(2, 3, 1),
        "y_context": torch.zeros(2, 3),
        "x_query": torch.zeros(2, 4, 1),
        "y_query": torch.zeros(2, 4),
    }
    return TaskBatch(**(parts | changed))


class _NoSample(Prior):
    pass


def drawn(n_tasks=1, n_context=1, n_query=1):
    return LinearRegressionPrior(1).sample(n_tasks, n_context, n_query, seed=0)


WRONG = {
    "x without features": (
        lambda: task(x_context=torch.zeros(2, 3)),
        r"Expected x_context \(batch, context, features\).*got \(2, 3\) and \(2, 3\)",
    ),
    "more x than y": (
        lambda: task(x_query=torch.zeros(2, 5, 1)),
        r"Expected x_query .* got \(2, 5, 1\) and \(2, 4\)",
    ),
    "other features": (
        lambda: task(x_query=torch.zeros(2, 4, 2)),
        r"same batch and features; got x_context \(2, 3, 1\) and x_query \(2, 4, 2\)",
    ),
    "other tasks": (
        lambda: task(x_query=torch.zeros(3, 4, 1), y_query=torch.zeros(3, 4)),
        "same batch and features",
    ),
    "short mask": (
        lambda: task(context_mask=torch.ones(2, 4, dtype=torch.bool)),
        r"context_mask of shape \(2, 3\); got \(2, 4\)",
    ),
    "short latent": (
        lambda: task(latents={"scale": torch.ones(3)}),
        r"latent 'scale' with 2 tasks .* got shape \(3,\)",
    ),
    "no tasks": (lambda: drawn(n_tasks=0), "n_tasks to be an integer >= 1; got 0"),
    "negative context": (lambda: drawn(n_context=-1), "n_context to be an integer >= 0; got -1"),
    "half a query": (lambda: drawn(n_query=1.5), "n_query to be an integer >= 0; got 1.5"),
    "unknown prior": (lambda: named_prior("gpp"), r"among \['gp', 'gp-1d', .*; got 'gpp'"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_use_is_refused(wrong, no_shape_checks):
    call, message = wrong
    with pytest.raises(ValueError, match=message):
        call()


def test_a_prior_must_say_how_it_samples():
    with pytest.raises(TypeError, match="_sample"):
        _NoSample()
