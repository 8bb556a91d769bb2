"""The options of a training run other than model, data, optimizer and method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from artplus import _checks, distributed
from artplus.attacks._base import Budget
from artplus.errors import ConfigurationError
from artplus.training.callbacks import EMA, Callback, Checkpoint, LearningRate
from artplus.training.checkpoint import Resume
from artplus.training.engines import Engine
from artplus.training.steps import Step, standard


@dataclass(frozen=True, kw_only=True)
class Run:
    """The options that :func:`artplus.fit` and the trainers share, documented here.

    Attributes:
        epochs: Passes over the data.
        batch_size: For arrays and data sets; a ``DataLoader`` has its own.
        validation: Held-out data in any form that training takes. It is measured after each epoch
            with another attack than the training one.
        validation_eps: Radius of the validation attack if the method has no radius.
        validation_norm: Norm of the validation attack if the method has no radius.
        keep_best: With validation, end with the weights of the best epoch.
        scheduler: A torch learning-rate scheduler, or a factory ``(optimizer, total_steps) ->
            scheduler``; see :class:`~artplus.training.callbacks.LearningRate`.
        scheduler_interval: When the scheduler steps: ``"batch"``, ``"epoch"`` or ``"auto"``.
        callbacks: Further callbacks. ``EpsWarmup`` is added by default where ``eps`` is large;
            one in this list replaces it.
        step: How the weights move on a batch: ``AWP()`` or ``Free()`` of
            :mod:`artplus.training.steps`, or your own.
        engine: Where training runs; see :func:`~artplus.training.engines.as_engine`.
        micro_batch: Most examples in one forward and backward pass. The gradient is still that of
            the whole batch. ``None`` passes whole batches, and halves them if memory runs out.
        seed: Seeds everything random: two runs with the same seed are identical on one device.
            ``None`` draws a seed from torch's generator.
        progress: Show a progress bar.
        resume: Where to continue from; see :class:`~artplus.training.Resume`.

    Raises:
        ConfigurationError: for values that cannot work.
    """

    epochs: int = 20
    batch_size: int = 128
    validation: Any = None
    validation_eps: Budget | None = None
    validation_norm: float = torch.inf
    keep_best: bool = True
    scheduler: Any = None
    scheduler_interval: Literal["auto", "batch", "epoch"] = "auto"
    callbacks: Sequence[Callback] = ()
    step: Step = standard
    engine: Engine = field(default_factory=Engine)
    micro_batch: int | None = None
    seed: int | None = None
    progress: bool = True
    resume: Resume | None = None

    def __post_init__(self) -> None:
        numbers = {
            "epochs": _checks.count("epochs", self.epochs),
            "batch_size": _checks.count("batch_size", self.batch_size),
        }
        if self.seed is not None:
            numbers["seed"] = _checks.seed("seed", self.seed)
        if self.micro_batch is not None:
            numbers["micro_batch"] = _checks.count("micro_batch", self.micro_batch, least=2)
        for name, number in numbers.items():  # numpy's numbers as Python's
            object.__setattr__(self, name, number)
        _checks.flag("progress", self.progress)
        if not callable(self.step):
            raise ConfigurationError(
                f"step must be called as step(state, batch, gradients), got {self.step!r}"
            )
        _checks.flag("keep_best", self.keep_best)
        _checks.choice("scheduler_interval", self.scheduler_interval, ("auto", "batch", "epoch"))
        if self.scheduler is not None:
            LearningRate(self.scheduler, self.scheduler_interval)  # refuses what is none
        if not isinstance(self.callbacks, Sequence):
            raise ConfigurationError(f"callbacks must be a list, got {self.callbacks!r}")
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise ConfigurationError(f"callbacks must be Callback objects, got {callback!r}")
        if sum(isinstance(callback, Checkpoint) for callback in self.callbacks) > 1:
            raise ConfigurationError("callbacks hold more than one Checkpoint; one run, one folder")
        if sum(isinstance(callback, EMA) for callback in self.callbacks) > 1:
            raise ConfigurationError("callbacks hold more than one EMA; there is one average")

    def settings(self) -> dict[str, Any]:
        """The options that identify a run in its checkpoints."""
        names = ("epochs", "batch_size", "validation_eps", "validation_norm", "scheduler_interval")
        options = {name: getattr(self, name) for name in (*names, "step", "micro_batch", "seed")}
        return options | {
            "engine": self.engine.name,
            "numerics": self.engine.requested,
            "processes": distributed.world_size(),
        }
