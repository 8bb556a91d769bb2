"""What Auto-PGD climbs: a named loss of the logits, the inner loss, or the model's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.attacks._base import Inner, Judge
from artplus.errors import ConfigurationError
from artplus.functional import class_index, cross_entropy, dlr, margin, targeted_dlr
from artplus.model import LossModel

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


def goal(
    model: LossModel,
    x: Tensor,
    y: Tensor,
    *,
    loss: LossName | None,
    inner: Inner | None,
    target: Tensor | None,
    targeted: bool,
) -> Judge:
    """``z -> (values, fooled)`` with one forward pass for both.

    An inner loss gives no predictions, so with one ``fooled`` is all false: the largest value
    wins, which is what training asks for.

    Raises:
        ConfigurationError: if ``loss`` does not suit the model or stands beside ``inner``.
    """
    if inner is not None:
        if loss is not None:
            raise ConfigurationError(
                f"this attack climbs {loss!r}, but an inner loss was given to climb. Leave the "
                "attack's loss out (in ART: loss_type=None) to climb the inner loss."
            )
        return _unjudged(inner(model, x, y), targeted)
    value = _value(model, y, loss, target)
    over_classes = model.criterion.over_classes

    def judged(z: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(z)
        values = value(logits)
        if over_classes:
            fooled = model.wrong(logits.detach(), y) ^ targeted
        else:
            fooled = torch.zeros_like(values, dtype=torch.bool)
        return (-values if targeted else values), fooled

    return judged


def targets(model: LossModel, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, ...]:
    """The likeliest wrong classes at ``x``, each ``(batch,)``; at most ``classes - 1``.

    Raises:
        ConfigurationError: with fewer than three classes.
    """
    _needs_classes(model, "targeted_dlr")
    with torch.no_grad():
        logits = model(x)
    return likeliest_wrong(_needs(logits, 3, "targeted_dlr"), y, count)


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> tuple[Tensor, ...]:
    """The wrong classes of largest logits, each ``(batch,)``; at most ``classes - 1``."""
    others = logits.scatter(1, class_index(y)[:, None], -torch.inf)
    return others.topk(min(count, logits.shape[1] - 1), dim=1).indices.unbind(1)


def _unjudged(climb: Callable[[Tensor], Tensor], targeted: bool) -> Judge:
    def unjudged(z: Tensor) -> tuple[Tensor, Tensor]:
        values = climb(z)
        return (-values if targeted else values), torch.zeros_like(values, dtype=torch.bool)

    return unjudged


def _value(
    model: LossModel, y: Tensor, loss: LossName | None, target: Tensor | None
) -> Callable[[Tensor], Tensor]:
    """The loss of predictions, per example."""
    if loss is None:
        if not model.criterion.per_example:
            raise ConfigurationError(
                "Auto-PGD sets the step length of each example by its own loss, but the model's "
                "loss returns one mean for the batch. Use a loss with reduction='none', name one "
                "(loss='ce'), or use PGD."
            )
        return lambda logits: model.loss(logits, y)
    _needs_classes(model, loss)
    if loss == "ce":
        return lambda logits: cross_entropy(logits, y)
    if loss == "margin":
        return lambda logits: margin(logits, y)
    if loss == "dlr":
        return lambda logits: dlr(_needs(logits, 3, "dlr"), y)
    if target is None:
        raise ConfigurationError("targeted_dlr needs a target class for each example")
    aim = target

    def to_target(logits: Tensor) -> Tensor:
        if logits.shape[1] < 4:
            return -F.cross_entropy(logits, aim, reduction="none")
        return targeted_dlr(logits, y, aim)

    return to_target


def _needs_classes(model: LossModel, loss: str) -> None:
    if not model.criterion.over_classes:
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
