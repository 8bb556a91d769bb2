"""Any torch learning-rate scheduler, stepped per batch or per epoch as it expects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from artplus.errors import ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.state import State

Scheduler = Any
"""An object with ``step()``: torch schedulers share no public base class in all versions."""

Factory = Callable[[Optimizer, int], Scheduler]
"""``(optimizer, total_steps) -> Scheduler``."""


class LearningRate(Callback):
    """Step a scheduler at the right moments.

    Args:
        scheduler: A scheduler of the training optimizer, or a factory
            ``(optimizer, total_steps) -> scheduler``, which is stepped per batch.
        interval: ``"batch"``, ``"epoch"`` or ``"auto"``: per batch for factories, ``OneCycleLR``
            and ``CyclicLR``, per epoch for all others. ``ReduceLROnPlateau`` gets the robust
            validation accuracy (``mode="max"``) or the training loss (``mode="min"``).

    Raises:
        ConfigurationError: before training, if the scheduler has no ``step``, drives another
            optimizer, or is too short for the run.
    """

    def __init__(
        self,
        scheduler: Scheduler | Factory,
        interval: Literal["auto", "batch", "epoch"] = "auto",
    ) -> None:
        if interval not in ("auto", "batch", "epoch"):
            raise ConfigurationError(f"interval must be auto, batch or epoch, got {interval!r}")
        if not hasattr(scheduler, "step") and not callable(scheduler):
            raise ConfigurationError(
                "scheduler must be a torch learning-rate scheduler or a factory "
                f"(optimizer, total_steps) -> scheduler, got {scheduler!r}"
            )
        self._given, self._interval = scheduler, interval
        self._scheduler: Scheduler = scheduler
        self._per_batch = interval == "batch"

    def on_fit_begin(self, state: State) -> None:
        made = not hasattr(self._given, "step")
        if made:
            if state.total_steps is None:
                raise ConfigurationError(
                    "a scheduler factory needs the number of steps, but this loader has no "
                    "length; pass a ready scheduler"
                )
            self._scheduler = self._given(state.optimizer, state.total_steps)
        by_batch = made or isinstance(self._scheduler, (OneCycleLR, CyclicLR))
        self._per_batch = by_batch if self._interval == "auto" else self._interval == "batch"
        if getattr(self._scheduler, "optimizer", state.optimizer) is not state.optimizer:
            raise ConfigurationError(
                "scheduler drives another optimizer than the one in training; build it on the "
                "estimator's own: StepLR(classifier.optimizer, ...)"
            )
        planned = state.total_steps if self._per_batch else state.epochs
        length = getattr(self._scheduler, "total_steps", None)
        if isinstance(self._scheduler, OneCycleLR) and length and planned and planned > length:
            raise ConfigurationError(
                f"OneCycleLR was built for {length} steps but training takes {planned} "
                f"({state.epochs} epochs of {state.batches_per_epoch} batches); set total_steps, "
                "or pass a factory: lambda optimizer, steps: OneCycleLR(optimizer, ..., "
                "total_steps=steps)"
            )

    def on_step_end(self, state: State) -> None:
        if self._per_batch:
            self._scheduler.step()

    def on_epoch_end(self, state: State) -> None:
        if self._per_batch:
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(self._figure(state, self._scheduler.mode))
        else:
            self._scheduler.step()

    @staticmethod
    def _figure(state: State, mode: str) -> float:
        wanted = "val_adversarial_accuracy" if mode == "max" else "loss"
        if wanted not in state.row:
            raise ConfigurationError(
                f"ReduceLROnPlateau(mode={mode!r}) follows {wanted}, which needs validation_data"
            )
        return float(state.row[wanted])
