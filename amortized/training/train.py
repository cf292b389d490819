"""Training of a network on a prior, in one run or in several."""

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
from amortized.simulation_based.config import FlowConfig, FlowTraining
from amortized.simulation_based.learning import NAMES, train_flow
from amortized.training.calibration import measure
from amortized.training.checkpoint import CheckedFiles, read_checkpoint
from amortized.training.config import TrainingConfig
from amortized.training.data import PriorDataModule
from amortized.training.interruption import Interruption
from amortized.training.module import PriorFitting

CHECKPOINT = "last.ckpt"

Network = (
    nn.Module
    | PFNConfig
    | SeriesPFNConfig
    | TabularPFNConfig
    | DistributionTransformerConfig
    | FlowConfig
    | str
)


class _Checkpoint(Callback):
    """Saves the last checkpoint; an interrupted write leaves the previous one in place."""

    def __init__(self, path: Path, every: int) -> None:
        self.path, self.every, self.step = path, every, 0

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.step = trainer.global_step

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        step, before = trainer.global_step, self.step
        self.step = step
        # Only at the end of a step, because accumulated gradients are not part of a checkpoint.
        due = step % self.every == 0 or step == trainer.max_steps or trainer.should_stop
        if step > before and due:
            trainer.save_checkpoint(self.path)


# Options of the Trainer that are set by other arguments of `train`.
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
    """A list of plugins, callbacks or loggers, of which Lightning accepts one or several."""
    return list(members) if isinstance(members, list | tuple) else [members] if members else []


def _check_options(options: dict[str, Any]) -> None:
    for name, instead in _REFUSED.items():
        if name in options:
            raise ValueError(f"Expected {instead} in place of the Trainer's {name}.")
    unknown = options.keys() - inspect.signature(lightning.Trainer).parameters.keys()
    if unknown:
        raise TypeError(f"Expected options of lightning.Trainer; got {sorted(unknown)}.")


def _validates(options: dict[str, Any]) -> bool:
    """Whether the user requests ``val_loss``; validation is skipped otherwise."""
    monitored = [getattr(each, "monitor", None) for each in _listed(options.get("callbacks"))]
    return any(name in options for name in _VALIDATION) or any(
        str(name).startswith("val_") for name in monitored
    )


def _validation(config: TrainingConfig, options: dict[str, Any]) -> dict[str, Any]:
    """Options of validation: by default twenty validations per run, and none if not requested."""
    if not _validates(options):
        return {"limit_val_batches": 0}
    if "val_check_interval" in options or "check_val_every_n_epoch" in options:
        return {"num_sanity_val_steps": 0, "check_val_every_n_epoch": None}
    every = max(1, config.last_step // 20) * options.get("accumulate_grad_batches", 1)
    chosen = {"val_check_interval": every, "check_val_every_n_epoch": None}
    return {"num_sanity_val_steps": 0, **chosen}


def _decayed(decay: float, average: Tensor, current: Tensor, n_averaged: Any) -> Tensor:
    """Exponential moving average; torch's own function cannot be pickled for spawned processes."""
    return decay * average + (1 - decay) * current


def _callbacks(
    config: TrainingConfig, interruption: Interruption, progress: bool, asked: list[Callback]
) -> list[Callback]:
    """The callbacks of `train`, except those that the user replaces, and the user's callbacks."""
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
    """Reads the state of a run; damaged files and those of other runs are rejected."""
    # The weights, their average and two moments; the rest is small.
    size = sum(value.nbytes for value in module.state_dict().values())
    stored = read_checkpoint(path, most_bytes=8 * size + 2**26)
    state, settings, now = stored["state_dict"], stored.get("settings", {}), module.settings()
    for name in settings.keys() & now.keys():
        if settings[name] != now[name]:
            raise ValueError(
                f"Expected {name}={settings[name]!r}, with which {path} was trained; got "
                f"{now[name]!r}. Give the same settings, or another directory."
            )
    # Buffers are not trained; a PFN's borders are quantiles of the targets of its prior.
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
    """The default configuration of a named network."""
    if name == "dt":
        return DistributionTransformerConfig()
    if name == "pfn" and isinstance(
        prior, ProgramPrior
    ):  # for others the number of features varies
        n_features = prior.sample(1, 1, 1, seed=0).x_query.shape[-1]
        return PFNConfig(n_features=n_features, max_context=config.n_context[1])
    raise ValueError(
        f"Expected network='dt', or network='pfn' with a ProgramPrior; got {name!r} with a "
        f"{type(prior).__name__}. Give a configuration, such as PFNConfig(n_features=3, ...)."
    )


def _as_read(prior: Any, config: Any) -> Any:
    """The prior with targets in units that such a network can handle."""
    of_tables = isinstance(config, TabularPFNConfig) and config.target == "regression"
    return ContextStandardised(prior) if of_tables and prior.units == "raw" else prior


def train(
    prior: Prior | LatentTasks,
    network: Network,
    config: TrainingConfig | FlowTraining | None = None,
    *,
    directory: str | Path | None = None,
    progress: bool = True,
    **trainer_options: Any,
) -> Any:
    """Trains a network on a prior and returns it in eval mode, averaged over the last steps.

    After training, the calibration is measured on new tasks within seconds and stored as
    ``network.calibration``, which `save` writes with the weights. `infer` and the estimators warn
    if it is poor.

    With a directory, the run writes ``last.ckpt`` and ``metrics.csv`` there. A call with the same
    arguments continues an earlier run and leads to the same weights as an uninterrupted run. Ctrl-C
    ends a run after the current step, which is saved; a second Ctrl-C ends it at once.

    Args:
        prior: prior of the tasks. A Distribution Transformer is trained on the program of a
            `ProgramPrior` under the default hyperprior, or on `LatentTasks`. A network over rows is
            trained in the units ``prior.units``, which `PFNRegressor` follows; for tables, targets
            in raw units are standardised by each task's context.
        network: a network to be trained, or the configuration of a new one; "dt" and, for a
            `ProgramPrior`, "pfn" select the default sizes. "npe" and "nle", or a `FlowConfig`,
            train a flow on simulations of the program under its own prior: the posterior, or the
            likelihood (see `amortized.simulation_based`).
        config: lengths, sizes and rates; None uses the defaults. A `FlowTraining` for a flow.
        directory: directory for the state of the run; None saves nothing.
        progress: whether a progress bar is shown.
        **trainer_options: options of ``lightning.Trainer``, such as ``callbacks``, ``logger``,
            ``devices``, ``strategy`` or ``max_time``, except the length of the run, gradient
            clipping and the progress bar, which have arguments of their own. If a callback monitors
            ``val_loss``, or an option of validation is given, the loss on fixed tasks is computed
            twenty times, or according to ``val_check_interval``.

    Raises:
        ValueError: if the directory contains a run with other settings, or a damaged one; or if an
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
    if isinstance(network, str) and network in NAMES:
        network = NAMES[network]
    if isinstance(network, FlowConfig):
        with gradients():
            return _train_flow(prior, network, config, directory, progress, trainer_options)
    if isinstance(config, FlowTraining):
        raise TypeError("Expected a TrainingConfig for this network; got a FlowTraining.")
    config = config or TrainingConfig()
    _check_options(trainer_options)
    if "precision" in trainer_options:  # a resumed run must not change it
        config = replace(config, precision=str(trainer_options.pop("precision")))
    with gradients():
        return _train(prior, network, config, directory, progress, trainer_options)


def _train_flow(
    prior: Any,
    network: FlowConfig,
    config: TrainingConfig | FlowTraining | None,
    directory: str | Path | None,
    progress: bool,
    options: dict[str, Any],
) -> Any:
    """Trains a flow on simulations of a fixed prior."""
    if not isinstance(prior, ProgramPrior):
        raise TypeError(
            f"Expected a ProgramPrior as the simulator of a flow; got {type(prior).__name__}."
        )
    if isinstance(config, TrainingConfig) or directory is not None or options:
        raise TypeError(
            "Expected only a FlowTraining with flows; got a TrainingConfig, a directory or options "
            "of the Trainer. Keep the network with save(network, folder)."
        )
    return train_flow(prior, network, config or FlowTraining(), progress)


def _train(
    prior: Prior | LatentTasks,
    network: Network,
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
    module.train()  # a network that was trained before is in eval mode
    with interruption.heard():
        trainer.fit(module, PriorDataModule(prior, config), ckpt_path=resume)
    return _measured(network.eval(), prior, config)


def _measured(network: nn.Module, prior: Prior | LatentTasks, config: TrainingConfig) -> nn.Module:
    """Adds the calibration to a network, unless the run is incomplete."""
    done = config.last_step == config.n_steps
    network.calibration = measure(network, prior, config) if done else None  # type: ignore[assignment]
    return network
