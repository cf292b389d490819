"""Prior-data fitting as a LightningModule: minimise a network's loss on tasks of a prior."""

import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.optim import AdamW, Optimizer

from amortized.latent_priors.tasks import LatentTaskBatch
from amortized.priors.task import TaskBatch
from amortized.seeding import seeded
from amortized.training.config import TrainingConfig
from amortized.training.data import batch_seed
from amortized.training.optimizer import MuonAdamW, cosine_to_zero

# A run may be cut, stretched and spread otherwise when resumed, but not change what it learns.
FIXED = {f.name for f in fields(TrainingConfig)} - {
    "checkpoint_every",
    "compile",
    "n_steps",
    "n_workers",
    "stop_at",
}


def _plain(value: Any) -> Any:
    """A setting as a checkpoint holds it, which is read without unpickling objects."""
    if isinstance(value, tuple | list):
        return tuple(_plain(member) for member in value)
    return value if type(value) in (bool, int, float, str, type(None)) else repr(value)


class PriorFitting(lightning.LightningModule):
    """Fits a network to a prior.

    Args:
        network: a module with ``loss(batch)``, a mean negative log-likelihood.
        config: rates and schedule.
    """

    def __init__(self, network: Any, config: TrainingConfig) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self._loss: Callable[[Any], Tensor] | None = None
        self._seconds, self._began = 0.0, time.monotonic()

    def settings(self) -> dict[str, Any]:
        """What must not change from one part of a run to the next."""
        size = getattr(self.network, "config", None)
        settings = {name: getattr(self.config, name) for name in FIXED}
        for field in fields(size) if is_dataclass(size) else ():
            # Measured on draws, as the borders are, and so up to rounding.
            if field.name not in ("x_range", "scaling"):
                settings[f"network.{field.name}"] = getattr(size, field.name)
        return {name: _plain(value) for name, value in settings.items()}

    def on_fit_start(self) -> None:
        self._began = time.monotonic()
        loss = self.network.loss
        # Context and query sizes vary from step to step; dynamic shapes compile once for all.
        self._loss = torch.compile(loss, dynamic=True) if self.config.compile else loss

    def on_fit_end(self) -> None:
        self._loss = None

    def training_step(self, batch: TaskBatch | LatentTaskBatch, batch_idx: int) -> Tensor:
        assert self._loss is not None
        number, rank = self.trainer.fit_loop.total_batch_idx, self.trainer.global_rank
        # A resumed run draws what it would have drawn.
        with seeded(batch_seed(batch_seed(self.config.seed, number, rank), 0)):
            loss = self._loss(batch)
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the settings, and the wall time of all runs so far, for the card."""
        checkpoint["settings"] = self.settings()
        checkpoint["seconds"] = self._seconds + time.monotonic() - self._began

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds = checkpoint.get("seconds", 0.0)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Drops the gradient of a batch whose loss is not finite: the run goes on without it."""
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
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
