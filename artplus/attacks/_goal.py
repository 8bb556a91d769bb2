"""What Auto-PGD climbs: a named loss of the logits, the inner loss, or the model's own."""

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
    """Refuse an unknown loss, and targets of the user beside targets of the attack's own."""
    if loss is not None and loss not in get_args(LossName):
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
        name: Which one.
        target: Class to run to, ``(batch,)``, for ``"targeted_dlr"``.
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
            return dlr(_needs(logits, 3, "dlr"), y)
        if self.target is None:
            raise ConfigurationError("targeted_dlr needs a target class for each example")
        if logits.shape[1] < 4:
            return -F.cross_entropy(logits, self.target, reduction="none")
        return targeted_dlr(logits, y, self.target)

    def take(self, rows: Tensor) -> LogitLoss:
        """That of the examples ``rows``."""
        return self if self.target is None else replace(self, target=self.target[rows])


def aimed(problem: Problem, loss: LossName | None, target: Tensor | None = None) -> Problem:
    """The problem with what Auto-PGD is to climb.

    Raises:
        ConfigurationError: if ``loss`` does not suit the model or stands beside an inner loss.
    """
    if problem.inner is not None:
        if loss is not None:
            raise ConfigurationError(
                f"this attack climbs {loss!r}, but an inner loss was given to climb. Leave the "
                "attack's loss out (in ART: loss_type=None) to climb the inner loss."
            )
        return problem
    if loss is not None:
        _needs_classes(problem, loss)
        return problem.climbing(LogitLoss(loss, target))
    if not problem.model.task.per_example:
        raise ConfigurationError(
            "Auto-PGD sets the step length of each example by its own loss, but the model's "
            "loss returns one mean for the batch. Use a loss with reduction='none', name one "
            "(loss='ce'), or use PGD."
        )
    return problem


def likeliest_targets(problem: Problem, count: int) -> tuple[Tensor, ...]:
    """The likeliest wrong classes at the clean inputs, each ``(batch,)``; at most all of them.

    Raises:
        ConfigurationError: with fewer than three classes.
    """
    _needs_classes(problem, "targeted_dlr")
    with torch.no_grad():
        logits = problem.predict(problem.z0)
    return likeliest_wrong(_needs(logits, 3, "targeted_dlr"), problem.targets, count)


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> tuple[Tensor, ...]:
    """The wrong classes of largest logits, each ``(batch,)``; at most ``classes - 1``."""
    others = logits.scatter(1, class_index(y)[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices.unbind(1)


def _needs_classes(problem: Problem, loss: str) -> None:
    if not problem.over_classes:
        raise ConfigurationError(
            f"loss={loss!r} is defined on class logits, but this model's loss is not one over "
            "classes. Leave it out to climb the model's own loss."
        )


def _needs(logits: Tensor, least: int, loss: str) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] < least:
        raise ConfigurationError(
            f"loss={loss!r} needs logits of at least {least} classes, got predictions of shape "
            f"{tuple(logits.shape)}. With two classes use loss='ce' or 'margin'."
        )
    return logits
