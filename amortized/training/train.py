"""From a prior to a trained network in one call, in one go or in many."""

import inspect
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    ProgressBar,
    TQDMProgressBar,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn

from amortized.latent_priors import LatentTasks
from amortized.networks import (
    DistributionTransformer,
    DistributionTransformerConfig,
    PFNConfig,
    SeriesPFNConfig,
    TabularPFNConfig,
    new_network,
)
from amortized.one_at_a_time import gradients
from amortized.priors.context_standardised import ContextStandardised
from amortized.priors.prior import Prior
from amortized.priors.program_prior import ProgramPrior
from amortized.training.calibration import measure
from amortized.training.checkpoint import CheckedFiles, read_checkpoint
from amortized.training.config import TrainingConfig
from amortized.training.data import PriorDataModule
from amortized.training.interruption import Interruption
from amortized.training.module import PriorFitting

CHECKPOINT = "last.ckpt"


class _Checkpoint(Callback):
    """Keeps the last checkpoint; a run killed while writing leaves the one before in place."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self.step = path, every, 0

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        step, before = trainer.global_step, self.step
        self.step = step
        # Only where a step has ended: gradients that are being accumulated are in no checkpoint.
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if step > before and due:
            trainer.save_checkpoint(self.path)


# Options of the Trainer that `train` sets itself, and where they are set instead.
_REFUSED = {
    "max_steps": "TrainingConfig(n_steps=..., stop_at=...)",
    "min_steps": "TrainingConfig(n_steps=...)",
    "max_epochs": "TrainingConfig(n_steps=...)",
    "min_epochs": "TrainingConfig(n_steps=...)",
    "gradient_clip_val": "TrainingConfig(clip=...)",
    "enable_progress_bar": "progress=",
}
_VALIDATION = ("val_check_interval", "check_val_every_n_epoch", "limit_val_batches")


def _listed(members: Any) -> list[Any]:
    """Lightning takes one plugin, callback or logger, or many."""
    return list(members) if isinstance(members, list | tuple) else [members] if members else []


def _check_options(options: dict[str, Any]) -> None:
    for name, instead in _REFUSED.items():
        if name in options:
            raise ValueError(f"Expected {instead} in place of the Trainer's {name}.")
    unknown = options.keys() - inspect.signature(lightning.Trainer).parameters.keys()
    if unknown:
        raise TypeError(f"Expected options of lightning.Trainer; got {sorted(unknown)}.")


def _validates(options: dict[str, Any]) -> bool:
    """Whether the user wants ``val_loss``: validation is not run for nothing."""
    monitored = [getattr(each, "monitor", None) for each in _listed(options.get("callbacks"))]
    return any(name in options for name in _VALIDATION) or any(
        str(name).startswith("val_") for name in monitored
    )


def _validation(config: TrainingConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Twenty validations in a run where the user does not say how many; none if not wanted."""
    if not _validates(options):
        return {"limit_val_batches": 0}
    if "val_check_interval" in options or "check_val_every_n_epoch" in options:
        return {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None}
    every = max(1, config.last_step // 20) * options.get("accumulate_grad_batches", 1)
    chosen = {"val_check_interval": every, "check_val_every_n_epoch": None}
    return {"num_sanity_val_steps": 0, **chosen}


def _decayed(decay: float, average: Tensor, current: Tensor, n_averaged: Any) -> Tensor:
    """Torch's exponential moving average; its own function cannot be sent to spawned processes."""
    return decay * average + (1 - decay) * current


def _callbacks(
    config: TrainingConfig, interruption: Interruption, progress: bool, asked: list[Callback]
) -> list[Callback]:
    """Those of `train`, but for what the user brings along, and the user's."""
    callbacks: list[Callback] = [interruption]
    if not any(isinstance(each, WeightAveraging) for each in asked):
        decaying = partial(_decayed, config.ema_decay)
        callbacks.append(WeightAveraging(use_buffers=False, avg_fn=decaying))
    if progress and not any(isinstance(each, ProgressBar) for each in asked):
        callbacks.append(TQDMProgressBar(refresh_rate=20))
    return callbacks + asked


def _trainer(
    config: TrainingConfig,
    callbacks: list[Callback],
    directory: str | Path | None,
    progress: bool,
    options: dict[str, Any],
) -> lightning.Trainer:
    own: dict[str, Any] = {
        "devices": 1,
        "precision": config.precision,
        "logger": False if directory is None else CSVLogger(directory, name="logs"),
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in callbacks),
        "enable_model_summary": False,
        "log_every_n_steps": 50,
        **_validation(config, options),
        **options,
    }
    return lightning.Trainer(
        max_steps=config.last_step,
        gradient_clip_val=config.clip,
        enable_progress_bar=progress,
        **own
        | {"callbacks": callbacks, "plugins": [CheckedFiles(), *_listed(options.get("plugins"))]},
    )


def _read_state(path: Path, module: PriorFitting) -> dict[str, Any]:
    """The state of a run; one that is damaged or is another run's is refused."""
    # The weights, their average and two moments of each; the rest is small.
    size = sum(value.nbytes for value in module.state_dict().values())
    stored = read_checkpoint(path, most_bytes=8 * size + 2**26)
    state, settings, now = stored["state_dict"], stored.get("settings", {}), module.settings()
    for name in settings.keys() & now.keys():
        if settings[name] != now[name]:
            raise ValueError(
                f"Expected {name}={settings[name]!r}, with which {path} was trained; got "
                f"{now[name]!r}. Give the same settings, or another directory."
            )
    # Buffers are not trained; a PFN's borders are quantiles of its prior's answers.
    kept = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        found = state.get(name, None if name in kept else buffer.cpu())
        if (
            found is None
            or found.shape != buffer.shape
            or not torch.allclose(found, buffer.cpu(), rtol=1e-3, atol=1e-5)
        ):
            raise ValueError(
                f"Expected the prior and the network that {path} was trained with; got another "
                f"{name}. Give the same ones, or another directory."
            )
    return stored


def _default_size(
    name: str, prior: Prior | LatentTasks, config: TrainingConfig
) -> PFNConfig | DistributionTransformerConfig:
    """The configuration that a name stands for."""
    if name == "dt":
        return DistributionTransformerConfig()
    if name == "pfn" and isinstance(prior, ProgramPrior):  # others vary the number of features
        n_features = prior.sample(1, 1, 1, seed=0).x_query.shape[-1]
        return PFNConfig(n_features=n_features, max_context=config.n_context[1])
    raise ValueError(
        f"Expected network='dt', or network='pfn' with a ProgramPrior; got {name!r} with a "
        f"{type(prior).__name__}. Give a configuration, such as PFNConfig(n_features=3, ...)."
    )


def _as_read(prior: Any, config: Any) -> Any:
    """The prior with its answers in the units that such a network can know."""
    of_tables = isinstance(config, TabularPFNConfig) and config.target == "regression"
    return ContextStandardised(prior) if of_tables and prior.units == "raw" else prior


def train(
    prior: Prior | LatentTasks,
    network: nn.Module
    | PFNConfig
    | SeriesPFNConfig
    | TabularPFNConfig
    | DistributionTransformerConfig
    | str,
    config: TrainingConfig | None = None,
    *,
    directory: str | Path | None = None,
    progress: bool = True,
    **trainer_options: Any,
) -> Any:
    """Train a network on a prior and return it, averaged over the last steps, in eval mode.

    At its end the calibration is measured on fresh tasks, in seconds: ``network.calibration``,
    which `save` writes beside the weights. `infer` and the estimators say where it is poor.

    With a directory the run writes ``last.ckpt`` and ``metrics.csv`` there, and a call with the
    same arguments goes on where the last one stopped, to the same weights that an uninterrupted
    run would have reached. Ctrl-C ends a run after the step in hand, whose state is kept; a second
    one ends it at once.

    Args:
        prior: draws the tasks; for a Distribution Transformer the program of a `ProgramPrior`
            under the default hyperprior, or `LatentTasks`. A network over rows learns its units,
            ``prior.units``, and `PFNRegressor` follows; of tables, answers in raw units are
            standardised by each task's context.
        network: a network to be trained, or the configuration of a new one; "dt" and, for a
            `ProgramPrior`, "pfn" stand for those of the default sizes.
        config: lengths, sizes and rates; None takes the defaults.
        directory: where the state of the run is kept; None keeps nothing.
        progress: whether a progress bar is shown.
        **trainer_options: any of ``lightning.Trainer``, such as ``callbacks``, ``logger``,
            ``devices``, ``strategy`` or ``max_time``, but for the length of the run, the clipping
            and the progress bar, which have their own places. Where a callback monitors
            ``val_loss``, or an option of validation is given, the loss on fixed tasks is measured
            twenty times, or as often as ``val_check_interval`` says.

    Raises:
        ValueError: if the directory holds a run with other settings, or a damaged one; or if an
            option belongs to ``config``.
        KeyboardInterrupt: on Ctrl-C.

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
    _check_options(trainer_options)
    if "precision" in trainer_options:  # part of what a resumed run must not change
        config = replace(config, precision=str(trainer_options.pop("precision")))
    with gradients():
        return _train(prior, network, config, directory, progress, trainer_options)


def _train(
    prior: Prior | LatentTasks,
    network: nn.Module
    | PFNConfig
    | SeriesPFNConfig
    | TabularPFNConfig
    | DistributionTransformerConfig
    | str,
    config: TrainingConfig,
    directory: str | Path | None,
    progress: bool,
    trainer_options: dict[str, Any],
) -> Any:
    if isinstance(network, str):
        network = _default_size(network, prior, config)
    if isinstance(network, DistributionTransformerConfig):
        network = replace(network, n_context=config.n_context)
    for_latents = isinstance(network, DistributionTransformer | DistributionTransformerConfig)
    if for_latents and isinstance(prior, ProgramPrior):
        fewest, most = config.n_context
        prior = LatentTasks(prior, n_rows=most if fewest == most else None)
    if not isinstance(network, nn.Module):
        network = new_network(_as_read(prior, network), network, config.seed)
    prior = _as_read(prior, network.config)
    module = PriorFitting(network, config)
    interruption, asked = Interruption(), _listed(trainer_options.get("callbacks"))
    callbacks, resume = _callbacks(config, interruption, progress, asked), None
    if directory is not None:
        checkpoint = Path(directory) / CHECKPOINT
        if checkpoint.exists():
            stored, resume = _read_state(checkpoint, module), checkpoint
            if stored["global_step"] >= config.last_step:
                module.load_state_dict(stored["state_dict"])
                return _measured(network.eval(), prior, config)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        callbacks.append(_Checkpoint(checkpoint, config.checkpoint_every))
    trainer = _trainer(config, callbacks, directory, progress, trainer_options)
    module.train()  # a network that was trained before comes in eval mode
    with interruption.heard():
        trainer.fit(module, PriorDataModule(prior, config), ckpt_path=resume)
    return _measured(network.eval(), prior, config)


def _measured(network: nn.Module, prior: Prior | LatentTasks, config: TrainingConfig) -> nn.Module:
    """The network with its calibration; of a run that is to be resumed it is not measured."""
    done = config.last_step == config.n_steps
    network.calibration = measure(network, prior, config) if done else None  # type: ignore[assignment]
    return network
