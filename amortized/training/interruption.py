"""Ctrl-C in a training: the step is finished and its state kept before `KeyboardInterrupt`."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback


class Interruption(Callback):
    """Ends a training after the step during which the user asked for it.

    Asked again, it ends at once, without the state of the step.
    """

    asked = False

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        # All processes of a training stop after the same step.
        if trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            self.asked = trainer.should_stop = True

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listens to Ctrl-C, unless somebody else does, and raises what Python raises on it."""
        listens = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if listens:
            signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        except SystemExit as end:  # Lightning's way to end on Ctrl-C
            if isinstance(end.__context__, KeyboardInterrupt):
                raise KeyboardInterrupt from None
            raise
        except RuntimeError as reason:  # workers hear Ctrl-C too, and end at once
            if self.asked:
                raise KeyboardInterrupt from reason
            raise
        finally:
            if listens:
                signal.signal(signal.SIGINT, signal.default_int_handler)
        if self.asked:
            raise KeyboardInterrupt
