"""What the user asks for, and a Trainer's batches as inputs and targets of its model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from artplus import distributed
from artplus.attacks import Attack
from artplus.model import as_loss_model
from artplus.tasks import Task
from artplus.training.callbacks import EpsWarmup
from artplus.training.data import Batch, Source, TensorPair
from artplus.training.fit import dtype_of
from artplus.training.intake import Intake
from artplus.training.method import Method
from artplus.training.steps import Step


@dataclass(frozen=True)
class Settings:
    """What the user asks for beside the Trainer's own arguments.

    Attributes:
        method: Objective, attack and space.
        step: Fills the gradients on a batch.
        warmup: Raises the radius; ``None`` is the default for large radii.
        criterion: The model's own loss; ``None`` is its task's usual one.
        task: What predictions and targets mean.
        eval_attack: Attacks evaluation data.
        seed: Of attacks.
    """

    method: Method
    step: Step
    warmup: EpsWarmup | None = None
    criterion: Callable[..., Tensor] | None = None
    task: str | Task = "auto"
    eval_attack: Attack | None = None
    seed: int = 0


class Own(list[Any]):
    """Batches of this process alone, as a Trainer's loader gives them."""

    @property
    def num_replicas(self) -> int:
        """As of a sampler that has shared the data among the processes."""
        return distributed.world_size()


class Batches:
    """Turns a Trainer's batches into those of its model, with the checks of :func:`artplus.fit`.

    Args:
        settings: Say what predictions and targets mean, and what is perturbed.
        module: The bare module.
        inputs: The first batch, on the device.

    Attributes:
        model: With the task that its class or the first batch implies.
        method: With a space, whose bounds are inferred from the first batch if none were given.
        notes: What was inferred.
        first: The first batch.
    """

    def __init__(self, settings: Settings, module: nn.Module, inputs: Mapping[str, Any]) -> None:
        method = settings.method
        self.model = as_loss_model(module, settings.criterion, settings.task)
        self._intake = Intake(TensorPair(method.space, dtype_of(module)), self.model)
        self._device = next((v.device for v in inputs.values() if isinstance(v, Tensor)), None)
        self._unlabelled = method.objective.unlabelled
        self.first = self._source(inputs)
        if settings.task == "auto":
            self.model, self.first = self._intake.with_inferred_task(self.model, self.first)
        self.method, self.notes = self._intake.with_inferred_bounds(method, self.first)

    def __call__(self, inputs: Mapping[str, Any]) -> Batch:
        """Inputs and targets of a batch.

        Raises:
            DataError: for a batch without labels, or with wrong ones.
        """
        self._intake.task = self.model.task
        return next(iter(self._source(inputs)))

    def _source(self, inputs: Mapping[str, Any]) -> Source:
        device = self._device or torch.device("cpu")
        return self._intake.batches(Own([inputs]), 1, None, device, unlabelled=self._unlabelled)
