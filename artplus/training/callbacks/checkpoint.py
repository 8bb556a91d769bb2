"""Write down where training stands, now and then and when told to leave."""

from __future__ import annotations

import signal
import threading
import warnings
from pathlib import Path
from typing import Any

from artplus import _checks, distributed
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.training import checkpoint
from artplus.training.callbacks._base import Callback
from artplus.training.state import State

TOLD = (signal.SIGINT, signal.SIGTERM)

AGREE_EVERY = 8
"""Steps between questions of several processes to one another whether one was told to leave."""


class Checkpoint(Callback):
    """Keep the last checkpoints of a run, from which ``fit(..., resume=folder)`` goes on.

    A resumed run ends with the weights that it would have had without the interruption, to the last
    bit on a CPU. A write is whole or not there, whatever happens in the middle of it. Where a write
    fails, as on a full disk, a warning says so, those before it stay, and training goes on.

    Weights that are frozen and have not changed are not written, only a checksum of them: build the
    model on the same pretrained weights before resuming. Which weights are trainable is part of the
    checkpoint.

    Ctrl-C and SIGTERM end the run after the step at hand: the state is saved, the other callbacks
    do their work (:class:`KeepBest` hands out its weights), and ``KeyboardInterrupt`` or
    ``SystemExit(143)`` is raised. A second signal does what it would do without this callback.
    Signals are heeded in the main thread only, and not where they were ignored before. Of several
    processes the first one writes, and all leave together, within :data:`AGREE_EVERY` steps.

    Args:
        folder: For files ``step-*.ckpt``, of one run only; made if it is not there.
        every_epochs: Epochs between checkpoints; the last epoch's is always written.
        every_steps: Steps between further ones; ``None`` is none. Needs data that an epoch can be
            begun again over: arrays, a data set with positions, a list of batches.
        keep: How many to leave, >= 1. With 2 or more, one is left if the newest is damaged.

    Raises:
        ConfigurationError: before training, if the folder is of another run or cannot be written.
    """

    watches = True

    def __init__(
        self,
        folder: str | Path,
        *,
        every_epochs: int = 1,
        every_steps: int | None = None,
        keep: int = 3,
    ) -> None:
        self.folder = Path(folder)
        self.every_epochs = _checks.count("every_epochs", every_epochs)
        if every_steps is not None:
            _checks.count("every_steps", every_steps)
        self.every_steps = every_steps
        self.keep = _checks.count("keep", keep)
        self._told: int | None = None
        self._before: dict[int, Any] = {}

    def on_fit_begin(self, state: State) -> None:
        if self.every_steps is not None and not state.replayable:
            raise ConfigurationError(
                "every_steps saves in the middle of epochs, but this data is an iterable that "
                "cannot be begun again there; leave it out, or give a data set with positions"
            )
        own = state.resumed is not None and _same(state.resumed.parent, self.folder)
        if checkpoint.listed(self.folder) and not own:
            raise ConfigurationError(
                f"{self.folder} already holds checkpoints; continue their run with "
                f"resume={str(self.folder)!r}, or choose another folder"
            )
        try:
            if distributed.is_main():
                self.folder.mkdir(parents=True, exist_ok=True)
                checkpoint.sweep(self.folder)
        except OSError as error:
            raise ConfigurationError(f"{self.folder} cannot be written: {error}") from error
        checkpoint.plain(state.capture())  # what cannot be saved says so before any step
        self._told = None
        self._listen()

    def on_pause(self, state: State) -> None:
        told = self._agreed(state)
        if told is not None or self._due(state):
            self._save(state)
        if told is not None:
            self._leave()

    def on_fit_end(self, state: State) -> None:
        self._unlisten()
        if self._told is not None:  # while the last epoch's callbacks were at work
            self._leave()

    def _agreed(self, state: State) -> int | None:
        """The signal that any process got; they ask one another now and then, not at every step."""
        if distributed.world_size() == 1:
            return self._told
        if state.done % AGREE_EVERY:
            return None
        self._told = max(distributed.all_gather(self._told or 0)) or None
        return self._told

    def _due(self, state: State) -> bool:
        if state.done:
            return self.every_steps is not None and state.step % self.every_steps == 0
        last = state.epoch == state.epochs or state.stop is not None
        return last or state.epoch % self.every_epochs == 0

    def _save(self, state: State) -> None:
        if state.done and not state.replayable:
            self._complain(
                "training was told to leave in the middle of an epoch over data that cannot be "
                "begun again there; the last checkpoint is that of the epoch before",
            )
            return
        found = state.capture()  # all processes give their part
        if not distributed.is_main():
            return
        try:
            checkpoint.write(self.folder, state.step, found)
            checkpoint.prune(self.folder, state.step, self.keep)
        except OSError as error:
            left = ", ".join(path.name for path in checkpoint.listed(self.folder).values())
            self._complain(
                f"the checkpoint of step {state.step} was not written to {self.folder}: {error}. "
                f"There is {left or 'none before it'}. Training goes on."
            )

    @staticmethod
    def _complain(message: str) -> None:
        warnings.warn(message, ArtplusWarning, stacklevel=4)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in TOLD:
            before = signal.getsignal(number)
            if before is not None and before != signal.SIG_IGN:  # None: not set from Python
                self._before[number] = signal.signal(number, self._hear)

    def _unlisten(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _hear(self, number: int, frame: object) -> None:
        self._told = number
        self._unlisten()  # the second one is not waited for

    def _leave(self) -> None:
        told, self._told = self._told, None
        self._unlisten()
        if told == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()
