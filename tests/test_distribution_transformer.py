"""Laws of the Distribution Transformer, for networks of several problems with random weights."""

import dataclasses
import math

import pytest
import torch

from amortized.distributions.gaussian_mixture import GaussianMixture
from amortized.latent_priors import Hyperprior, LatentTasks, merge
from amortized.latent_priors.tasks import posterior_draws
from amortized.networks import DistributionTransformer, DistributionTransformerConfig
from amortized.networks.distribution_transformer import cross_entropy
from amortized.pretrained import load, save
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.priors.regression.normal_variance import NormalVariancePrior
from amortized.priors.simulators.ornstein_uhlenbeck import OrnsteinUhlenbeckPrior
from amortized.training import TrainingConfig, train

SMALL = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=2, d_hidden=16)
# name: program, rows of a dataset
PROBLEMS = {
    "mean": (NormalMeanPrior(), 3),
    "variance": (NormalVariancePrior(), 1),
    "mean and spread": (LinearModelPrior(0), 6),
    "line": (LinearModelPrior(1), 5),
    "series": (OrnsteinUhlenbeckPrior(), 25),
    "line by its summary": (LinearModelPrior(1), 5),
    "twelve latents": (LinearModelPrior(10), 30),
}


def size_for(name):
    return dataclasses.replace(SMALL, reads_rows=name != "line by its summary")


@pytest.fixture(scope="module", params=PROBLEMS)
def problem(request):
    """Tasks, a batch of them, and a network whose heads are no longer zero."""
    prior, n = PROBLEMS[request.param]
    tasks = LatentTasks(prior)
    network = DistributionTransformer.new(tasks, size_for(request.param), seed=0)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return tasks, tasks.sample(8, n, seed=1), network.eval()


SETS = [name for name, (prior, _) in PROBLEMS.items() if not getattr(prior, "ordered", 0)]
of_sets = pytest.mark.parametrize("problem", SETS, indirect=True)  # a series has order and length


def answer(network, batch, **changes):
    batch = dataclasses.replace(batch, **changes)
    with torch.no_grad():
        return network(batch.latent_prior, batch.observations, batch.masks, batch.summary)


def assert_equal(a, b, batch, atol=2e-3):
    points = batch.latent_prior.sample((5,))
    assert torch.allclose(a.log_prob(points), b.log_prob(points), atol=atol, rtol=1e-3)


def test_answers_are_mixtures(problem):
    _, batch, network = problem
    posterior = answer(network, batch)
    assert isinstance(posterior, GaussianMixture)
    assert posterior.batch_shape == (8,)
    assert posterior.log_prob(batch.u).isfinite().all()
    GaussianMixture(posterior.log_weights, posterior.means, posterior.scale_tril)  # checks values


def test_no_data_gives_back_the_prior_exactly(problem):
    _, batch, network = problem
    masks = {name: torch.zeros_like(mask) for name, mask in batch.masks.items()}
    points = batch.latent_prior.sample((5,))
    expected = batch.latent_prior.log_prob(points)
    assert torch.equal(answer(network, batch, masks=masks).log_prob(points), expected)
    without = answer(network, batch, observations={}, masks={})
    assert torch.equal(without.log_prob(points), expected)


def test_one_task_without_data_does_not_touch_the_others(problem):
    _, batch, network = problem
    masks = {name: mask.clone() for name, mask in batch.masks.items()}
    masks["data"][0] = False
    mixed, full = answer(network, batch, masks=masks), answer(network, batch)
    points = batch.latent_prior.sample()
    assert torch.allclose(mixed.log_prob(points)[1:], full.log_prob(points)[1:], atol=1e-3)
    assert torch.allclose(mixed.log_prob(points)[0], batch.latent_prior.log_prob(points)[0])


@of_sets
def test_order_of_rows_does_not_matter(problem):
    _, batch, network = problem
    order = torch.randperm(batch.observations["data"].shape[1])
    observations = {name: value[:, order] for name, value in batch.observations.items()}
    assert_equal(answer(network, batch), answer(network, batch, observations=observations), batch)


@of_sets
def test_padding_changes_nothing(problem):
    _, batch, network = problem
    pad = torch.nn.functional.pad
    padded = answer(
        network,
        batch,
        observations={"data": pad(batch.observations["data"], (0, 0, 0, 3), value=math.nan)},
        masks={"data": pad(batch.masks["data"], (0, 3), value=False)},
    )
    assert_equal(answer(network, batch), padded, batch)


def test_order_of_components_does_not_matter(problem):
    _, batch, network = problem
    order = torch.randperm(batch.latent_prior.n_components)
    turned = batch.latent_prior.map_tensors(lambda t: t[:, order])
    assert_equal(answer(network, batch), answer(network, batch, latent_prior=turned), batch, 2e-2)


def test_answers_do_not_depend_on_the_batch(problem):
    _, batch, network = problem
    whole = answer(network, batch)
    sketch = batch.summary and type(batch.summary)(*(t[:3] for t in batch.summary))
    with torch.no_grad():
        part = network(
            batch.latent_prior[:3],
            {name: value[:3] for name, value in batch.observations.items()},
            {name: mask[:3] for name, mask in batch.masks.items()},
            sketch,
        )
    points = batch.latent_prior.sample()
    assert torch.allclose(part.log_prob(points[:3]), whole.log_prob(points)[:3], atol=2e-3)


def test_network_does_not_read_the_answer(problem):
    _, batch, network = problem
    changed = dataclasses.replace(batch, u=batch.u + 1)
    assert torch.equal(answer(network, batch).means, answer(network, changed).means)


def test_every_parameter_has_a_gradient_after_one_step(problem):
    tasks, batch, trained = problem
    network = DistributionTransformer.new(tasks, trained.config, seed=0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(2):  # the first step moves the heads off zero, the second reaches behind them
        for _ in range(2):
            optimizer.zero_grad()
            network.loss(batch).backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
    dead = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not dead


def test_saving_and_loading(problem, tmp_path):
    _, batch, network = problem
    again = load(save(network, tmp_path / "dt"))
    assert again.config == network.config
    a, b = answer(network, batch), answer(again, batch)
    assert torch.allclose(a.mean, b.mean, atol=0.05 * float(a.stddev.max()))  # weights in float16


def test_an_untrained_network_starts_from_the_prior():
    tasks = LatentTasks(NormalMeanPrior(), Hyperprior(flat=0.0))
    batch = tasks.sample(50, 1, seed=0)
    start = answer(DistributionTransformer.new(tasks, SMALL), batch)
    assert batch.latent_prior.kl(start, 500).abs().max() < 0.05


def test_a_sketch_is_used_before_any_training():
    """With many rows least squares is nearly the posterior: its mean is close to the truth."""
    tasks = LatentTasks(LinearModelPrior(1), Hyperprior(flat=1.0, point=0.0, own=0.0))
    batch = tasks.sample(50, 400, seed=0)
    start = answer(DistributionTransformer.new(tasks, SMALL), batch)
    z = (start.mean - batch.u) / start.stddev
    assert 0.7 < z.square().mean().sqrt() < 1.3


def test_affine_equivariance():
    """With a sketch, moving and stretching latents and data together moves the answer along."""
    tasks = LatentTasks(LinearModelPrior(1))
    batch = tasks.sample(20, 30, seed=0)
    network = DistributionTransformer.new(tasks, SMALL)
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0]))
    offset = torch.tensor([0.0, 0.0, math.log(2.0)])  # y in half the unit: noise doubles
    prior = batch.latent_prior.propagate(matrix, offset)
    rows = batch.observations["data"]
    doubled = tasks.task(prior, batch.u, rows[..., :1], 2 * rows[..., 1])
    a, b = answer(network, batch), answer(network, doubled)
    assert torch.allclose(a.propagate(matrix, offset).mean, b.mean, atol=2e-2, rtol=1e-2)


def test_channels_can_be_missing_and_change_the_answer():
    config = dataclasses.replace(
        SMALL, dim=2, channels=("a", "b"), widths=(1, 2), lengths=(0, 3), n_components=3
    )
    network = DistributionTransformer(config).eval()
    for head in (network.head, network.sketch_head):
        torch.nn.init.normal_(head.weight, std=0.3)
    prior = GaussianMixture.from_moments(torch.zeros(4, 2), torch.eye(2).expand(4, 2, 2))
    a, b = torch.randn(4, 7, 1), torch.randn(4, 3, 2)
    answers = [network(prior, given).mean for given in ({"a": a}, {"b": b}, {"a": a, "b": b})]
    for i in range(3):
        assert answers[i].isfinite().all()
        assert not torch.allclose(answers[i], answers[i - 1], atol=1e-4)
    unseen = network(prior, {"a": a, "b": b}, {"b": torch.zeros(4, 3, dtype=torch.bool)})
    assert torch.allclose(unseen.mean, answers[0], atol=1e-2)


def test_larger_priors_are_merged_and_single_ones_serve_all():
    tasks = LatentTasks(NormalMeanPrior())
    network = DistributionTransformer.new(tasks, SMALL)
    batch = LatentTasks(NormalMeanPrior(), Hyperprior(n_components=12)).sample(6, 2, seed=0)
    large = answer(network, batch)
    small = answer(network, batch, latent_prior=merge(batch.latent_prior, 5))
    assert_equal(large, small, batch)
    one = GaussianMixture.from_moments(torch.zeros(1), torch.eye(1))
    assert network(one, batch.observations).batch_shape == (6,)


def test_training_learns_and_repeats_itself():
    """A few steps of `train` on a bare program bring the loss below that of the prior."""
    config = TrainingConfig(
        n_steps=25, n_tasks=64, n_context=(1, 3), optimizer="adamw", lr=1e-2, ema_decay=0.5
    )
    a, b = (train(NormalMeanPrior(), SMALL, config, progress=False) for _ in range(2))
    batch = LatentTasks(NormalMeanPrior()).sample(500, 3, seed=99)
    assert torch.equal(answer(a, batch).means, answer(b, batch).means)
    surprise = -answer(a, batch).log_prob(batch.u).mean()
    assert surprise < -batch.latent_prior.log_prob(batch.u).mean() - 0.1


@pytest.fixture(scope="module")
def means():
    """Tasks of a normal mean from one observation, and their exact posteriors."""
    batch = LatentTasks(NormalMeanPrior()).sample(4000, 1, seed=3)
    y = batch.observations["data"][:, 0, -1:]
    exact, _ = batch.latent_prior.update(y, torch.ones(len(y), 1, 1))
    return batch, exact


ANSWERS = {
    "exact": lambda batch, exact: exact,
    "latent prior": lambda batch, exact: batch.latent_prior,
    "half as wide": lambda batch, exact: GaussianMixture(
        exact.log_weights, exact.means, exact.scale_tril / 2
    ),
    "far off": lambda batch, exact: GaussianMixture(
        exact.log_weights, exact.means + 5.0, exact.scale_tril
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_weighted_draws_have_the_posterior_mean_whatever_was_answered(means, name):
    batch, exact = means
    torch.manual_seed(0)
    u, log_weights = posterior_draws(ANSWERS[name](batch, exact), batch, 8)
    off = (log_weights.softmax(0).unsqueeze(-1) * u).sum(0) - exact.mean
    assert abs(off.mean()) < 3 * off.std() / len(off) ** 0.5
    # By Rao and Blackwell it scatters no more than the posterior draw that every task comes with.
    assert off.std() < 1.01 * (batch.u - exact.mean).std()


@pytest.mark.parametrize("name", ANSWERS)
def test_cross_entropy_is_unbiased(means, name):
    batch, exact = means
    answered = ANSWERS[name](batch, exact)
    torch.manual_seed(0)
    plain = -answered.log_prob(batch.u)
    off = cross_entropy(answered, batch) - plain
    assert abs(off.mean()) < 3 * off.std() / len(off) ** 0.5
    simulated = dataclasses.replace(batch, density=None)
    assert torch.equal(cross_entropy(answered, simulated), plain)


def test_gradient_of_the_cross_entropy_is_quieter_at_the_posterior(means):
    """By the number of draws; and it has the same mean where the answer is off."""
    batch, exact = means

    def gradients(shift, tasks):
        shift = torch.full((tasks.n_tasks, 1, 1), shift, requires_grad=True)
        torch.manual_seed(0)
        answered = GaussianMixture(exact.log_weights, exact.means + shift, exact.scale_tril)
        cross_entropy(answered, tasks).sum().backward()
        return shift.grad.flatten()

    simulated = dataclasses.replace(batch, density=None)
    noisy, quiet = gradients(0.0, simulated), gradients(0.0, batch)
    assert quiet.std() < noisy.std() / 10
    noisy, quiet = gradients(0.3, simulated), gradients(0.3, batch)
    off = noisy - quiet
    assert abs(off.mean()) < 3 * off.std() / len(off) ** 0.5
    assert quiet.mean() > 3 * quiet.std() / len(quiet) ** 0.5


def test_a_task_without_data_has_its_own_latents_alone():
    batch = LatentTasks(NormalMeanPrior()).sample(4, 2, seed=0)
    batch.masks["data"][1] = False
    _, log_weights = posterior_draws(batch.latent_prior, batch, 3)
    alone = [w.tolist() == [0.0] + [-math.inf] * 3 for w in log_weights.T]
    assert alone == [False, True, False, False]


def network_of(dim=1, **changes):
    return DistributionTransformer(
        dataclasses.replace(
            SMALL, dim=dim, channels=("data",), widths=(1,), lengths=(0,), **changes
        )
    )


def normals(n, dim=1):
    return GaussianMixture.from_moments(torch.zeros(n, dim), torch.eye(dim).expand(n, dim, dim))


DATA = torch.zeros(4, 3, 1)
WRONG = {
    "other latents": (lambda: network_of()(normals(4, 2), {"data": DATA}), "1 latents"),
    "other batch": (lambda: network_of()(normals(3), {"data": DATA}), "one batch"),
    "no such channel": (lambda: network_of()(normals(4), {"image": DATA}), "channels among"),
    "width": (lambda: network_of()(normals(4), {"data": torch.zeros(4, 3, 2)}), "of shape"),
    "NaN": (lambda: network_of()(normals(4), {"data": DATA + math.nan}), "finite observations"),
    "mask": (
        lambda: network_of()(normals(4), {"data": DATA}, {"data": torch.ones(4, 2) > 0}),
        "mask of 'data'",
    ),
    "no summary": (
        lambda: network_of(n_sketch=2)(normals(4), {"data": DATA}),
        "a likelihood summary with 2 rows",
    ),
    "channels": (lambda: dataclasses.replace(SMALL, channels=("a",)), "width and a length"),
    "location": (lambda: dataclasses.replace(SMALL, dim=2, location=(0.0,)), "location with 2"),
    "series": (
        lambda: LatentTasks(OrnsteinUhlenbeckPrior()).sample(2, 7, seed=0),
        "n_context = 25",
    ),
}


@pytest.mark.parametrize(("make", "message"), WRONG.values(), ids=WRONG)
def test_wrong_inputs(make, message, no_shape_checks):
    with pytest.raises(ValueError, match=f"Expected.*{message}"):
        make()
