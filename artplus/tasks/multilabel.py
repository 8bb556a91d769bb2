"""Several yes-or-no labels for each example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import DataError, UnsupportedEstimatorError
from artplus.tasks._base import Gap, Metric, Task, ratio, register_task
from artplus.tree import Tree


@register_task("multilabel")
@dataclass(frozen=True)
class Multilabel(Task):
    """Predictions are logits ``(batch, labels)``; targets zeros and ones of that shape.

    An example is right if every label is.

    Attributes:
        criterion: Binary cross-entropy on logits by default.
        classes: Number of labels, where known.
    """

    shown: ClassVar[bool] = True
    criterion: Criterion = as_criterion(nn.BCEWithLogitsLoss())

    def correct(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Whether the sign of every logit is its label's."""
        return ((_rows(predictions) > 0) == (_shaped(targets, predictions) > 0.5)).all(1)

    def margin(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The least of the labels' logits, each counted in the direction of its label."""
        sides = _shaped(targets, predictions) * 2 - 1
        return (_rows(predictions) * sides).amin(1)

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """The mean over labels of the KL of two coins, or of squared gaps."""
        p, q = _rows(reference), _rows(predictions)
        if of == "logits":
            return (p - q).square().mean(1)
        if of == "probabilities":
            return (p.sigmoid() - q.sigmoid()).square().mean(1)
        yes, no = p.sigmoid(), (-p).sigmoid()
        gap = yes * (F.logsigmoid(p) - F.logsigmoid(q)) + no * (F.logsigmoid(-p) - F.logsigmoid(-q))
        return gap.mean(1)

    def bind(self, predictions: Tree, targets: Tree) -> Multilabel:
        """With the number of labels."""
        if not isinstance(predictions, Tensor) or predictions.ndim not in (1, 2):
            raise UnsupportedEstimatorError(
                "a model of several labels must return logits (batch, labels), got "
                + (
                    str(tuple(predictions.shape))
                    if isinstance(predictions, Tensor)
                    else type(predictions).__name__
                )
            )
        return replace(self, classes=_rows(predictions).shape[1])

    def check_targets(self, targets: Tensor) -> None:
        """Finite numbers in [0, 1]."""
        values = targets.float()
        if not bool(torch.isfinite(values).all()) or bool(((values < 0) | (values > 1)).any()):
            raise DataError(
                "labels of several yes-or-no questions must lie in [0, 1], got values in "
                f"[{float(values.min()):.4g}, {float(values.max()):.4g}]"
            )

    def metrics(self) -> Mapping[str, Metric]:
        """Share of single labels that are right."""
        return {"label_accuracy": Metric(_labels_right, ratio)}


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _shaped(targets: Tensor, predictions: Tensor) -> Tensor:
    return _rows(targets).to(predictions.dtype)


def _labels_right(predictions: Tensor, targets: Tensor) -> Tensor:
    right = (_rows(predictions) > 0) == (_shaped(targets, predictions) > 0.5)
    count = torch.full((len(right),), float(right.shape[1]), device=right.device)
    return torch.stack([right.sum(1).float(), count], 1)
