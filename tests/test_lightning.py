"""Training for users of Lightning: options, validation, checkpoints and several processes."""

import socket
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    LearningRateFinder,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import DDPStrategy

from amortized import train
from amortized.networks import (
    PFN,
    DistributionTransformer,
    DistributionTransformerConfig,
    PFNConfig,
)
from amortized.priors import LinearRegressionPrior
from amortized.priors.regression.normal_mean import NormalMeanPrior
from amortized.training import PriorDataModule, PriorFitting, TrainingConfig
from amortized.training.data import FixedBatches, NumberedBatches

PRIOR = LinearRegressionPrior(1, variance=0.1, intercept=False)
TINY = PFNConfig(
    n_features=1, max_context=10, d_model=16, n_heads=2, n_layers=1, d_hidden=16, n_bars=20
)
STEPS = TrainingConfig(n_steps=12, n_tasks=4, n_context=(0, 5), n_query=3)
QUIET = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


def fit(**options):
    return train(PRIOR, TINY, STEPS, progress=False, accelerator="cpu", **options)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Spy(Callback):
    def __init__(self):
        self.steps, self.values = 0, []

    def on_train_batch_end(self, trainer, *_):
        self.steps = trainer.global_step

    def on_validation_end(self, trainer, module):
        self.values.append({k: v.item() for k, v in trainer.callback_metrics.items()})


# --- Options of the Trainer


def test_any_option_is_passed_on(tmp_path):
    spy = Spy()
    logger = CSVLogger(tmp_path, name="own")
    fit(callbacks=spy, logger=logger, precision="bf16-mixed", max_time="00:01:00:00")
    assert spy.steps == 12 and spy.values == []  # nothing monitors val_loss: it is not measured
    assert (tmp_path / "own" / "version_0" / "hparams.yaml").exists()


def test_time_ends_a_run():
    spy = Spy()
    fit(callbacks=[spy, Timer(timedelta(0), interval="step")])
    assert spy.steps < 12


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ({"max_steps": 3}, "n_steps"),
        ({"max_epochs": 3}, "n_steps"),
        ({"gradient_clip_val": 3.0}, "clip"),
        ({"enable_progress_bar": False}, "progress="),
    ],
)
def test_what_has_another_place_is_refused_by_name(option, instead):
    with pytest.raises(
        ValueError, match=f"{instead}.* in place of the Trainer's {next(iter(option))}"
    ):
        train(PRIOR, TINY, STEPS, **option)


def test_unknown_options_are_refused():
    with pytest.raises(TypeError, match=r"lightning.Trainer; got \['device'\]"):
        train(PRIOR, TINY, STEPS, device="cpu")


def test_validation_changes_nothing_of_the_training():
    assert same(fit(), fit(val_check_interval=5))


# --- Validation


def test_val_loss_is_that_of_the_fixed_tasks_and_the_gap_that_to_the_oracle():
    module, data = PriorFitting(PFN.new(PRIOR, TINY).eval(), STEPS), PriorDataModule(PRIOR, STEPS)
    trainer = lightning.Trainer(**QUIET)
    (found,) = trainer.validate(module, data, verbose=False)
    fixed = FixedBatches(PRIOR, STEPS)
    assert [batch.x_context.shape[1] for batch in fixed][:: len(fixed) - 1] == [0, 5]
    with torch.no_grad():
        losses = torch.stack([module.network.loss(batch) for batch in fixed])
    exact = [PRIOR.posterior_predictive(b).log_prob(b.y_query).mean().float() for b in fixed]
    torch.testing.assert_close(found["val_loss"], losses.mean().item(), rtol=1e-5, atol=1e-5)
    gap = (losses + torch.stack(exact)).mean().item()
    torch.testing.assert_close(found["val_gap"], gap, rtol=1e-4, atol=1e-4)
    assert gap > 0
    assert trainer.validate(module, data, verbose=False) == [found]  # the same tasks


def test_no_training_sees_the_validation_tasks():
    trained = NumberedBatches(PRIOR, replace(STEPS, n_steps=100))
    seen = {trained.batch(i).y_query.flatten()[0].item() for i in range(100)}
    assert not seen & {batch.y_query.flatten()[0].item() for batch in FixedBatches(PRIOR, STEPS)}


def test_val_check_interval_and_early_stopping():
    spy, stop = Spy(), EarlyStopping("val_loss", min_delta=100.0, patience=1)
    fit(callbacks=[spy, stop], val_check_interval=2)
    assert spy.steps == 4 and len(spy.values) == 2 and "val_loss" in spy.values[0]


def test_the_best_weights_are_kept_and_loaded_without_arguments(tmp_path):
    keep = ModelCheckpoint(tmp_path / "new" / "folder", "best", monitor="val_loss")
    network = fit(callbacks=keep)
    again = PriorFitting.load_from_checkpoint(keep.best_model_path)
    assert again.network.config == network.config and again.config == STEPS
    assert again.hparams["config"]["n_steps"] == 12 and again.hparams["network"]["kind"] == "pfn"
    (found,) = lightning.Trainer(**QUIET).validate(
        again, PriorDataModule(PRIOR, STEPS), verbose=False
    )
    assert abs(found["val_loss"] - keep.best_model_score.item()) < 1e-4
    given = PriorFitting.load_from_checkpoint(keep.best_model_path, network=PFN.new(PRIOR, TINY))
    assert same(given.network, again.network)


class Rates(Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.seen.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_a_learning_rate_that_is_found_is_used(tmp_path):
    """As if it had been given: the search itself leaves no trace."""
    find, spy, other = LearningRateFinder(num_training_steps=20), Rates(), Rates()
    network = fit(callbacks=[spy, find], default_root_dir=tmp_path)
    lr = find.optimal_lr.suggestion()
    given = replace(STEPS, lr=lr, muon_lr=STEPS.muon_lr * lr / STEPS.lr)
    again = train(PRIOR, TINY, given, progress=False, accelerator="cpu", callbacks=other)
    assert lr != STEPS.lr and len(spy.seen) == STEPS.n_steps
    np.testing.assert_allclose(spy.seen, other.seen)
    assert same(network, again)


def test_latents_validate_too():
    spy = Spy()
    size = DistributionTransformerConfig(d_model=16, n_heads=2, n_layers=1)
    steps = replace(STEPS, n_steps=2, n_context=(1, 3))
    network = train(
        NormalMeanPrior(), size, steps, progress=False, callbacks=spy, val_check_interval=1
    )
    assert isinstance(network, DistributionTransformer) and len(spy.values) == 2
    assert "val_loss" in spy.values[0] and "val_gap" not in spy.values[0]


def test_a_module_of_another_kind_must_be_given():
    class Own(torch.nn.Module):
        pass

    assert PriorFitting(Own(), STEPS).hparams["network"] is None
    with pytest.raises(ValueError, match="Give the network"):
        PriorFitting(None, STEPS)


def test_the_loaders_work_outside_a_trainer():
    data = PriorDataModule(PRIOR, STEPS)
    batches = NumberedBatches(PRIOR, STEPS)
    found = [batch.y_query for batch in data.train_dataloader()]
    assert len(found) == 12 and torch.equal(found[3], batches.batch(3).y_query)
    assert len(list(data.val_dataloader())) == len(FixedBatches(PRIOR, STEPS))


# --- Several processes


class EqualWeights(Callback):
    """Raises where two processes end with other weights, or saw the same tasks."""

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        both = module.all_gather(batch.y_query.sum())
        assert len(both) == 2 and both[0] != both[1]

    def on_train_end(self, trainer, module):
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        both = module.all_gather(weights)
        assert len(both) == 2 and torch.equal(both[0], both[1])


def test_two_processes_end_with_equal_weights():
    strategy = DDPStrategy(start_method="spawn", process_group_backend="gloo")
    network = fit(strategy=strategy, devices=2, callbacks=EqualWeights(), val_check_interval=6)
    assert not network.training and network.calibration is not None
    assert not same(network, PFN.new(PRIOR, TINY))  # the weights came back


def test_processes_of_torchrun_end_with_equal_weights(monkeypatch):
    """This process is the first of two that torchrun would start; both run the same script."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "test"}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    for name, value in shared.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    script = "from test_lightning import ddp; ddp()"
    other = subprocess.Popen([sys.executable, "-c", script], cwd=Path(__file__).parent)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    try:
        network = ddp()
        assert other.wait(300) == 0
    finally:
        other.kill()
        torch.distributed.destroy_process_group()
    assert network.calibration is not None and not same(network, PFN.new(PRIOR, TINY))


def ddp():
    return fit(strategy="ddp", devices=2, callbacks=EqualWeights())
