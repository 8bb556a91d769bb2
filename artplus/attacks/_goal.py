"""The loss that Auto-PGD maximises: a named loss of the logits, the inner loss, or the model's."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.attacks._problem import Problem
from artplus.errors import ConfigurationError
from artplus.functional import class_index, cross_entropy, dlr, margin, targeted_dlr

LossName = Literal["ce", "dlr", "margin", "targeted_dlr"]


def check_loss(loss: str | None, *, targeted: bool) -> None:
    """Refuse an unknown loss, and ``"targeted_dlr"`` in a targeted attack."""
    if loss is not None and not (isinstance(loss, str) and loss in get_args(LossName)):
        raise ConfigurationError(
            f"loss must be one of {', '.join(get_args(LossName))} or None (the inner loss), "
            f"got {loss!r}"
        )
    if targeted and loss == "targeted_dlr":
        raise ConfigurationError(
            "loss='targeted_dlr' chooses its targets itself and needs true labels; "
            "with targeted=True use 'ce', 'dlr' or 'margin'"
        )


@dataclass(frozen=True)
class LogitLoss:
    """A named loss of logits.

    Attributes:
        name: Name of the loss.
        target: Target classes ``(batch,)``, for ``"targeted_dlr"``.
    """

    name: LossName
    target: Tensor | None = None

    def __call__(self, logits: Tensor, y: Tensor) -> Tensor:
        """The loss of each example, ``(batch,)``."""
        if self.name == "ce":
            return cross_entropy(logits, y)
        if self.name == "margin":
            return margin(logits, y)
        if self.name == "dlr":
            return dlr(_require_logits(logits, 3, "dlr"), y)
        if self.target is None:
            raise ConfigurationError("targeted_dlr needs a target class for each example")
        if logits.shape[1] < 4:
            return -F.cross_entropy(logits, self.target, reduction="none")
        return targeted_dlr(logits, y, self.target)

    def take(self, rows: Tensor) -> LogitLoss:
        """The loss of the examples ``rows``."""
        return self if self.target is None else replace(self, target=self.target[rows])


def with_loss(problem: Problem, loss: LossName | None, target: Tensor | None = None) -> Problem:
    """The problem with the loss that Auto-PGD maximises.

    Raises:
        ConfigurationError: if ``loss`` does not suit the model, or comes with an inner loss.
    """
    if problem.inner is not None:
        if loss is not None:
            raise ConfigurationError(
                f"this attack climbs {loss!r}, but an inner loss was given too. Leave out the "
                "attack's loss (in ART: loss_type=None) to climb the inner loss."
            )
        return problem
    if loss is not None:
        _needs_classes(problem, loss)
        return problem.climbing(LogitLoss(loss, target))
    if not problem.model.task.per_example:
        raise ConfigurationError(
            "Auto-PGD adapts the step length of each example to its loss, but the model's "
            "loss returns one mean for the batch. Use a loss with reduction='none', name one "
            "(loss='ce'), or use PGD."
        )
    return problem


def likeliest_targets(problem: Problem, count: int) -> tuple[Tensor, ...]:
    """The ``count`` likeliest wrong classes at the clean inputs (or all), each ``(batch,)``.

    Raises:
        ConfigurationError: with fewer than three classes.
    """
    _needs_classes(problem, "targeted_dlr")
    with torch.no_grad():
        logits = problem.predict(problem.z0)
    return likeliest_wrong(_require_logits(logits, 3, "targeted_dlr"), problem.targets, count)


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> tuple[Tensor, ...]:
    """The ``count`` wrong classes of largest logits (or all), each ``(batch,)``."""
    wrong_logits = logits.scatter(1, class_index(y)[:, None], -torch.inf)
    return wrong_logits.topk(min(count, logits.shape[1] - 1), dim=1).indices.unbind(1)


def _needs_classes(problem: Problem, loss: str) -> None:
    if not problem.over_classes:
        raise ConfigurationError(
            f"loss={loss!r} is defined on class logits, but this model's loss is not one over "
            "classes. Leave out loss= to climb the model's own loss."
        )


def _require_logits(logits: Tensor, minimum: int, loss: str) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < minimum:
        raise ConfigurationError(
            f"loss={loss!r} needs logits of at least {minimum} classes, got predictions of shape "
            f"{tuple(logits.shape)}. With two classes use loss='ce' or 'margin'."
        )
    return logits
