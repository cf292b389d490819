"""From a prior to a trained network in one call, in one go or in many."""

import os
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from amortized.networks import PFNConfig, TabularPFNConfig, new_network
from amortized.priors.prior import Prior
from amortized.training.config import TrainingConfig
from amortized.training.data import PriorDataModule
from amortized.training.module import PriorFitting

CHECKPOINT = "last.ckpt"


class _Checkpoint(Callback):
    """Keeps the last checkpoint; a run killed while writing leaves the one before in place."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every = path, every

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0 or trainer.global_step == trainer.max_steps:
            partial = self.path.with_suffix(".partial")
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                os.replace(partial, self.path)


def train(
    prior: Prior,
    network: nn.Module | PFNConfig | TabularPFNConfig,
    config: TrainingConfig | None = None,
    *,
    directory: str | Path | None = None,
    progress: bool = True,
    **trainer_options: Any,
) -> Any:
    """Train a network on a prior and return it, averaged over the last steps, in eval mode.

    With a directory the run writes ``last.ckpt`` and ``metrics.csv`` there, and a call with the
    same arguments goes on where the last one stopped, to the same weights that an uninterrupted
    run would have reached.

    Args:
        prior: draws the tasks.
        network: a network to be trained, or the configuration of a new one.
        config: lengths, sizes and rates; None takes the defaults.
        directory: where the state of the run is kept; None keeps nothing.
        progress: whether a progress bar is shown.
        **trainer_options: for ``lightning.Trainer``, such as ``devices`` or ``strategy``.

    Raises:
        ValueError: if the directory holds a run with other settings.

    Example:
        >>> from amortized.networks import PFNConfig
        >>> from amortized.priors import GaussianProcessPrior
        >>> prior = GaussianProcessPrior(lengthscale=0.5, outputscale=1.0, noise=0.1)
        >>> size = PFNConfig(n_features=1, max_context=20, d_model=16, n_layers=1, n_bars=20)
        >>> network = train(prior, size, TrainingConfig(n_steps=2), progress=False)
        >>> network.training
        False
    """
    config = config or TrainingConfig()
    if not isinstance(network, nn.Module):
        network = new_network(prior, network, config.seed)
    module = PriorFitting(network, config)
    callbacks: list[Callback] = [EMAWeightAveraging(decay=config.ema_decay)]
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    checkpoint = None
    if directory is not None:
        checkpoint = Path(directory) / CHECKPOINT
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(_Checkpoint(checkpoint, config.checkpoint_every))
    trainer = lightning.Trainer(
        max_steps=config.last_step,
        precision=config.precision,
        gradient_clip_val=config.clip,
        callbacks=callbacks,
        logger=False if directory is None else CSVLogger(directory, name="logs"),
        enable_checkpointing=False,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=50,
        **{"devices": 1, **trainer_options},
    )
    resume = checkpoint if checkpoint is not None and checkpoint.exists() else None
    trainer.fit(module, PriorDataModule(prior, config), ckpt_path=resume, weights_only=False)
    return network.eval()
