"""Clean and robust accuracy on held-out data, under another attack than the training one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from artplus import _checks, distributed, modes
from artplus.attacks import APGD, PGD, Attack, members
from artplus.attacks._base import Budget
from artplus.errors import DataError
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.training.callbacks._base import Callback
from artplus.training.data import Arrays, Batch, Loaded
from artplus.training.method import Method
from artplus.training.profiling import region
from artplus.training.state import State
from artplus.tree import device_of


class Validation(Callback):
    """Measure after every epoch; adds ``val_clean_accuracy`` and ``val_adversarial_accuracy``.

    For losses not over classes: ``val_clean_loss`` and ``val_adversarial_loss``. The averaged
    weights are measured where there are some.

    Args:
        data: Batches ``(x, y)`` on the model's device, iterated once per measurement.
        attack: See :func:`validation_attack`.
        space: What the attack may perturb.
        every: Epochs between measurements; the last epoch is always measured.
        seed: Of the attack, the same at every measurement, so that epochs compare.
    """

    def __init__(
        self,
        data: Iterable[Batch],
        attack: Attack | None,
        *,
        space: Space = InputSpace(),
        every: int = 1,
        seed: int = 0,
    ) -> None:
        self.data, self._attack, self._space = data, attack, space
        self._every, self._seed = _checks.count("every", every), seed

    def on_fit_begin(self, state: State) -> None:
        state.validates = True

    def on_epoch_end(self, state: State) -> None:
        last = state.epoch == state.epochs or state.stop is not None
        if state.epoch % self._every and not last:
            return
        with (
            region("artplus: validation"),
            state.candidate() as model,
            modes.attack_mode(model.module),
            state.engine.gathered(),
        ):
            state.row |= self.measure(model)

    def state_dict(self) -> dict[str, Any]:
        if not isinstance(self.data, (Arrays, Loaded)):
            return {}
        return {"order": self.data.order()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        if isinstance(self.data, (Arrays, Loaded)):
            self.data.set_order(saved["order"])

    def measure(self, model: LossModel) -> dict[str, float]:
        """The figures of a model."""
        sums: dict[str, Tensor] = {}
        n, weight = 0, torch.zeros(())
        for batch in self.data:
            device = device_of(batch.x)
            generator = torch.Generator(device).manual_seed(self._seed + n)
            examples = {"clean": batch.x}
            weights = model.task.weights(batch.y)
            weights = torch.ones(len(batch), device=device) if weights is None else weights.float()
            if self._attack is not None:
                examples["adversarial"] = self._attack(
                    model, batch.x, batch.y, space=self._space, generator=generator
                )
            n += len(batch)
            for kind, x in examples.items():
                with torch.no_grad():
                    predictions = model(x)
                    correct = model.task.correct(predictions, batch.y)
                    if correct is None:
                        figure, values = "loss", model.loss(predictions, batch.y) * weights
                    else:
                        figure, values = "accuracy", correct
                        weights = torch.ones_like(weights)
                name = f"val_{kind}_{figure}"
                sums[name] = sums.get(name, 0) + values.float().sum()
            weight = weight + weights.sum().cpu()
        if n == 0:
            raise DataError("the validation data gave no batch; is it empty, or read only once?")
        # Each process has measured its part of every batch.
        total_weight = float(distributed.all_reduce(weight.double()))
        return {
            name: float(distributed.all_reduce(total.double())) / total_weight
            for name, total in sums.items()
        }


def validation_attack(
    model: LossModel, method: Method, *, eps: Budget | None = None, norm: float = torch.inf
) -> Attack | None:
    """An attack to select models by: cheap for its strength, and not the training attack.

    APGD, 20 steps on the margin, which saturates less than cross-entropy. If training uses APGD or
    predictions are not class logits: PGD, 20 steps on the model's own loss. ``None`` if no radius
    is known.

    Args:
        model: The model in training.
        method: Its attack's radius and norm are used.
        eps: Radius if the method's attack has none.
        norm: Norm if the method's attack has no radius.
    """
    trained = None if method.attack is None else members(method.attack, 0)[0]
    radius = getattr(trained, "eps", None)
    # A minimum-norm attack has no radius to validate at.
    if trained is not None and _is_radius(radius):
        eps, norm = radius, trained.norm
    if eps is None:
        return None
    if isinstance(trained, APGD) or not model.task.over_classes:
        return PGD(eps=eps, norm=norm, steps=20)
    return APGD(eps=eps, norm=norm, steps=20, loss="margin")


def _is_radius(eps: Budget | None) -> bool:
    return eps is not None and not (isinstance(eps, float) and eps == torch.inf)
