"""Ctrl-C during training: the current step is finished and saved before `KeyboardInterrupt`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Interruption(Callback):
    """Ends a training after the step during which the user pressed Ctrl-C.

    A second Ctrl-C ends it at once, without saving the step.
    """

    asked = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        # All processes must stop after the same step.
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self.asked = trainer.should_stop = True

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Handles Ctrl-C, unless another handler is installed, and raises `KeyboardInterrupt`."""
        listens = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if listens:
            signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        except SystemExit as end:  # raised by Lightning on Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        except RuntimeError as reason:  # workers receive Ctrl-C too, and end at once
            if self.asked:
                raise KeyboardInterrupt from reason
            raise
        finally:
            if listens:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.asked:
            raise KeyboardInterrupt
