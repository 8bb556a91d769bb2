"""The model and the data that all attacks share, and how predictions are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.functional import class_index
from artplus.mapped import Inputs
from artplus.model import LossModel
from artplus.spaces import InputSpace

Mistakes = Callable[[Tensor, Tensor], Tensor]
"""``(predictions, y) -> (batch,)`` booleans: which predictions are wrong."""


@dataclass(frozen=True)
class Scores:
    """How some examples fare; every tensor on the CPU with the examples first.

    Attributes:
        losses: ``(batch,)`` float32, or float64 where the loss is; infinite where the prediction is
            not a number.
        wrong: ``(batch,)`` booleans; ``None`` where predictions are neither right nor wrong.
        errors: ``(batch,)`` mean squared errors in regression, else ``None``.
        predictions: Class numbers ``(batch,)``, or the raw outputs.
    """

    losses: Tensor
    wrong: Tensor | None
    errors: Tensor | None
    predictions: Tensor


@dataclass(frozen=True)
class EvaluationData:
    """What is judged, and on what.

    Attributes:
        model: The model.
        x: ``(n, *input)`` floats, anywhere, also in a map; batches are moved to ``device``.
        y: ``(n, ...)`` labels or targets.
        space: Range of valid inputs and mask.
        batch_size: Examples at a time.
        device: Where batches go.
        mistakes: Which predictions are wrong; ``None`` if that has no meaning.
        classes: Number of classes, where known.
    """

    model: LossModel
    x: Inputs
    y: Tensor
    space: InputSpace
    batch_size: int
    device: torch.device
    mistakes: Mistakes | None
    classes: int | None

    def batches(self, index: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor, InputSpace]]:
        """Positions, inputs, labels and space of each batch of the examples ``index``."""
        for start in range(0, len(index), self.batch_size):
            yield self.batch(index[start : start + self.batch_size])

    def batch(self, part: Tensor) -> tuple[Tensor, Tensor, Tensor, InputSpace]:
        """The positions ``part``, and the inputs, labels and space there."""
        space = self.space
        if space.mask is not None and space.mask.ndim == self.x.ndim and len(space.mask) > 1:
            space = replace(space, mask=space.mask[part])
        return part, self.x[part].to(self.device), self.y[part].to(self.device), space

    def score(self, x: Tensor, y: Tensor) -> Scores:
        """Predict and compare; no gradients."""
        with torch.no_grad():
            predictions = self.model(x)
            losses = self.model.loss(predictions, y)
            losses = losses if losses.dtype == torch.float64 else losses.float()
            lost = torch.isnan(predictions).reshape(len(predictions), -1).any(1)
            wrong = None if self.mistakes is None else self.mistakes(predictions, y) | lost
            over_classes = self.model.criterion.over_classes
            return Scores(
                torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf).cpu(),
                None if wrong is None else wrong.cpu(),
                None if over_classes else _squared(predictions, y),
                (predictions.argmax(1) if over_classes else predictions).cpu(),
            )

    def labels(self, index: Tensor | None = None) -> Tensor:
        """True class numbers, or the targets of a regression, of some examples; on the CPU."""
        y = self.y if index is None else self.y[index]
        return (class_index(y) if self.model.criterion.over_classes else y).cpu()


def _squared(predictions: Tensor, y: Tensor) -> Tensor | None:
    """Mean squared error of each example, where targets are numbers of the outputs' shape."""
    if not y.is_floating_point() or y.shape != predictions.shape:
        return None
    return (predictions - y).double().square().reshape(len(y), -1).mean(1).cpu()
