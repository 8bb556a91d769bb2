"""Numbers for each example."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from artplus.criterion import Criterion
from artplus.criterion import criterion as as_criterion
from artplus.errors import DataError
from artplus.tasks._base import Gap, Metric, Task, register_task
from artplus.tree import Tree


@register_task("regression")
@dataclass(frozen=True)
class Regression(Task):
    """Predictions and targets are numbers, ``(batch,)`` or ``(batch, ...)``.

    Attributes:
        criterion: Squared error by default.
        measured: Whether targets are numbers like the predictions, so that errors can be squared.
    """

    shown: ClassVar[bool] = True
    criterion: Criterion = as_criterion(nn.MSELoss())
    measured: bool = True

    def divergence(
        self, reference: Tensor, predictions: Tensor, targets: Tree, *, of: Gap = "kl"
    ) -> Tensor:
        """The squared gap, averaged over an example's numbers, whatever ``of`` says."""
        return _rows(reference - predictions).square().mean(1)

    def check_targets(self, targets: Tree) -> None:
        """Finite numbers."""
        if isinstance(targets, Tensor) and not bool(torch.isfinite(targets).all()):
            raise DataError("y must be finite, but it holds NaN or infinity")

    def bind(self, predictions: Tree, targets: Tree) -> Regression:
        """With what the targets of the first examples are."""
        numbers = (
            isinstance(predictions, Tensor)
            and isinstance(targets, Tensor)
            and targets.is_floating_point()
            and predictions.numel() == targets.numel()
        )
        return replace(self, measured=numbers)

    def metrics(self) -> Mapping[str, Metric]:
        """Root mean squared error."""
        if not self.measured:
            return {}
        return {"rmse": Metric(_squared, _root_mean, larger_is_better=False)}


def _rows(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _squared(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of each example, ``(batch, 1)``."""
    gaps = _rows(predictions) - _rows(targets).to(predictions.dtype)
    return gaps.double().square().mean(1, keepdim=True)


def _root_mean(rows: Tensor) -> float:
    return float(rows.double().mean().sqrt())
