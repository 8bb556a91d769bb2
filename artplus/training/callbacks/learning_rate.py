"""Any torch learning-rate scheduler, stepped per batch or per epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, OneCycleLR, ReduceLROnPlateau

from artplus.errors import CheckpointError, ConfigurationError
from artplus.training.callbacks._base import Callback
from artplus.training.callbacks.keep_best import figure_of
from artplus.training.state import State

Scheduler = Any
"""An object with ``step()``; not all torch versions have a public base class."""

FIXED = {
    *("T_0", "T_max", "T_mult", "cooldown", "end_factor", "eta_min", "factor", "gamma"),
    *("milestones", "mode", "patience", "power", "start_factor", "step_size", "threshold"),
    *("total_iters", "total_steps"),
}
"""Settings of schedulers that do not change after construction."""

Factory = Callable[[Optimizer, int], Scheduler]
"""``(optimizer, total_steps) -> Scheduler``."""


class LearningRate(Callback):
    """Step a scheduler at the right moments.

    Args:
        scheduler: A scheduler of the training optimizer, or a factory
            ``(optimizer, total_steps) -> scheduler``, which is stepped per batch.
        interval: ``"batch"``, ``"epoch"`` or ``"auto"``: per batch for factories, ``OneCycleLR``
            and ``CyclicLR``, per epoch for all others. ``ReduceLROnPlateau``, always per epoch,
            gets what :class:`KeepBest` selects by (``mode="max"``: robust validation accuracy) or
            the training loss (``mode="min"``).

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
        if isinstance(scheduler, type):
            raise ConfigurationError(
                f"scheduler is the class {scheduler.__name__}; pass an object, "
                f"{scheduler.__name__}(optimizer, ...), or a factory: "
                f"lambda optimizer, steps: {scheduler.__name__}(optimizer, ...)"
            )
        if not hasattr(scheduler, "step") and not callable(scheduler):
            raise ConfigurationError(
                "scheduler must be a torch learning-rate scheduler or a factory "
                f"(optimizer, total_steps) -> scheduler, got {scheduler!r}"
            )
        self._argument, self._interval = scheduler, interval
        self._scheduler: Scheduler = scheduler
        self._per_batch = interval == "batch"

    @property
    def follows_validation(self) -> bool:
        """Whether the scheduler needs a validation accuracy."""
        return isinstance(self._scheduler, ReduceLROnPlateau) and self._scheduler.mode == "max"

    def on_fit_begin(self, state: State) -> None:
        from_factory = not hasattr(self._argument, "step")
        if from_factory:
            if state.total_steps is None:
                raise ConfigurationError(
                    "a scheduler factory needs the number of steps, but this loader has no "
                    "length; pass a ready scheduler"
                )
            self._scheduler = self._made(state.optimizer, state.total_steps)
        plateau = isinstance(self._scheduler, ReduceLROnPlateau)
        if plateau and self._interval == "batch":
            raise ConfigurationError(
                "ReduceLROnPlateau follows a figure of the epoch; leave interval at 'auto'"
            )
        if self.follows_validation and not state.validates:
            raise ConfigurationError(
                "ReduceLROnPlateau(mode='max') follows validation accuracy; give validation data, "
                "or use mode='min' for the training loss"
            )
        cyclic = isinstance(self._scheduler, (OneCycleLR, CyclicLR))
        by_batch = cyclic or (from_factory and not plateau)
        self._per_batch = by_batch if self._interval == "auto" else self._interval == "batch"
        if getattr(self._scheduler, "optimizer", state.optimizer) is not state.optimizer:
            raise ConfigurationError(
                "scheduler drives another optimizer than the one in training; build it on the "
                "estimator's own: StepLR(classifier.optimizer, ...)"
            )
        planned = state.total_steps if self._per_batch else state.epochs
        remaining = None
        if isinstance(self._scheduler, OneCycleLR) and state.resumed is None:
            remaining = self._scheduler.total_steps - self._scheduler.last_epoch
        if remaining is not None and planned is not None and planned > remaining:
            raise ConfigurationError(
                f"OneCycleLR has {remaining} of its {self._scheduler.total_steps} steps left but "
                f"training takes {planned} (epochs: {state.epochs}); set total_steps, "
                "or pass a factory: lambda optimizer, steps: OneCycleLR(optimizer, ..., "
                "total_steps=steps)"
            )

    def _made(self, optimizer: Any, steps: int) -> Scheduler:
        """What the factory makes of the optimizer and the number of steps."""
        try:
            made: Any = self._argument(optimizer, steps)
        except TypeError as error:
            raise ConfigurationError(
                f"the scheduler factory failed as (optimizer, total_steps) -> scheduler: {error}"
            ) from error
        if not callable(getattr(made, "step", None)):
            raise ConfigurationError(
                f"the scheduler factory must return a torch learning-rate scheduler, got {made!r}"
            )
        scheduler: Scheduler = made
        return scheduler

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

    def state_dict(self) -> dict[str, Any]:
        return {"type": type(self._scheduler).__name__, "scheduler": self._scheduler.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        present, settings = self.state_dict(), saved["scheduler"]
        fixed = {name: present["scheduler"].get(name) for name in FIXED & settings.keys()}
        differ = {name: value for name, value in fixed.items() if value != settings[name]}
        if present["type"] != saved["type"] or differ:
            raise CheckpointError(
                f"the scheduler is another one: {saved['type']} with "
                f"{ {name: settings[name] for name in differ} } in the checkpoint, "
                f"{present['type']} with {differ} now. Resume with the scheduler that the run "
                "began with."
            )
        self._scheduler.load_state_dict(settings)

    @staticmethod
    def _figure(state: State, mode: str) -> float:
        if mode == "min":
            return float(state.row["loss"])
        figure = figure_of(state.row, None)
        if figure is None:
            raise ConfigurationError(
                "ReduceLROnPlateau(mode='max') follows validation accuracy, but none was measured; "
                "give validation data, or use mode='min' for the training loss"
            )
        return figure[1]
