"""Prior-data fitting as a LightningModule, which minimises a network's loss on tasks of a prior."""

import time
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from amortized.latent_priors.tasks import LatentTaskBatch
from amortized.networks.catalogue import NETWORKS
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.training.config import TrainingConfig
from amortized.training.data import batch_seed
from amortized.training.optimizer import MuonAdamW, cosine_to_zero

# A resumed run may change its length and parallelisation, but not its objective.
FIXED = {f.name for f in fields(TrainingConfig)} - {
    "checkpoint_every",
    "compile",
    "n_steps",
    "n_workers",
    "stop_at",
}


def _plain(value: Any) -> Any:
    """Converts a setting to a value that a checkpoint can store without pickling objects."""
    if isinstance(value, tuple | list):
        return tuple(_plain(member) for member in value)
    return value if type(value) in (bool, int, float, str, type(None)) else repr(value)


def _fields(config: Any) -> dict[str, Any]:
    """Converts a configuration to plain values for a checkpoint."""
    return {field.name: _plain(getattr(config, field.name)) for field in fields(config)}


def _hparams(network: nn.Module) -> dict[str, Any] | None:
    """The arguments of `_from_hparams` for this network; None for other kinds of networks."""
    for kind, (made, _) in NETWORKS.items():
        if type(network) is made:
            return {"kind": kind, **_fields(network.config)}
    return None


def _from_hparams(stored: Any) -> nn.Module:
    if not isinstance(stored, Mapping) or stored.get("kind") not in NETWORKS:
        raise ValueError(
            f"Expected a network, or the configuration of one of {sorted(NETWORKS)}; got "
            f"{stored!r:.99}. Give the network: load_from_checkpoint(path, network=network)."
        )
    made, config = NETWORKS[stored["kind"]]
    network: nn.Module = made(config(**{k: v for k, v in stored.items() if k != "kind"}))
    return network


class PriorFitting(lightning.LightningModule):
    """Fits a network to a prior.

    Logs ``loss`` and, on fixed validation tasks, ``val_loss``. If the prior has an exact
    ``posterior_predictive``, also logs ``val_gap``, the divergence from it in nats per target.

    ``hparams`` contains the configurations of network and training, from which
    ``load_from_checkpoint`` creates the network. A network of another kind must be given:
    ``load_from_checkpoint(path, network=network)``.

    Args:
        network: a module with a method ``loss(batch)``, the mean negative log-likelihood; or the
            ``network`` of ``hparams``.
        config: rates and schedule; or the ``config`` of ``hparams``.

    Raises:
        ValueError: if the configuration belongs to no network of this package.
    """

    def __init__(self, network: Any, config: TrainingConfig | Mapping[str, Any]) -> None:
        super().__init__()
        self.network: Any = network if isinstance(network, nn.Module) else _from_hparams(network)
        self.config = config if isinstance(config, TrainingConfig) else TrainingConfig(**config)
        self.save_hyperparameters(
            {"network": _hparams(self.network), "config": _fields(self.config)}
        )
        self._loss: Callable[[Any], Tensor] | None = None
        self._changed_lr = False
        self._seconds, self._began = 0.0, time.monotonic()

    def settings(self) -> dict[str, Any]:
        """The settings that must not change when a run is resumed."""
        size = getattr(self.network, "config", None)
        settings = {name: getattr(self.config, name) for name in FIXED}
        for field in fields(size) if is_dataclass(size) else ():
            # Estimated from draws, like the borders, and therefore equal only up to rounding.
            if field.name not in ("x_range", "scaling"):
                settings[f"network.{field.name}"] = getattr(size, field.name)
        return {name: _plain(value) for name, value in settings.items()}

    @property
    def lr(self) -> float:
        """Peak learning rate of AdamW, which Lightning's `LearningRateFinder` sets."""
        return self.config.lr

    @lr.setter
    def lr(self, value: float) -> None:
        # The rate of Muon keeps its ratio to that of AdamW.
        muon_lr = self.config.muon_lr * value / self.config.lr
        self.config = replace(self.config, lr=float(value), muon_lr=float(muon_lr))
        self.hparams["config"] = _fields(self.config)
        self._changed_lr = True

    def on_train_start(self) -> None:
        """Prepares the loss, here because a search for a learning rate skips `on_fit_start`."""
        if self._changed_lr:
            self._set_rates()
        self._began = time.monotonic()
        loss = self.network.loss
        # Context and query sizes vary from step to step; dynamic shapes compile once for all.
        self._loss = torch.compile(loss, dynamic=True) if self.config.compile else loss

    def _set_rates(self) -> None:
        """Scales the schedule of a run to the rates of the configuration."""
        wanted: Any = self.configure_optimizers()
        rates = wanted["lr_scheduler"]["scheduler"].base_lrs
        for each in self.trainer.lr_scheduler_configs:
            schedule: Any = each.scheduler
            schedule.base_lrs, step = rates, schedule.last_epoch
            groups = schedule.optimizer.param_groups
            for group, rate, factor in zip(groups, rates, schedule.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor(step)
        self._changed_lr = False

    def on_fit_end(self) -> None:
        self._loss = None

    def training_step(self, batch: TaskBatch | LatentTaskBatch, batch_idx: int) -> Tensor:
        assert self._loss is not None
        number, rank = self.trainer.fit_loop.total_batch_idx, self.trainer.global_rank
        # A resumed run continues with the random numbers of an uninterrupted one.
        with seeded(batch_seed(batch_seed(self.config.seed, number, rank), 0)):
            loss = self._loss(batch)
        if self.trainer.world_size > 1:
            # Processes wait for gradients of all parameters, but a batch without context rows does
            # not use all of them.
            loss = loss + 0.0 * torch.stack([p.sum() for p in self.parameters()]).sum()
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: TaskBatch | LatentTaskBatch, batch_idx: int) -> None:
        with seeded(batch_seed(batch_seed(self.config.seed, batch_idx, rank=2**30), 0)):
            loss = self.network.loss(batch)
        shared: dict[str, Any] = {"sync_dist": True, "batch_size": 1}
        self.log("val_loss", loss, prog_bar=True, **shared)
        prior: Any = getattr(getattr(self.trainer, "datamodule", None), "prior", None)
        if isinstance(batch, TaskBatch) and hasattr(prior, "posterior_predictive"):
            exact = prior.posterior_predictive(batch).log_prob(batch.y_query)
            known = exact if batch.query_mask is None else exact[batch.query_mask]
            self.log("val_gap", loss + known.mean().to(loss), **shared)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the settings and, for the card, the total wall time so far."""
        checkpoint["settings"] = self.settings()
        checkpoint["seconds"] = self._seconds + time.monotonic() - self._began

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds = checkpoint.get("seconds", 0.0)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drops the gradient of a batch whose loss is not finite."""
        finite = all(
            bool(torch.isfinite(p.grad).all()) for p in self.parameters() if p.grad is not None
        )
        self.log("skipped", float(not finite), reduce_fx="sum")
        if not finite:
            self.zero_grad(set_to_none=False)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config = self.config
        optimizer: Optimizer
        if config.optimizer == "muon":
            optimizer = MuonAdamW(self.network, config.lr, config.muon_lr, config.weight_decay)
        else:
            optimizer = AdamW(
                self.network.parameters(),
                lr=config.lr,
                weight_decay=config.weight_decay,
                betas=(0.9, 0.98),
            )
        schedule = cosine_to_zero(optimizer, config.n_steps, config.warmup)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
