"""Training: it meets the exact posterior predictive, and a run that is cut loses nothing."""

import copy
import csv
import hashlib
import io
import math
import os
import random
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import lightning
import pyro
import pyro.distributions as dist
import pytest
import torch

from amortized import PFNRegressor, infer, load, save
from amortized.networks import PFN, DistributionTransformerConfig, PFNConfig, TabularPFNConfig
from amortized.priors import LinearRegressionPrior, ProgramPrior, named_prior
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.regression.linear_model import LinearModelPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.training import PriorDataModule, PriorFitting, TrainingConfig, train
from amortized.training.calibration import measure
from amortized.training.checkpoint import read_checkpoint, write_checkpoint
from amortized.training.data import NumberedBatches, batch_seed
from amortized.training.optimizer import MuonAdamW, cosine_to_zero

PRIOR = LinearRegressionPrior(1, variance=0.1, intercept=False)
TINY = PFNConfig(
    n_features=1, max_context=10, d_model=16, n_heads=2, n_layers=1, d_hidden=16, n_bars=20
)
STEPS = TrainingConfig(n_steps=12, n_tasks=4, n_context=(0, 5), n_query=3, checkpoint_every=4)


def fit(directory=None, prior=PRIOR, network=TINY, config=STEPS, **changed):
    return train(prior, network, replace(config, **changed), directory=directory, progress=False)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def uninterrupted():
    return fit()


# --- what it learns


GOOD = PFNConfig(
    n_features=1,
    max_context=20,
    d_model=32,
    n_heads=2,
    n_layers=2,
    d_hidden=64,
    n_bars=400,
    frequencies=(0.1, 1.0),
)
GOOD_STEPS = TrainingConfig(
    n_steps=600, n_tasks=64, n_context=(0, 20), n_query=32, lr=5e-3, muon_lr=2e-2, ema_decay=0.98
)


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    directory = tmp_path_factory.mktemp("good")
    return fit(directory, network=GOOD, config=GOOD_STEPS), directory


@pytest.mark.parametrize("n_context", [0, 1, 3, 10, 20])
def test_meets_the_exact_posterior_predictive(good, n_context):
    """Within 0.06 nats a query, where the prior predictive is off by much more.

    0.01 of them are the price of 400 bars for an answer that is a normal distribution.
    """
    network, _ = good
    task = PRIOR.sample(1000, n_context, 8, seed=10_000 + n_context)
    exact = PRIOR.posterior_predictive(task)
    with torch.inference_mode():
        found = network(task.x_context, task.y_context, task.x_query)
        nothing = network(task.x_context[:, :0], task.y_context[:, :0], task.x_query)
    best = exact.log_prob(task.y_query).mean()
    gap = best - found.log_prob(task.y_query).mean()
    assert -0.02 < gap < 0.06
    if n_context >= 3:
        assert best - nothing.log_prob(task.y_query).mean() > 0.2
        # Not only the right score: the right mean and spread of nearly every query.
        assert (found.mean - exact.mean).abs().median() < 0.1
        assert (found.stddev / exact.stddev - 1).abs().median() < 0.2


def test_ends_with_a_measured_calibration(good, tmp_path):
    """Which travels with the weights; a run that is to go on has none yet."""
    network, _ = good
    found = network.calibration
    assert found.n_datasets == 600 and found.n_context == (1, 4, 20)
    assert found.p_value > 1e-4 and found.deviation < 0.1 and found.doubts == []
    assert load(save(network, tmp_path / "own")).calibration == found
    assert fit(stop_at=1).calibration is None
    assert PFN(TINY).calibration is None and load("gp").calibration is None


def test_a_network_that_is_too_sure_is_found_out(good):
    """And estimators say so."""
    network = copy.deepcopy(good[0])
    with torch.no_grad():
        for part in (network.decoder.head.weight, network.decoder.head.bias):
            part.mul_(3.0)
    network.calibration = measure(network, PRIOR, GOOD_STEPS)
    assert network.calibration.p_value < 1e-4
    (doubt,) = network.calibration.doubts
    assert "not calibrated over its own prior (ranks of y deviate by" in doubt
    task = PRIOR.sample(1, 9, 0, seed=0)
    with pytest.warns(UserWarning, match="Predictions of this network are unreliable: its answers"):
        PFNRegressor(network).fit(task.x_context[0].numpy(), task.y_context[0].numpy())


def folded(x, y=None):
    """The sign of the latent is lost, and the answer has two narrow modes."""
    latent = pyro.sample("latent", dist.Normal(0.0, 2.0))
    return pyro.sample("y", dist.Normal(latent**2, 0.05).expand([len(x)]).to_event(1), obs=y)


def test_infer_says_that_a_network_is_poor():
    """One that has hardly been trained; in its training range all the same."""
    network = fit(
        prior=ProgramPrior(folded),
        network=DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1, n_components=3),
        n_context=(5, 5),
        n_steps=2,
    )
    assert network.calibration.efficiency < 0.25 and network.calibration.doubts
    y = torch.full((5,), 2.0)
    with pytest.warns(
        UserWarning, match="Do not trust this network's answer: .*importance weights"
    ):
        posterior = infer(folded, y, method="dt", network=network)
    assert bool(posterior.diagnostics["inside_training_range"])
    assert posterior.diagnostics["calibrated"] is False
    assert "efficiency of importance weights" in posterior.diagnostics["calibration"]


def test_classes_are_measured_at_random_within_their_step():
    prior = named_prior("tabular-classifier")
    size = replace(CELLS, target="classification", max_classes=2)
    network = fit(prior=prior, network=size, n_context=(20, 20), n_steps=1)
    assert 0 <= network.calibration.p_value <= 1 and network.calibration.n_context == (20,)
    assert network.calibration.n_datasets > 150


def test_writes_a_log_of_numbers(good):
    _, directory = good
    (log,) = directory.glob("logs/**/metrics.csv")
    rows = [row for row in csv.DictReader(log.read_text().splitlines()) if row["loss"]]
    assert len(rows) == 12 and int(rows[-1]["step"]) == 599
    losses = [float(row["loss"]) for row in rows]
    assert sum(losses[-6:]) / 6 < sum(losses[:3]) / 3
    assert all(float(row["skipped"]) == 0 for row in rows)


# --- runs that are cut


class _DyingPrior(LinearRegressionPrior):
    """The same prior, in a process that is killed when it asks for the batch of a step."""

    at = 7

    def sample(self, *sizes, seed, **options):
        if seed == batch_seed(STEPS.seed, self.at):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample(*sizes, seed=seed, **options)


def fit_and_die(directory):
    fit(directory, _DyingPrior(1, variance=0.1, intercept=False))


def test_a_killed_run_ends_with_the_same_weights(tmp_path, uninterrupted):
    command = (
        "import sys; sys.path.insert(0, 'tests'); import test_training as this; "
        "this.fit_and_die(sys.argv[1])"
    )
    died = subprocess.run(
        [sys.executable, "-c", command, tmp_path],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    kept = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert same(fit(tmp_path), uninterrupted)


class _InterruptedPrior(LinearRegressionPrior):
    """The same prior, which is asked for a batch while the user presses Ctrl-C."""

    at, times = 6, 1

    def sample(self, *sizes, seed, **options):
        if seed == batch_seed(STEPS.seed, self.at):
            for _ in range(self.times):
                signal.raise_signal(signal.SIGINT)
        return super().sample(*sizes, seed=seed, **options)


@pytest.mark.parametrize(("times", "kept"), [(1, 7), (2, 4)])
@pytest.mark.filterwarnings("ignore")
def test_ctrl_c_loses_nothing(tmp_path, uninterrupted, times, kept):
    prior = _InterruptedPrior(1, variance=0.1, intercept=False)
    prior.times = times
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, prior)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] in (kept - 1, kept)
    assert same(fit(tmp_path), uninterrupted)


def test_ctrl_c_without_a_directory():
    with pytest.raises(KeyboardInterrupt):
        fit(prior=_InterruptedPrior(1, variance=0.1, intercept=False))


def test_a_run_in_parts_ends_with_the_same_weights(tmp_path, uninterrupted):
    """Also with other workers and other checkpoints: they are no part of what is computed."""
    for stop_at, changed in ((3, {}), (5, {"n_workers": 1}), (10, {"checkpoint_every": 1})):
        part = fit(tmp_path, stop_at=stop_at, **changed)
        assert not same(part, uninterrupted)
    assert same(fit(tmp_path), uninterrupted)
    assert len(list(tmp_path.glob("logs/*"))) == 4  # no part wipes the log of the one before


def test_a_finished_run_gives_its_weights_again(tmp_path, uninterrupted):
    assert same(fit(tmp_path), uninterrupted)
    assert same(fit(tmp_path), uninterrupted)
    assert same(fit(tmp_path, stop_at=5), uninterrupted)


def test_a_run_depends_on_its_arguments_alone(uninterrupted):
    torch.manual_seed(99)
    assert same(fit(), uninterrupted)
    assert not same(fit(seed=1), uninterrupted)


CELLS = TabularPFNConfig(
    target="regression",
    d_model=32,
    d_hidden=16,
    n_cell_blocks=1,
    n_row_blocks=1,
    d_row=48,
    n_retrieval_heads=2,
    n_thinking=2,
    n_bars=20,
)


class _Recorded(LinearRegressionPrior):
    """The same prior; keeps the seeds of batches, but not those for borders and calibration."""

    def __init__(self):
        super().__init__(1, variance=0.1, intercept=False)
        self.seeds = []

    def sample(self, *sizes, seed, **options):
        if sizes[2] == STEPS.n_query:
            self.seeds.append(seed)
        return super().sample(*sizes, seed=seed, **options)


def of_batches(*numbers):
    return [batch_seed(STEPS.seed, number) for number in numbers]


def test_every_batch_of_a_run_that_accumulates_gradients_is_a_new_one(tmp_path):
    """Two batches a step; a run in parts ends with the same weights, and with the same batches."""
    prior, twice = _Recorded(), {"accumulate_grad_batches": 2, "progress": False}
    whole = train(prior, TINY, STEPS, **twice)
    assert prior.seeds == of_batches(*range(24))
    for stop_at, every in ((5, 4), (8, 3), (12, 5)):
        part = replace(STEPS, stop_at=stop_at, checkpoint_every=every)
        found = train(prior, TINY, part, directory=tmp_path, **twice)
    assert same(found, whole)
    assert set(prior.seeds) == set(of_batches(*range(24)))
    assert not same(whole, fit())


def test_a_checkpoint_holds_no_half_of_a_step(tmp_path):
    """A run that dies in the middle of a step, after the checkpoint of the step before."""
    twice = {"accumulate_grad_batches": 2, "progress": False}
    dying = _Dying()
    with pytest.raises(_Death):
        train(dying, TINY, STEPS, directory=tmp_path, **twice)
    assert torch.load(tmp_path / "last.ckpt", weights_only=False)["global_step"] == 4
    found = train(PRIOR, TINY, STEPS, directory=tmp_path, **twice)
    assert same(found, train(PRIOR, TINY, STEPS, **twice))


class _Death(Exception):
    pass


class _Dying(LinearRegressionPrior):
    """Raises at the second batch after the fourth step, of two batches each."""

    def __init__(self):
        super().__init__(1, variance=0.1, intercept=False)

    def sample(self, *sizes, seed, **options):
        if seed == batch_seed(STEPS.seed, 9):
            raise _Death
        return super().sample(*sizes, seed=seed, **options)


@pytest.mark.parametrize("n_workers", [0, 1])
@pytest.mark.parametrize(
    "options, expected",
    [
        ({"max_epochs": 3, "limit_train_batches": 4}, 12),
        ({"max_epochs": 2, "accumulate_grad_batches": 2, "limit_train_batches": 4}, 8),
        ({"max_epochs": 2}, 24),
    ],
    ids=["limited epochs", "accumulated", "whole epochs"],
)
def test_no_epoch_sees_the_batches_of_another(options, expected, n_workers):
    """Under a Trainer of one's own."""
    seen = []

    class Spy(lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.append(batch.y_query.flatten()[0].item())

    config = replace(STEPS, n_workers=n_workers)
    trainer = lightning.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        callbacks=[Spy()],
        **options,
    )
    trainer.fit(PriorFitting(PFN.new(PRIOR, TINY), config), PriorDataModule(PRIOR, config))
    batches = NumberedBatches(PRIOR, config)
    assert seen == [batches.batch(i).y_query.flatten()[0].item() for i in range(expected)]


KINDS = {
    "adamw": {"optimizer": "adamw"},
    "cells": {"prior": LinearRegressionPrior(2), "network": CELLS, "n_context": (4, 8)},
    "latents": {
        "prior": NormalMeanPrior(),
        "network": DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1),
        "n_context": (1, 3),
    },
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_resumes(tmp_path, kind):
    fit(tmp_path, **kind, stop_at=5)
    assert same(fit(tmp_path, **kind), fit(**kind))


def test_names_stand_for_default_sizes():
    steps = {"n_steps": 1, "n_tasks": 2, "n_context": (2, 7)}
    pfn = fit(prior=LinearModelPrior(2), network="pfn", **steps)
    size = PFNConfig(n_features=2, max_context=7, units="raw", x_range=pfn.config.x_range)
    assert pfn.config == size and len(size.x_range) == 2
    dt = fit(prior=NormalMeanPrior(), network="dt", **steps)
    assert dt.config.d_model == DistributionTransformerConfig().d_model
    for prior, name in ((named_prior("tabular-regressor"), "pfn"), (NormalMeanPrior(), "mlp")):
        with pytest.raises(ValueError, match="Expected network='dt'"):
            fit(prior=prior, network=name, **steps)


def test_answers_of_tables_are_standardised_for_a_network_that_knows_no_scale():
    """Its bars are those of standardised answers, and so is what the estimator asks it."""
    prior = LinearRegressionPrior(2, weight_scale=500.0)
    network = fit(prior=prior, network=CELLS, n_context=(8, 8), n_steps=1)
    assert network.config.units == "standardised"
    assert network.borders.abs().max() < 20
    batch = ContextStandardised(prior).sample(50, 30, 5, seed=0)
    assert batch.y_context.mean(-1).abs().max() < 1e-5
    torch.testing.assert_close(batch.y_context.std(-1, correction=0), torch.ones(50))
    raw = prior.sample(50, 30, 5, seed=0)
    scale = raw.y_context.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(
        batch.y_query * scale + raw.y_context.mean(-1, keepdim=True),
        raw.y_query,
        rtol=1e-3,
        atol=0.1,
    )


OTHERS = {
    "rate": ({"lr": 0.1}, r"Expected lr=0.001, .* got 0.1\. Give the same settings"),
    "seed": ({"seed": 1}, "Expected seed=0, .* got 1"),
    "sizes": ({"n_context": (1, 5)}, r"Expected n_context=\(0, 5\), .* got \(1, 5\)"),
    "optimizer": ({"optimizer": "adamw"}, "Expected optimizer='muon'"),
    "network": ({"network": replace(TINY, d_model=32)}, "Expected network.d_model=16, .* got 32"),
    "prior": (
        {"prior": LinearRegressionPrior(1, variance=4.0)},
        "Expected the prior and the network that .* another network.decoder.borders",
    ),
}


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    directory = tmp_path_factory.mktemp("cut")
    fit(directory, stop_at=2)
    return directory


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_runs_state_is_refused(cut, other):
    changed, message = other
    before = (cut / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=message):
        fit(cut, **changed)
    assert (cut / "last.ckpt").read_bytes() == before


def flipped(state, at):
    return state[:at] + bytes([state[at] ^ 1 << at % 8]) + state[at + 1 :]


def with_checksum(state):
    """Content that no training has written, with the checksum that it has to have."""
    comment = state.rfind(b"SHA-256 ")
    return state[:comment] + b"SHA-256 " + hashlib.sha256(state[:comment]).hexdigest().encode()


def packed(state):
    """The same archive, whose members are deflated: a few bytes may unpack to gigabytes."""
    packed_in, comment = io.BytesIO(), state[state.rfind(b"SHA-256 ") :]
    with (
        zipfile.ZipFile(io.BytesIO(state)) as old,
        zipfile.ZipFile(packed_in, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member) + bytes(10**6))
        new.comment = comment
    return with_checksum(packed_in.getvalue())


class Command:
    """Unpickled, it runs a command."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


DAMAGED = {
    "empty": lambda state: b"",
    "truncated": lambda state: state[: len(state) // 2],
    "without a checksum": lambda state: state[:-72],
    "a byte short": lambda state: state[:-1],
    "text": lambda state: b"not a checkpoint\n",
    "noise": lambda state: bytes(range(256)) * 40,
    "a bit of the middle lost": lambda state: state[:5000] + state[5100:],
    "noise that names its checksum": lambda state: with_checksum(state[::-1] + state[-72:]),
    "packed": packed,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_refused_and_kept(cut, tmp_path, damage):
    damaged = damage((cut / "last.ckpt").read_bytes())
    (tmp_path / "last.ckpt").write_bytes(damaged)
    with pytest.raises(
        ValueError, match=r"last.ckpt to hold the state of a training; got .*Remove"
    ):
        fit(tmp_path)
    assert (tmp_path / "last.ckpt").read_bytes() == damaged


def test_every_flipped_bit_is_seen(cut, tmp_path):
    state = (cut / "last.ckpt").read_bytes()
    rng = random.Random(0)
    for at in [0, len(state) - 1, len(state) - 73, *rng.sample(range(len(state)), 60)]:
        (tmp_path / "last.ckpt").write_bytes(flipped(state, at))
        with pytest.raises(ValueError, match="checksum"):
            read_checkpoint(tmp_path / "last.ckpt")


def test_nothing_in_a_state_is_run(cut, tmp_path, no_shape_checks):
    stored = read_checkpoint(cut / "last.ckpt")
    for crafted in (
        Command(tmp_path / "ran"),
        stored | {"loops": Command(tmp_path / "ran")},
        stored | {"settings": {"lr": Command(tmp_path / "ran")}},
    ):
        write_checkpoint(crafted, tmp_path / "last.ckpt")
        with pytest.raises(ValueError, match="to hold the state of a training"):
            fit(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_state_of_thirty_gigabytes_is_not_read(cut, tmp_path):
    (tmp_path / "last.ckpt").write_bytes((cut / "last.ckpt").read_bytes())
    os.truncate(tmp_path / "last.ckpt", 30 * 2**30)  # takes no place on the disk
    with pytest.raises(ValueError, match="a file of more than"):
        fit(tmp_path)


@pytest.mark.parametrize("content", [{"weights": torch.zeros(3)}, [1, 2], {"state_dict": 3}])
def test_a_file_of_something_else_is_refused(tmp_path, content, no_shape_checks):
    write_checkpoint(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="no state of a network"):
        fit(tmp_path)


# --- batches that are no good


class _FaultyPrior(LinearRegressionPrior):
    """NaN answers at one step."""

    def sample(self, *sizes, seed, **options):
        batch = super().sample(*sizes, seed=seed, **options)
        if seed != batch_seed(STEPS.seed, 5):
            return batch
        return replace(batch, y_query=batch.y_query * math.nan)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_batch_without_a_finite_loss_is_skipped(uninterrupted, optimizer):
    faulty = _FaultyPrior(1, variance=0.1, intercept=False)
    found = fit(prior=faulty, optimizer=optimizer).state_dict()
    assert all(value.isfinite().all() for value in found.values())
    good = fit(optimizer=optimizer).state_dict()
    assert any(not torch.equal(found[name], good[name]) for name in found)
    apart = max((found[name] - good[name]).abs().max() for name in found)
    assert apart < 0.1  # the run went on nearly as it would have


# --- the parts


def test_a_network_can_be_trained_on():
    network = PFN.new(PRIOR, TINY)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trained = fit(network=network)
    assert trained is network and not trained.training
    assert torch.equal(trained.borders, before["decoder.borders"])
    assert not torch.equal(trained.decoder.head.weight, before["decoder.head.weight"])


def test_weights_are_averaged():
    last, averaged = fit(ema_decay=0.0), fit(ema_decay=0.9)
    start = PFN.new(PRIOR, TINY)
    one, other = last.decoder.head.weight, averaged.decoder.head.weight
    assert not torch.equal(one, other)
    assert (other - start.decoder.head.weight).norm() < (one - start.decoder.head.weight).norm()


def test_trains_in_bfloat16():
    assert all(value.isfinite().all() for value in fit(precision="bf16-mixed").parameters())


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(stop_at=1)
    assert not list(tmp_path.iterdir())


def test_the_rate_rises_falls_and_ends_at_zero():
    network = PFN.new(PRIOR, TINY)
    optimizer = MuonAdamW(network, lr=1.0, muon_lr=2.0, weight_decay=0.0)
    schedule = cosine_to_zero(optimizer, n_steps=100, warmup=0.1)
    rates = []
    for _ in range(101):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    muon, adamw = map(torch.tensor, zip(*rates, strict=True))
    torch.testing.assert_close(muon, 2 * adamw)
    assert adamw.argmax() in (9, 10) and adamw.max() == 1
    assert (adamw[:10].diff() > 0).all() and (adamw[10:].diff() < 0).all()
    assert adamw[-1] < 1e-12


def test_every_parameter_has_one_optimizer():
    network = PFN.new(PRIOR, TINY)
    optimizer = MuonAdamW(network, lr=1.0, muon_lr=1.0, weight_decay=0.0)
    taken = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(taken) == sorted(id(p) for p in network.parameters())
    hidden = {id(p) for p in network.blocks.parameters() if p.ndim == 2}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == hidden


def test_old_torch_has_no_muon(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ValueError, match=r"Expected torch >= 2.9 .* Use optimizer='adamw'"):
        fit()


WRONG = {
    "optimizer": ({"optimizer": "sgd"}, "optimizer 'muon' or 'adamw'; got 'sgd'"),
    "no steps": ({"n_steps": 0}, "n_steps > 0; got 0"),
    "negative rate": ({"lr": -1e-3}, "lr > 0; got -0.001"),
    "no tasks": ({"n_tasks": 0}, "n_tasks > 0; got 0"),
    "context turned round": ({"n_context": (5, 1)}, r"\(fewest, most\).*got \(5, 1\)"),
    "logarithm of zero": (
        {"n_context": (0, 5), "log_uniform_context": True},
        "fewest >= 1 if it is log-uniform",
    ),
    "stop before the start": ({"stop_at": 0}, "stop_at > 0; got 0"),
    "negative workers": ({"n_workers": -1}, "n_workers >= 0; got -1"),
    "decay of one": ({"ema_decay": 1.0}, "ema_decay < 1; got 1.0"),
    "warm-up to the end": ({"warmup": 1.5}, "warmup < 1; got 1.5"),
    "steps that are a fraction": ({"n_steps": 20.5}, "n_steps of type int; got 20.5"),
    "a word for a number": ({"n_tasks": "four"}, "n_tasks of type int; got 'four'"),
    "rate that is no number": ({"lr": math.nan}, "lr to be finite; got nan"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_wrong_settings_are_refused(wrong, no_shape_checks):
    changed, message = wrong
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**changed)
