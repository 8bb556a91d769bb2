"""Stop when robust validation accuracy no longer improves."""

from __future__ import annotations

from typing import Any

from artplus import _checks
from artplus.training.callbacks._base import Callback
from artplus.training.callbacks.keep_best import figure_of, warn_unmeasured
from artplus.training.state import State


class EarlyStopping(Callback):
    """Stop when the selected figure has not improved for some epochs.

    Args:
        patience: Epochs without improvement before training stops, >= 1.
        monitor: As in :class:`KeepBest`.
        min_delta: Smallest change that counts as an improvement.
    """

    def __init__(
        self, patience: int = 5, *, monitor: str | None = None, min_delta: float = 0.0
    ) -> None:
        self.patience = _checks.count("patience", patience)
        self.min_delta = _checks.nonnegative("min_delta", min_delta)
        _checks.text("monitor", monitor)
        self.monitor = monitor
        self._best, self._waited = float("-inf"), 0

    def on_fit_begin(self, state: State) -> None:
        self._best, self._waited = float("-inf"), 0

    def on_epoch_end(self, state: State) -> None:
        figure = figure_of(state.row, self.monitor)
        if figure is None:
            return
        name, value = figure
        if value > self._best + self.min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= self.patience:
            state.stop = f"{name} has not improved for {self._waited} epochs"
            state.history.notes.append(f"stopped after epoch {state.epoch}: {state.stop}")

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._best, self._waited = saved["best"], saved["waited"]

    def on_fit_end(self, state: State) -> None:
        warn_unmeasured(self, self.monitor, state)
