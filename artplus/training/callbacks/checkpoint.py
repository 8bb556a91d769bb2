"""Save the run at intervals, and on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import threading
import warnings
from pathlib import Path
from typing import Any

from artplus import _checks, distributed
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.folder_lock import FolderLock
from artplus.training import checkpoint
from artplus.training.callbacks._base import Callback
from artplus.training.state import State

SIGNALS = (signal.SIGINT, signal.SIGTERM)

AGREE_EVERY = 8
"""Steps between exchanges of signals among several processes."""


class Checkpoint(Callback):
    """Keep the last checkpoints of a run, from which ``fit(..., resume=folder)`` continues.

    A resumed run ends with the weights that it would have had without the interruption, to the last
    bit on a CPU. Files are written atomically. If a write fails, as on a full disk, a warning says
    so, earlier checkpoints stay, and training continues.

    Frozen weights that have not changed are not written, only a checksum of them: build the model
    on the same pretrained weights before resuming. The checkpoint knows which weights are
    trainable.

    Ctrl-C and SIGTERM end the run after the present step: the state is saved, the other callbacks
    end (:class:`KeepBest` restores its weights), and ``KeyboardInterrupt`` or ``SystemExit(143)``
    is raised. A second signal has its usual effect. Signals are handled in the main thread only,
    and not if they were ignored before. With several processes the first one writes, and all stop
    together, within :data:`AGREE_EVERY` steps.

    Args:
        folder: For files ``step-*.ckpt`` of one run only; created if missing.
        every_epochs: Epochs between checkpoints; the last epoch is always saved.
        every_steps: Steps between further checkpoints; ``None`` is none. Needs data that can be
            continued within an epoch: arrays, a map-style data set, a list of batches.
        keep: Number of checkpoints to keep, >= 1; with 2 or more, a damaged one is no loss.

    Raises:
        ConfigurationError: before training, if the folder belongs to another run, another run is
            writing to it, or it cannot be written to.
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
        self.folder = _checks.path("folder", folder)
        self.every_epochs = _checks.count("every_epochs", every_epochs)
        if every_steps is not None:
            _checks.count("every_steps", every_steps)
        self.every_steps = every_steps
        self.keep = _checks.count("keep", keep)
        self._lock: FolderLock | None = None
        self._signal: int | None = None
        self._handlers: dict[int, Any] = {}

    def on_fit_begin(self, state: State) -> None:
        if self.every_steps is not None and not state.replayable:
            raise ConfigurationError(
                "every_steps saves in the middle of epochs, but this data is an iterable that "
                "cannot be begun again there; leave it out, or give a map-style data set"
            )
        distributed.from_main(lambda: self._claim(state))
        checkpoint.plain(state.capture())  # raises before any step if it cannot be saved
        self._signal = None
        self._listen()

    def _claim(self, state: State) -> None:
        """Lock the folder, and refuse that of another run."""
        lock = FolderLock(self.folder)
        continued = state.resumed is not None and _same(state.resumed.parent, self.folder)
        if checkpoint.listed(self.folder) and not continued:
            lock.release()
            raise ConfigurationError(
                f"{self.folder} already holds checkpoints; continue their run with "
                f"resume={str(self.folder)!r}, or choose another folder"
            )
        self._lock = lock
        checkpoint.sweep(self.folder)

    def on_pause(self, state: State) -> None:
        number = self._agreed_signal(state)
        if number is not None or self._due(state):
            self._save(state)
        if number is not None:
            self._leave()

    def on_fit_end(self, state: State) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        self._unlisten()
        if self._signal is not None:  # it came after the last pause
            self._leave()

    def _agreed_signal(self, state: State) -> int | None:
        """The signal that any process received; processes exchange it every few steps."""
        if distributed.world_size() == 1:
            return self._signal
        if state.done % AGREE_EVERY:
            return None
        self._signal = max(distributed.all_gather(self._signal or 0)) or None
        return self._signal

    def _due(self, state: State) -> bool:
        if state.done:
            return self.every_steps is not None and state.step % self.every_steps == 0
        last = state.epoch == state.epochs or state.stop is not None
        return last or state.epoch % self.every_epochs == 0

    def _save(self, state: State) -> None:
        if state.done and not state.replayable:
            self._warn(
                "training was interrupted in the middle of an epoch over data that cannot be "
                "begun again there; the last checkpoint is that of the epoch before",
            )
            return
        payload = state.capture()  # collective: all processes take part
        if not distributed.is_main():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)  # it may have been taken away
            checkpoint.write(self.folder, state.step, payload)
            checkpoint.prune(self.folder, state.step, self.keep)
        except OSError as error:
            names = ", ".join(path.name for path in checkpoint.listed(self.folder).values())
            self._warn(
                f"the checkpoint of step {state.step} was not written to {self.folder}: {error}. "
                f"There is {names or 'none before it'}. Training goes on."
            )

    @staticmethod
    def _warn(message: str) -> None:
        warnings.warn(message, ArtplusWarning, stacklevel=4)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler is not None and handler != signal.SIG_IGN:  # None: not set from Python
                self._handlers[number] = signal.signal(number, self._receive)

    def _unlisten(self) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _receive(self, number: int, frame: object) -> None:
        self._signal = number
        self._unlisten()  # a second signal has its usual effect

    def _leave(self) -> None:
        number, self._signal = self._signal, None
        self._unlisten()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + signal.SIGTERM)


def _same(a: Path, b: Path) -> bool:
    return a.resolve() == b.resolve()
