"""Curves of a run for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from artplus.errors import ConfigurationError
from artplus.fingerprint import Fingerprint
from artplus.training.callbacks.tracking import Figures, Tracker, missing
from artplus.training.state import State, Weights


class TensorBoard(Tracker):
    """Write event files, which ``tensorboard --logdir`` shows.

    Each run has one folder. A run that is resumed into its folder continues its curves, and hides
    what was written after the checkpoint; a new run hides what an earlier one wrote.

    See :class:`~artplus.training.callbacks.tracking.Tracker` for what is written when. Settings are
    a table under *Text* and a row under *HParams*.

    Args:
        folder: For event files; created if missing.
        every_steps: Steps between figures of a step.

    Raises:
        ConfigurationError: before training, if TensorBoard is not installed, or the folder cannot
            be written.

    Example:
        >>> TensorBoard("runs/trades").every_steps
        10
    """

    def __init__(self, folder: str | Path, *, every_steps: int = 10) -> None:
        super().__init__(every_steps=every_steps)
        self.folder = Path(folder)
        self._writer: Any = None
        self._last: Figures = {}

    def connect(self) -> None:
        self._writer, self._last = None, {}
        try:
            import tensorboard  # noqa: F401
            from torch.utils.tensorboard import SummaryWriter  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(missing("TensorBoard", "tensorboard")) from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self.folder} cannot be written: {error}") from error

    def begin(self, settings: Fingerprint, done: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Figures of step ``done`` itself were written before the checkpoint was.
        self._writer = SummaryWriter(str(self.folder), purge_step=done + 1 if done else 0)
        if not done:
            rows = [f"| {name} | {value} |" for name, value in settings.items()]
            self._writer.add_text("settings", "\n".join(["| | |", "| --- | --- |", *rows]), 0)

    def log(self, figures: Figures, step: int) -> None:
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)
        if any(name.startswith("epoch/") for name in figures):
            self._last = figures
            self._writer.flush()

    def end(self, state: State, weights: Weights | None, *, finished: bool) -> None:
        if state.history.notes:
            notes = "\n".join(f"- {note}" for note in state.history.notes)
            self._writer.add_text("notes", notes, state.step)
        if finished:
            final = {f"final/{name.removeprefix('epoch/')}": v for name, v in self._last.items()}
            # Into the folder of this run: without a name torch creates a new one for each call.
            self._writer.add_hparams(
                dict(self._settings), final, run_name=".", global_step=state.step
            )
        self._writer.close()
        self._writer = None
