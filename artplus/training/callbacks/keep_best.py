"""End with the weights of the best epoch, by robust accuracy on held-out data."""

from __future__ import annotations

import warnings
from typing import Any

from artplus import _checks
from artplus.errors import ArtplusWarning
from artplus.training.callbacks._base import Callback
from artplus.training.state import State, Weights, clone

BY_DEFAULT = ("val_adversarial_accuracy", "val_clean_accuracy")
LOSSES = ("val_adversarial_loss", "val_clean_loss")


def figure_of(row: dict[str, float], monitor: str | None) -> tuple[str, float] | None:
    """Name and value of the figure to select by, larger is better; ``None`` if not measured.

    By default the robust validation accuracy, else the clean one, else the validation losses
    (negated).
    """
    names = (monitor,) if monitor is not None else (*BY_DEFAULT, *LOSSES)
    for name in names:
        if name in row:
            return name, -row[name] if name.endswith("loss") else row[name]
    return None


def warn_unmeasured(callback: Callback, monitor: str | None, state: State) -> None:
    """Warn that the callback's figure was never measured, as with a misspelt column."""
    if len(state.history) == 0 or any(figure_of(row, monitor) for row in state.history):
        return
    wanted = "validation figure" if monitor is None else f"column {monitor!r}"
    known = ", ".join(sorted({name for row in state.history for name in row}))
    warnings.warn(
        f"{type(callback).__name__} did nothing: no {wanted} was measured; there were: {known}",
        ArtplusWarning,
        stacklevel=3,
    )


class KeepBest(Callback):
    """Keep the weights of the best epoch and restore them after training [Rice20]_.

    Robust overfitting costs several points late in training; the best epoch by robust validation
    accuracy avoids it. Needs a :class:`Validation` before it in the list. Ties go to the later
    epoch. If training ends with an error, the best weights so far are restored as well.

    Args:
        monitor: Column to select by. ``None`` takes the first measured one of robust validation
            accuracy, clean validation accuracy, and the two validation losses. Columns whose names
            end in ``loss`` are minimised.

    References:
        .. [Rice20] Rice, Wong and Kolter, "Overfitting in adversarially robust deep learning",
           ICML 2020, https://arxiv.org/abs/2002.11569
    """

    def __init__(self, monitor: str | None = None) -> None:
        _checks.text("monitor", monitor)
        self.monitor = monitor
        self._weights: Weights | None = None
        self._best = float("-inf")
        self._epoch = 0
        self._name = ""

    def on_fit_begin(self, state: State) -> None:
        self._weights, self._best, self._epoch = None, float("-inf"), 0

    def on_epoch_end(self, state: State) -> None:
        figure = figure_of(state.row, self.monitor)
        if figure is not None and figure[1] >= self._best:
            self._name, self._best = figure
            self._epoch = state.epoch
            self._weights = clone(state.moving() | (state.averaged or {}))

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self._weights,
            "best": self._best,
            "epoch": self._epoch,
            "name": self._name,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._weights = saved["weights"]
        self._best = saved["best"]
        self._epoch = saved["epoch"]
        self._name = saved["name"]

    def on_fit_end(self, state: State) -> None:
        if self._weights is None:
            warn_unmeasured(self, self.monitor, state)
            return
        state.put_back(self._weights)
        state.averaged = None
        value = -self._best if self._name.endswith("loss") else self._best
        state.history.notes.append(
            f"kept the weights of epoch {self._epoch}: best {self._name} {value:.4f}"
        )
        self._weights = None
