"""Accuracy and loss under an attack, beside a Trainer's own evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from artplus import modes
from artplus.attacks import Attack
from artplus.huggingface.settings import Batches, Settings
from artplus.seeding import derived
from artplus.spaces import attached
from artplus.tree import device_of


class AttackedEvaluation:
    """Attacks each batch of an evaluation, with random numbers of its own.

    Args:
        trainer: Has the model.
        settings: Say what is perturbed, and what predictions and targets mean.
        attack: What the batches are attacked by.
        unit: Of a relative radius, as in training; ``None`` measures it.
    """

    def __init__(
        self, trainer: Any, settings: Settings, attack: Attack, unit: float | None = None
    ) -> None:
        self._trainer, self._settings, self._attack = trainer, settings, attack
        self._unit = unit
        self._batches: Batches | None = None
        self._generator: torch.Generator | None = None
        self._rows: list[Tensor] = []

    def add(self, inputs: Mapping[str, Any]) -> None:
        """Attack a batch, which is on the device, and keep what it adds to the figures."""
        if self._batches is None:
            self._batches = Batches(self._settings, self._trainer.model, inputs)
        batch, model, space = self._batches(inputs), self._batches.model, self._batches.method.space
        assert space is not None  # the method's, or inferred from the first batch
        if self._generator is None:
            seed = derived(self._settings.seed, "evaluation")
            self._generator = torch.Generator(device_of(batch.x)).manual_seed(seed)
        with ExitStack() as stack:
            stack.enter_context(modes.attack_mode(model.module))
            if space.hidden:
                hooks = stack.enter_context(attached(model.module, space))
                hooks.unit = self._unit if hooks.unit is None else hooks.unit
            with torch.enable_grad():
                x_adv = self._attack(
                    model, batch.x, batch.y, space=space, generator=self._generator
                )
            with torch.no_grad():
                predictions = model(x_adv)
            if space.hidden:
                self._unit = hooks.unit
        losses = model.loss(predictions, batch.y).float()
        weights = model.task.weights(batch.y)
        weights = torch.ones_like(losses) if weights is None else weights.to(losses)
        right = model.task.correct(predictions, batch.y)
        nothing = losses.new_full(losses.shape, torch.nan)
        right = nothing if right is None else right.to(losses)
        # Leaves out the examples that fill up the last batch of several processes.
        rows = torch.stack([losses * weights, weights, right], 1)
        self._rows.append(self._trainer.accelerator.gather_for_metrics(rows).cpu())

    def metrics(self, prefix: str) -> dict[str, float]:
        """``{prefix}_attacked_loss``, and the accuracy where examples are right or wrong."""
        if not self._rows:
            return {}
        losses, weights, right = torch.cat(self._rows).double().unbind(1)
        figures = {f"{prefix}_attacked_loss": float(losses.sum() / weights.sum())}
        if not bool(right.isnan().any()):
            figures[f"{prefix}_attacked_accuracy"] = float(right.mean())
        return figures
