"""The model and the data that all attacks share, and how predictions are scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.errors import DataError
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
        losses: ``(batch,)`` float64; infinite where the prediction is not a number.
        wrong: ``(batch,)`` booleans; ``None`` where predictions are neither right nor wrong.
        errors: ``(batch,)`` mean squared errors in regression, else ``None``.
        predictions: Class numbers ``(batch,)``, or the raw outputs.
    """

    losses: Tensor
    wrong: Tensor | None
    errors: Tensor | None
    predictions: Tensor

    @staticmethod
    def join(parts: list[Scores]) -> Scores:
        """Scores of several batches as one."""

        def cat(tensors: list[Tensor | None]) -> Tensor | None:
            present = [tensor for tensor in tensors if tensor is not None]
            return torch.cat(present) if present else None

        return Scores(
            torch.cat([part.losses for part in parts]),
            cat([part.wrong for part in parts]),
            cat([part.errors for part in parts]),
            torch.cat([part.predictions for part in parts]),
        )


@dataclass(frozen=True)
class Bench:
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
            part = index[start : start + self.batch_size]
            space = self.space
            if space.mask is not None and space.mask.ndim == self.x.ndim and len(space.mask) > 1:
                space = replace(space, mask=space.mask[part])
            yield part, self.x[part].to(self.device), self.y[part].to(self.device), space

    def score(self, x: Tensor, y: Tensor) -> Scores:
        """Predict and compare; no gradients."""
        with torch.no_grad():
            predictions = self.model(x)
            losses = self.model.loss(predictions, y).double()
            lost = torch.isnan(predictions).reshape(len(predictions), -1).any(1)
            wrong = None if self.mistakes is None else self.mistakes(predictions, y) | lost
            over_classes = self.model.criterion.over_classes
            return Scores(
                torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf).cpu(),
                None if wrong is None else wrong.cpu(),
                None if over_classes else _squared(predictions, y),
                (predictions.argmax(1) if over_classes else predictions).cpu(),
            )

    def clean(self) -> Scores:
        """Every example without an attack.

        Raises:
            DataError: if not one loss is finite.
        """
        parts = [self.score(x, y) for _, x, y, _ in self.batches(torch.arange(len(self.x)))]
        scores = Scores.join(parts)
        if bool(torch.isinf(scores.losses).all()):
            raise DataError(
                f"the loss on every one of {len(self.x)} unattacked examples is infinite or not a "
                "number: are the weights sound, and the inputs in the range they were trained on?"
            )
        return scores

    def labels(self) -> Tensor:
        """True class numbers, or the targets of a regression; on the CPU."""
        return (class_index(self.y) if self.model.criterion.over_classes else self.y).cpu()


def _squared(predictions: Tensor, y: Tensor) -> Tensor | None:
    """Mean squared error of each example, where targets are numbers of the outputs' shape."""
    if not y.is_floating_point() or y.shape != predictions.shape:
        return None
    return (predictions - y).double().square().reshape(len(y), -1).mean(1).cpu()
