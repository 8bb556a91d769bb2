"""A progress bar with live loss, clean and adversarial accuracy, and the time left."""

from __future__ import annotations

import time
from typing import Any

from artplus import distributed
from artplus.training.callbacks._base import Callback
from artplus.training.state import State

REFRESH = 0.5
"""Seconds between updates of the figures, each of which synchronises with the device."""

SHORT = {
    "loss": "loss",
    "clean_accuracy": "clean",
    "adversarial_accuracy": "adv",
    "val_clean_accuracy": "val clean",
    "val_adversarial_accuracy": "val adv",
    "val_clean_loss": "val loss",
    "val_adversarial_loss": "val adv loss",
}


class Progress(Callback):
    """One bar for the whole run, on standard error.

    ``clean`` and ``adv`` are accuracies on the training batches of this epoch; figures with ``val``
    are those of the last validation.
    """

    watches = True

    def __init__(self) -> None:
        self._bar: Any = None
        self._shown = 0.0
        self._validated: dict[str, float] = {}

    def on_fit_begin(self, state: State) -> None:
        from tqdm.auto import tqdm

        self._validated = {}
        self._bar = tqdm(
            total=state.total_steps,
            unit="batch",
            dynamic_ncols=True,
            disable=not distributed.is_main(),
        )

    def on_epoch_begin(self, state: State) -> None:
        self._bar.set_description(f"epoch {state.epoch + 1}/{state.epochs}", refresh=False)

    def on_step_end(self, state: State) -> None:
        if self._bar.n == 0:  # a resumed run starts later; only its own steps count for its speed
            self._bar.n = self._bar.initial = state.step - 1
            self.on_epoch_begin(state)
        if time.monotonic() - self._shown > REFRESH:
            self._show(state)
        self._bar.update()

    def on_epoch_end(self, state: State) -> None:
        self._validated = {k: v for k, v in state.row.items() if k.startswith("val_")}
        self._show(state)

    def on_fit_end(self, state: State) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, state: State) -> None:
        self._shown = time.monotonic()
        figures = state.meter.read() | self._validated
        text = {
            short: f"{figures[name]:.1%}" if name.endswith("accuracy") else f"{figures[name]:.3f}"
            for name, short in SHORT.items()
            if name in figures
        }
        self._bar.set_postfix(text, refresh=True)
