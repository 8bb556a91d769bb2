"""The model and the data that all attacks share, and how predictions are scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from artplus.errors import ConfigurationError
from artplus.model import LossModel
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree, copied, leaves, size, take, to


@dataclass(frozen=True)
class Scores:
    """How some examples fare; every tensor on the CPU with the examples first.

    Attributes:
        losses: ``(batch,)`` float32, or float64 where the loss is; infinite where the prediction is
            not a number.
        wrong: ``(batch,)`` booleans; ``None`` where predictions are neither right nor wrong.
        predictions: Class numbers ``(batch,)``, or what the task shows of a prediction; empty if
            that is nothing.
        statistics: ``(batch, k)`` of each of the task's metrics, by name.
    """

    losses: Tensor
    wrong: Tensor | None
    predictions: Tensor
    statistics: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationData:
    """What is judged, and on what.

    Attributes:
        model: The model.
        x: Inputs of n examples, anywhere, also in a map; batches are moved to ``device``.
        y: Their labels or targets.
        space: What may be perturbed, with range and mask.
        batch_size: Examples at a time.
        device: Where batches go.
        classes: Number of classes, where predictions are logits and it is known.
    """

    model: LossModel
    x: Tree
    y: Tree
    space: Space
    batch_size: int
    device: torch.device
    classes: int | None

    @property
    def n(self) -> int:
        """Number of examples."""
        return size(self.x)

    @property
    def structured(self) -> bool:
        """Whether an example is more than one tensor of floats that is itself perturbed."""
        return not isinstance(self.space, InputSpace) or isinstance(self.x, (dict, tuple, list))

    @property
    def box(self) -> InputSpace:
        """The space, for analyses of inputs, which are refused in any other."""
        if not isinstance(self.space, InputSpace):
            raise ConfigurationError(f"{type(self.space).__name__} has no range of inputs")
        return self.space

    def batches(self, index: Tensor) -> Iterator[tuple[Tensor, Tree, Tree, Any]]:
        """Positions, inputs, labels and space of each batch of the examples ``index``."""
        for start in range(0, len(index), self.batch_size):
            yield self.batch(index[start : start + self.batch_size])

    def batch(self, part: Tensor) -> tuple[Tensor, Tree, Tree, Any]:
        """The positions ``part``, and the inputs, labels and space there."""
        x, y = copied(self.x, part, self.device), copied(self.y, part, self.device)
        return part, x, y, self.space.take(part, self.x)

    def wrong(self, predictions: Tree, y: Tree) -> Tensor | None:
        """Which predictions are wrong, ``(batch,)``; ``None`` if none is right or wrong."""
        right = self.model.task.correct(predictions, y)
        return None if right is None else ~right

    def score(self, x: Tree, y: Tree) -> Scores:
        """Predict and compare; no gradients."""
        task = self.model.task
        kept = task.shown or task.over_classes
        with torch.no_grad():
            if task.in_model and size(x) > 1:
                return _joined([self._alone(x, y, k) for k in range(size(x))])
            predictions = self.model(x)
            losses = task.loss(predictions, y)
            losses = losses if losses.dtype == torch.float64 else losses.float()
            wrong = self.wrong(predictions, y)
            if wrong is not None:
                wrong = (wrong | _not_numbers(predictions, len(losses))).cpu()
            return Scores(
                torch.nan_to_num(losses, nan=torch.inf, posinf=torch.inf).cpu(),
                wrong,
                task.answers(predictions).cpu() if kept else torch.zeros(0),
                {k: m.statistics(predictions, y).cpu() for k, m in task.metrics().items()},
            )

    def _alone(self, x: Tree, y: Tree, k: int) -> Scores:
        """One example: a loss that the model computes is then that example's own."""
        rows = slice(k, k + 1)
        return self.score(take(x, rows), take(y, rows))

    def labels(self, index: Tensor | None = None) -> Tensor:
        """True class numbers, or other targets, of some examples; on the CPU."""
        y = self.y if index is None else take(self.y, index)
        labels: Tensor = to(self.model.task.labels(y), torch.device("cpu"))
        return labels


def _not_numbers(predictions: Tree, n: int) -> Tensor:
    """Which predictions hold NaN, ``(batch,)``."""
    floats = [v for v in leaves(predictions) if isinstance(v, Tensor) and v.is_floating_point()]
    rows = [torch.isnan(leaf).reshape(n, -1).any(1) for leaf in floats if leaf.shape[:1] == (n,)]
    return torch.stack(rows).any(0) if rows else torch.zeros(n, dtype=torch.bool)


def _joined(parts: list[Scores]) -> Scores:
    wrong = [part.wrong for part in parts if part.wrong is not None]
    return Scores(
        torch.cat([part.losses for part in parts]),
        torch.cat(wrong) if wrong else None,
        torch.cat([part.predictions for part in parts]),
        {k: torch.cat([part.statistics[k] for part in parts]) for k in parts[0].statistics},
    )
