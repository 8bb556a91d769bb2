"""From raw data to batches of this model, and what the first batch decides: task, bounds, unit."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from artplus import distributed, modes
from artplus.bounds import inferred_space
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.spaces.hidden import Hooks, parameters
from artplus.tasks import Task
from artplus.training.columns import with_targets
from artplus.training.data import Arrays, Prepare, Source, TensorPair, batches
from artplus.training.method import Method, check_radii
from artplus.training.probe import check_targets, first, infer_task
from artplus.tree import Tree, device_of

_log = logging.getLogger(__name__)


class Intake:
    """Turns raw data into batches of inputs and targets as this model takes them.

    Args:
        prepare: Converts and checks raw inputs and targets.
        model: Its forward pass names the columns it takes; its task says whether it is also given
            the targets.
    """

    def __init__(self, prepare: Prepare, model: LossModel) -> None:
        self.prepare = prepare
        # A function before the module, as an estimator's preprocessing, takes inputs as they are.
        self._arguments = parameters(model.module) if model.forward is None else ()
        self._gives_targets = model.task.in_model
        self.task: Task | None = None
        """Once it is known, the targets of every batch are checked against it."""

    def batches(
        self,
        data: Any,
        batch_size: int,
        generator: torch.Generator | None,
        device: torch.device,
        *,
        unlabelled: bool = False,
        supervised: bool = True,
    ) -> Source:
        """Re-iterable batches of ``data``; see :func:`~artplus.training.data.batches`.

        With ``unlabelled`` a loader may give examples without a label; without ``supervised`` there
        are no targets at all.
        """
        return batches(
            data,
            partial(self._prepared, unlabelled=unlabelled, supervised=supervised),
            batch_size=batch_size,
            generator=generator,
            device=device,
            arguments=self._arguments,
            supervised=supervised,
        )

    def with_inferred_task(self, model: LossModel, source: Source) -> tuple[LossModel, Source]:
        """The model with the task that the first batch implies, and batches as that task needs."""
        model = infer_task(model, first(source))
        if model.task.in_model and not self._gives_targets:
            self._gives_targets = True
            if isinstance(source, Arrays):  # prepared already, without the targets
                source.x = with_targets(source.x, source.y, self._arguments)
        return model, source

    def with_inferred_bounds(self, method: Method, source: Source) -> tuple[Method, list[str]]:
        """The method with a space, bounds inferred from the data if none were given, and notes.

        Raises:
            ConfigurationError: for a radius as wide as the range.
        """
        notes = []
        if method.space is None and method.attack is None:
            method = replace(method, space=InputSpace())
        elif method.space is None:
            x = source.x if isinstance(source, Arrays) else first(source).x
            space, note = inferred_space(x)
            method = replace(method, space=space)
            notes.append(note)
            _log.info(note)
        if isinstance(self.prepare, TensorPair):
            self.prepare.space = method.space
        if method.attack is not None and isinstance(method.space, InputSpace):
            x = source.head(1).x if isinstance(source, Arrays) else first(source).x
            check_radii(method.attack, method.space, x)
        return method, notes

    def _prepared(self, x: Any, y: Any, *, unlabelled: bool, supervised: bool) -> tuple[Tree, Tree]:
        inputs, targets = self.prepare(x, y)
        # Targets that are on a GPU already are not looked at, since that would wait for it.
        if self.task is not None and supervised and device_of(targets).type == "cpu":
            check_targets(self.task, targets, unlabelled=unlabelled)
        if self._gives_targets:
            inputs = with_targets(inputs, targets, self._arguments)
        return inputs, targets


def measure_unit(hooks: Hooks, model: LossModel, source: Source, space: Space) -> list[str]:
    """Run a hidden space once before any step, and fix the unit of its radius.

    The unit is the mean over the processes, each of which measures it on its own examples.

    Returns:
        A note for the history if the radius is relative.
    """
    with modes.attack_mode(model.module):
        space.lift(model, first(source).x)
        unit = space.unit(model)
    if hooks.unit is None:
        return []
    total = distributed.all_reduce(torch.tensor(hooks.unit, dtype=torch.float64))
    hooks.unit = float(total) / distributed.world_size()
    if unit == 1.0:
        return []
    return [f"a radius of 1 is {hooks.unit:.4g}, the mean norm of the rows it is relative to"]
