"""Any torch loss, unreduced: one value per example, whatever its reduction was."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.errors import ConfigurationError, DataError

LossFunction = Callable[[Any, Any], Tensor]

# Losses over classes: predictions are logits or scores, one column a class.
_OVER_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_BINARY = (nn.BCELoss, nn.BCEWithLogitsLoss)


@dataclass(frozen=True)
class Criterion:
    r"""A loss :math:`l(f(x), y)` per example.

    Attributes:
        function: ``(predictions, y) -> (batch,)`` losses; a scalar mean where ``per_example`` is
            false.
        per_example: False for a user's loss that reduces by itself and offers no ``reduction``.
        over_classes: True if predictions are logits over classes, which accuracy, margins and
            divergences need.
        soft: True if ``y`` may be rows of class probabilities.
        class_weight: The loss's own ``weight`` per class, taken out so that it can weigh whole
            examples.
    """

    function: LossFunction
    per_example: bool = True
    over_classes: bool = True
    soft: bool = True
    class_weight: Tensor | None = None

    def __call__(self, predictions: Any, y: Any) -> Tensor:
        losses = self.function(predictions, y)
        if losses.ndim == 0:
            # A mean seen by each example: its mean and its gradient are the user's own.
            return losses.expand(len(y))
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses


def criterion(loss: LossFunction | None = None) -> Criterion:
    """Return ``loss`` (default: cross-entropy) as a per-example :class:`Criterion`.

    A ``torch.nn`` loss is copied with ``reduction="none"``; values over the other axes of one
    example (a multi-output regression) are averaged, so that the mean over the batch equals the
    original loss. A callable without ``reduction`` is called as it is: one value per example, or
    a scalar mean, with which everything works that needs no weights per example.

    Args:
        loss: A ``torch.nn`` loss or any callable ``(predictions, y) -> Tensor``.

    Raises:
        ConfigurationError: if ``loss`` is not callable or sums over the batch.

    Example:
        >>> import torch
        >>> mse = criterion(torch.nn.MSELoss())
        >>> mse(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
        tensor([0., 4.])
    """
    if loss is None:
        loss = nn.CrossEntropyLoss()
    if not callable(loss):
        raise ConfigurationError(
            f"loss must be a torch.nn loss or a callable (predictions, y) -> Tensor, got {loss!r}"
        )
    if not hasattr(loss, "reduction"):
        return Criterion(loss, per_example=False, over_classes=False, soft=False)
    if loss.reduction == "sum":
        raise ConfigurationError(
            f"{type(loss).__name__}(reduction='sum') scales the step with the batch size; "
            "use reduction='mean' and raise the learning rate instead"
        )
    unreduced: Any = copy.deepcopy(loss)
    unreduced.reduction = "none"
    # Exactly a torch loss: a subclass may compute anything, so only its reduction is trusted.
    weight = None
    if type(loss) in (nn.CrossEntropyLoss, nn.NLLLoss) and unreduced.weight is not None:
        weight, unreduced.weight = unreduced.weight, None
    if type(loss) is nn.NLLLoss:
        return Criterion(_hard(unreduced), soft=False, class_weight=weight)
    if type(loss) is nn.MultiMarginLoss:
        return Criterion(_hard(unreduced), soft=False)
    if isinstance(loss, nn.CrossEntropyLoss):
        return Criterion(unreduced, class_weight=weight)
    if isinstance(loss, _BINARY):
        return Criterion(_binary(unreduced), over_classes=False, soft=False)
    if isinstance(loss, _OVER_CLASSES):
        return Criterion(unreduced, soft=False)
    return Criterion(_elementwise(unreduced), over_classes=False, soft=False)


def _hard(loss: LossFunction) -> LossFunction:
    """Index labels for losses that take no rows."""
    return lambda predictions, y: loss(predictions, y.argmax(1) if y.ndim == 2 else y)


def _binary(loss: LossFunction) -> LossFunction:
    """Labels of a binary loss as floats, shaped like the predictions."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        if y.ndim == 1 and predictions.ndim == 2 and predictions.shape[1] > 1:
            y = F.one_hot(y.long(), predictions.shape[1])
        if y.numel() != predictions.numel() and y.ndim == 2:
            y = y.argmax(1)  # one-hot rows of two classes against a single output
        return loss(predictions, y.to(predictions.dtype).view_as(predictions))

    return unreduced


def _elementwise(loss: LossFunction) -> LossFunction:
    """Predictions shaped like the targets: (batch, 1) against (batch,) would broadcast silently."""

    def unreduced(predictions: Tensor, y: Tensor) -> Tensor:
        if predictions.shape != y.shape:
            if predictions.numel() != y.numel():
                raise DataError(
                    f"targets have shape {tuple(y.shape)} but the model predicts "
                    f"{tuple(predictions.shape)}; both need the same number of values per example"
                )
            predictions = predictions.view_as(y)
        return loss(predictions, y.to(predictions.dtype))

    return unreduced


def mean(losses: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Batch mean, or :math:`\sum_i w_i l_i / \sum_i w_i` as torch's own weighted losses."""
    if weights is None:
        return losses.mean()
    return torch.dot(losses, weights) / weights.sum()
