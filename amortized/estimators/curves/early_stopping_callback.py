"""`EarlyStopping` as a callback of Lightning, in a module of its own to import Lightning lazily."""

from collections.abc import Mapping
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from amortized.estimators.curves.early_stopping import EarlyStopping


class EarlyStoppingCallback(Callback):
    """``EarlyStopping`` for Lightning, which ends ``Trainer.fit``.

    Args:
        monitor: name of the metric, as logged in validation.
        **options: as for ``EarlyStopping``. The horizon of its estimator is the total number of
            validations: the number of epochs, if there is one per epoch.

    Attributes:
        stopping: the ``EarlyStopping`` that is updated after every validation.

    Example:
        >>> callback = EarlyStoppingCallback("val_accuracy", best=0.93)
        >>> callback.stopping.best
        0.93
    """

    def __init__(self, monitor: str, **options: Any) -> None:
        self.monitor = monitor
        self.stopping = EarlyStopping(**options)

    @property
    def state_key(self) -> str:
        """Distinguishes the callbacks of several metrics in a checkpoint."""
        return self._generate_state_key(monitor=self.monitor)

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        value = trainer.callback_metrics.get(self.monitor)
        if value is None:
            raise ValueError(
                f"Expected a logged metric {self.monitor!r}; got "
                f"{sorted(trainer.callback_metrics)}. Log it in validation_step."
            )
        stop = self.stopping.update(float(torch.as_tensor(value)))
        trainer.should_stop = trainer.should_stop or trainer.strategy.reduce_boolean_decision(
            stop, all=False
        )

    def state_dict(self) -> dict[str, Any]:
        """The curve so far, so that a resumed training uses all of it."""
        return {"steps": self.stopping.steps, "values": self.stopping.values}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the curve."""
        self.stopping.steps = list(state_dict["steps"])
        self.stopping.values = list(state_dict["values"])
