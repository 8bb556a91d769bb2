"""Detect training that cannot succeed, and name remedies."""

from __future__ import annotations

import math
import warnings
from typing import Any, NoReturn

import torch

from artplus import _checks
from artplus.errors import StuckAtChanceWarning, TrainingDivergedError
from artplus.training.callbacks._base import Callback
from artplus.training.state import State, Weights, clone

CHECK_EVERY = 16
"""Steps between checks of the loss, each of which synchronises with the device."""

GRACE = 100
"""Steps in which a model may be at chance without a warning."""


class NonFinite(Callback):
    """Stop with an error when the loss or the weights become NaN or infinite.

    The weights from the beginning of that epoch are restored, unless a :class:`KeepBest` has better
    ones. It comes before the callbacks that measure and keep weights.

    Raises:
        TrainingDivergedError: during training.
    """

    def __init__(self) -> None:
        self._start: Weights | None = None
        self._averaged: Weights | None = None

    def on_epoch_begin(self, state: State) -> None:
        self._start = state.copy()
        self._averaged = None if state.averaged is None else clone(state.averaged)

    def on_step_end(self, state: State) -> None:
        if state.step % CHECK_EVERY == 0:
            self._check(state, state.epoch + 1)

    def on_epoch_end(self, state: State) -> None:
        self._check(state, state.epoch)
        # The last step of an epoch may ruin the weights after a finite loss.
        if not _finite(state):
            self._stop(state, state.epoch, "some weights became NaN or infinite")
        self._start = self._averaged = None  # the next epoch makes its own copies

    def on_fit_end(self, state: State) -> None:
        self._start = self._averaged = None

    def state_dict(self) -> dict[str, Any]:
        return {"sound": self._start, "averaged": self._averaged}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._start, self._averaged = saved["sound"], saved["averaged"]

    def _check(self, state: State, epoch: int) -> None:
        loss = state.meter.pool().get("loss", 0.0)
        if not math.isfinite(loss):
            self._stop(state, epoch, f"the training loss became {loss}")

    def _stop(self, state: State, epoch: int, what: str) -> NoReturn:
        if self._start is not None:
            state.put_back(self._start)
            state.averaged = self._averaged
        rate = state.optimizer.param_groups[0]["lr"]
        raise TrainingDivergedError(
            f"{what} in epoch {epoch}, step {state.step}; weights from before this epoch were put "
            "back, but the optimizer's own state may be unusable. Usual remedies, in order: a "
            f"lower learning rate (now {rate:g}), GradientClipping(1.0), a longer EpsWarmup, and "
            "no softmax or log at the end of the model (the loss expects logits)."
        )


def _finite(state: State) -> bool:
    """Whether every trained weight is finite; synchronises with the device once."""
    named = state.model.module.named_parameters()
    finite = [p.detach().isfinite().all() for name, p in named if name not in state.frozen]
    return not finite or bool(torch.stack(finite).all())


class StuckAtChance(Callback):
    r"""Warn when the model is still at chance after several epochs.

    At large ε adversarial training can collapse to a constant prediction at once and stay there,
    with its loss at :math:`\ln C` for C classes. Warns once per fit, after ``patience`` such epochs
    at full ε.

    Args:
        patience: Epochs at chance before the warning.
    """

    def __init__(self, patience: int = 2) -> None:
        self.patience = _checks.count("patience", patience)
        self._epochs, self._warned = 0, False

    def on_fit_begin(self, state: State) -> None:
        self._epochs, self._warned = 0, False

    def on_epoch_end(self, state: State) -> None:
        classes = state.model.classes if state.model.task.over_classes else None
        if state.row.get("eps_scale", 1.0) < 1.0 or classes is None:
            return
        accuracy = state.row.get("clean_accuracy")  # robust accuracy may well be below chance
        if accuracy is None or state.step < GRACE:
            return
        at_chance = accuracy <= 1.2 / classes
        self._epochs = self._epochs + 1 if at_chance else 0
        if self._epochs < self.patience or self._warned:
            return
        self._warned = True
        message = (
            f"after epoch {state.epoch} the model still only guesses (accuracy {accuracy:.1%}, "
            f"chance {1 / classes:.1%}). Usual remedies, in order: a longer warm-up of "
            "eps (callbacks=[EpsWarmup(epochs=...)]), a lower learning rate, a smaller eps; then "
            "check that labels match inputs, that x is in the range of clip_values, and that the "
            "model outputs logits, not softmax."
        )
        state.history.notes.append(message)
        warnings.warn(message, StuckAtChanceWarning, stacklevel=2)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self._epochs, "warned": self._warned}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._epochs, self._warned = saved["epochs"], saved["warned"]
