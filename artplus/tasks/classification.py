"""One label of several classes for each example."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from artplus import _checks, functional
from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import ArtplusWarning, DataError, UnsupportedEstimatorError
from artplus.functional import class_index
from artplus.tasks._base import Gap, Task, register_task
from artplus.tree import Tree


@register_task("classification")
@dataclass(frozen=True)
class Classification(Task):
    """Predictions are logits ``(batch, classes)``; targets class numbers or rows of probabilities.

    Attributes:
        criterion: Cross-entropy by default.
        classes: Number of classes, where known.
    """

    over_classes: ClassVar[bool] = True
    shown: ClassVar[bool] = True
    criterion: Criterion = as_criterion()

    def correct(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Whether the largest logit is the label's."""
        return predictions.argmax(1) == class_index(targets)

    def margin(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The label's logit less the largest other one."""
        return -functional.margin(predictions, targets)

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """KL of the softmax outputs, or the squared gap of probabilities or logits."""
        gap: Tensor = functional.GAPS[of](reference, predictions)
        return gap

    def bind(self, predictions: Tree, targets: Tree) -> Classification:
        """With the number of classes; warns of probabilities where logits are expected."""
        if not isinstance(predictions, Tensor):
            raise UnsupportedEstimatorError(
                f"the model must return a tensor, got {type(predictions).__name__}"
            )
        _checks.several_logits(predictions)
        if predictions.ndim != 2 or predictions.shape[1] < 2:
            raise UnsupportedEstimatorError(
                "a classifier must return logits (batch, classes) with at least two classes, got "
                f"{tuple(predictions.shape)}"
            )
        classes = predictions.shape[1]
        if self.classes is not None and self.classes != classes:
            raise UnsupportedEstimatorError(
                f"the estimator was made for {self.classes} classes, but the model returns "
                f"{classes} logits; give nb_classes as the model has outputs"
            )
        if looks_like_probabilities(predictions, atol=1e-4):
            warnings.warn(
                "the model's outputs look like probabilities (non-negative, summing to one), but "
                "the loss expects logits: gradients shrink and training stalls. Leave out the "
                "softmax.",
                ArtplusWarning,
                stacklevel=2,
            )
        return replace(self, classes=classes)

    def check_targets(self, targets: Tensor) -> None:
        """Class numbers in range, or rows that sum to one and that the loss can take."""
        _checks.class_labels(targets, n=len(targets), classes=self.classes)
        hard = targets.ndim == 1 or bool(((targets == 0) | (targets == 1)).all())
        if not hard and not self.soft:
            raise DataError("soft labels need a loss that takes them, such as CrossEntropyLoss")

    def answers(self, predictions: Tensor) -> Tensor:
        """The predicted class numbers."""
        return predictions.argmax(1)

    def labels(self, targets: Tensor) -> Tensor:
        """Class numbers."""
        return class_index(targets)


def looks_like_probabilities(outputs: Tensor, *, atol: float) -> bool:
    """Whether every row is non-negative and sums to one.

    Example:
        >>> looks_like_probabilities(torch.tensor([[0.2, 0.8]]), atol=1e-4)
        True
    """
    rows = outputs.sum(1)
    return bool((outputs >= 0).all()) and torch.allclose(rows, torch.ones_like(rows), atol=atol)
