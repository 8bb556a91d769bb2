"""The callbacks of a run: the default ones and the user's, in an order that suits all."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace
from artplus.training import callbacks as events
from artplus.training.callbacks import Callback
from artplus.training.intake import Intake
from artplus.training.method import Method
from artplus.training.plan import Run
from artplus.training.probe import probe_held_out

SHAPE_STEPS = (events.EpsWarmup, events.EMA, events.GradientClipping)
"""Callbacks that change a step, so that they come before those that measure it."""


def with_defaults(
    model: LossModel, method: Method, plan: Run, intake: Intake, device: torch.device
) -> list[Callback]:
    """The user's callbacks and the default ones, ordered so that each finds what it reads.

    First those that shape a step, then the guard against NaN, then validation, then what reads
    its figures (selection, schedulers, and the user's other callbacks in their order), then the
    progress bar, and at the end what saves.

    Raises:
        ConfigurationError: for callbacks that follow validation figures without validation data,
            or that contradict each other.
    """
    ordered: list[Callback] = []
    warmup = events.default_warmup(method)
    if warmup is not None and not any(isinstance(c, events.EpsWarmup) for c in plan.callbacks):
        ordered.append(warmup)
    validations = [c for c in plan.callbacks if isinstance(c, events.Validation)]
    shapers = [c for c in plan.callbacks if isinstance(c, SHAPE_STEPS)]
    ordered += [*shapers, events.NonFinite(), *validations]
    if plan.validation is not None:
        held_out = intake.batches(plan.validation, plan.batch_size, None, device)
        probe_held_out(model, held_out)
        attack = events.validation_attack(
            model, method, eps=plan.validation_eps, norm=plan.validation_norm
        )
        validations.append(events.Validation(held_out, attack, space=method.space or InputSpace()))
        ordered.append(validations[-1])
        if plan.keep_best and not any(isinstance(c, events.KeepBest) for c in plan.callbacks):
            ordered.append(events.KeepBest())
    if plan.scheduler is not None:
        if any(isinstance(c, events.LearningRate) for c in plan.callbacks):
            raise ConfigurationError(
                "scheduler= and a LearningRate callback would both step the learning rate; give "
                "one of them"
            )
        ordered.append(events.LearningRate(plan.scheduler, plan.scheduler_interval))
    savers = [c for c in plan.callbacks if isinstance(c, events.Checkpoint)]
    ordered += [c for c in plan.callbacks if c not in ordered and c not in savers]
    if not validations:
        _refuse_without_validation(ordered)
    _refuse_warm_start_with_augment(ordered)
    ordered.append(events.StuckAtChance())
    if plan.progress:
        ordered.append(events.Progress())
    return ordered + savers


def _refuse_without_validation(callbacks: Sequence[Callback]) -> None:
    """Refuse callbacks that follow validation figures: without them they would do nothing."""
    for callback in callbacks:
        if isinstance(callback, (events.KeepBest, events.EarlyStopping)) and (
            callback.monitor is None or callback.monitor.startswith("val_")
        ):
            raise ConfigurationError(
                f"{type(callback).__name__} follows validation figures, but there is no "
                "validation data; give some, or name a column of training: monitor='loss'"
            )
        if isinstance(callback, events.LearningRate) and callback.follows_validation:
            raise ConfigurationError(
                "ReduceLROnPlateau(mode='max') follows validation accuracy; give validation data, "
                "or use mode='min' for the training loss"
            )


def _refuse_warm_start_with_augment(callbacks: Sequence[Callback]) -> None:
    """Refuse both together: a perturbation fits the image only as it was when it was attacked."""
    kinds = {type(callback) for callback in callbacks}
    if events.WarmStart in kinds and events.Augment in kinds:
        raise ConfigurationError(
            "WarmStart keeps a perturbation for each image, and Augment moves the images from "
            "epoch to epoch, so that perturbations no longer fit; leave one of them out"
        )
