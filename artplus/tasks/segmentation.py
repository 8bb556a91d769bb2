"""A class for each pixel, or for each token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.functional import GAPS
from artplus.tasks._base import Gap, Metric, Task, ratio, register_task
from artplus.tree import Tree

MOST_CLASSES = 1000
"""Above this number, as of a vocabulary, there is no mean intersection over union: it keeps two
numbers for each class and example."""


@register_task("segmentation")
@dataclass(frozen=True)
class Segmentation(Task):
    """Predictions are logits ``(batch, classes, ...)``; targets class numbers ``(batch, ...)``.

    Logits may have their classes last, ``(batch, tokens, classes)``, as token classifiers give
    them. Labels equal to the criterion's ``ignore_index`` count for nothing. The loss of an example
    is the mean over its pixels, and an example weighs by their number, so the batch's mean is the
    model's own.

    Attributes:
        criterion: Cross-entropy by default; ``CrossEntropyLoss(ignore_index=255)``.
        classes: Number of classes, where known.
        classes_last: Whether the last axis of the logits holds the classes; ``None`` tells it from
            the shapes of the first logits and targets.
    """

    criterion: Criterion = as_criterion()
    classes_last: bool | None = None

    def loss(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Mean over the pixels that count, ``(batch,)``."""
        return self.criterion(self._logits(predictions, targets), targets)

    def weights(self, targets: Tensor) -> Tensor | None:
        """Number of pixels that count, times their classes' weights, ``(batch,)``."""
        return summed_weights(self.criterion, targets)

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tensor, *, of: Gap = "kl"
    ) -> Tensor:
        """The mean gap over the pixels that count."""
        gaps = GAPS[of](self._logits(reference, targets), self._logits(predictions, targets))
        return masked_mean(gaps, self.counts(targets))

    def counts(self, targets: Tensor) -> Tensor:
        """Which pixels count, booleans like the targets."""
        ignored = self.criterion.ignore_index
        return torch.ones_like(targets, dtype=torch.bool) if ignored is None else targets != ignored

    def bind(self, predictions: Tree, targets: Tree) -> Segmentation:
        """With the number of classes, and the axis that holds them.

        Raises:
            UnsupportedEstimatorError: if the shapes of logits and labels do not belong together.
        """
        if not isinstance(predictions, Tensor):
            raise UnsupportedEstimatorError(
                f"segmentation needs a tensor of logits, got {type(predictions).__name__}"
            )
        last = _classes_are_last(predictions, targets, self.classes_last)
        return replace(self, classes=predictions.shape[-1 if last else 1], classes_last=last)

    def check_targets(self, targets: Tensor) -> None:
        """Whole class numbers in range, but for ignored ones."""
        if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.ndim < 2:
            raise DataError(
                "labels of a segmentation must be whole class numbers (batch, height, width), or "
                "(batch, tokens)"
            )
        kept = targets[self.counts(targets)]
        if kept.numel() == 0:
            return
        least, greatest = int(kept.min()), int(kept.max())
        if least < 0 or (self.classes is not None and greatest >= self.classes):
            raise DataError(
                f"labels must lie in 0..{(self.classes or greatest + 1) - 1}, got values in "
                f"[{least}, {greatest}]. Is a value meant to be ignored? Give "
                "criterion=CrossEntropyLoss(ignore_index=...)."
            )

    def metrics(self) -> Mapping[str, Metric]:
        """Share of pixels that are right, and mean intersection over union."""
        metrics = {"pixel_accuracy": Metric(self._right, ratio)}
        if self.classes is not None and self.classes <= MOST_CLASSES:
            metrics["miou"] = Metric(partial(self._overlap, classes=self.classes), _mean_iou)
        return metrics

    def answers(self, predictions: Tensor) -> Tensor:
        """The predicted class of each pixel."""
        return predictions.argmax(-1 if self.classes_last else 1)

    def _logits(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """``(batch, classes, ...)``, whichever axis holds the classes."""
        last = _classes_are_last(predictions, targets, self.classes_last)
        return predictions.movedim(-1, 1) if last else predictions

    def _right(self, predictions: Tensor, targets: Tensor) -> Tensor:
        kept = self.counts(targets)
        right = (self._logits(predictions, targets).argmax(1) == targets) & kept
        return torch.stack([right.flatten(1).sum(1), kept.flatten(1).sum(1)], 1).float()

    def _overlap(self, predictions: Tensor, targets: Tensor, *, classes: int) -> Tensor:
        """Intersections and unions of each class, ``(batch, 2 * classes)``."""
        kept, guess = self.counts(targets), self._logits(predictions, targets).argmax(1)
        n = len(targets)
        first = torch.arange(0, n * classes, classes, device=targets.device)
        first = first.view(-1, *(1,) * (targets.ndim - 1))

        def count(labels: Tensor, which: Tensor) -> Tensor:
            """How many pixels of each example are of each class."""
            numbers = (labels + first)[which]
            return torch.bincount(numbers, minlength=n * classes).view(n, classes)

        both = count(guess, kept & (guess == targets))
        either = count(guess, kept) + count(targets, kept) - both
        return torch.cat([both, either], 1).float()


def masked_mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of each example's values that count, ``(batch,)``; zero where none does."""
    kept = counts.flatten(1).to(values.dtype)
    return (values.flatten(1) * kept).sum(1) / kept.sum(1).clamp_min(1)


def summed_weights(criterion: Criterion, targets: Tensor) -> Tensor | None:
    """What an example's pixels or tokens weigh together, ``(batch,)``; ``None`` if all alike.

    A sum and not a mean, so that batches padded to different lengths compare.
    """
    weights = criterion.weights(targets)
    return weights if weights is None else weights * targets[0].numel()


def _classes_are_last(logits: Tensor, targets: Tensor, stated: bool | None) -> bool:
    """Whether the last axis of the logits holds the classes, by their shape beside the labels'."""
    if logits.ndim != targets.ndim + 1 or len(logits) != len(targets):
        raise UnsupportedEstimatorError(
            f"labels {tuple(targets.shape)} need logits with one more axis, for the classes; the "
            f"model gives {tuple(logits.shape)}"
        )
    places = targets.shape[1:]
    fits = {False: logits.shape[2:] == places, True: logits.shape[1:-1] == places}
    choices = [last for last in fits if fits[last] and stated in (None, last)]
    if len(choices) == 1:
        return choices[0]
    if choices:
        raise UnsupportedEstimatorError(
            f"labels {tuple(targets.shape)} fit logits {tuple(logits.shape)} whether the second or "
            "the last axis holds the classes; say which: task=Segmentation(classes_last=True) for "
            "(batch, tokens, classes), False for (batch, classes, ...)"
        )
    raise UnsupportedEstimatorError(
        f"the model gives logits {tuple(logits.shape)} for labels {tuple(targets.shape)}: each "
        "label needs one place. Does the model predict at a lower resolution? Scale its output up "
        "in a wrapper (torch.nn.functional.interpolate)."
    )


def _mean_iou(rows: Tensor) -> float:
    """The mean over the classes that occur."""
    both, either = rows.double().sum(0).chunk(2)
    occurs = either > 0
    return float((both[occurs] / either[occurs]).mean()) if bool(occurs.any()) else 0.0
