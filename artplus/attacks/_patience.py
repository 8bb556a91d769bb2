"""Ascent that ends, example by example, once it is misclassified; the rest of the batch goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from artplus.attacks._base import Inner, Judge, column, look, own_loss, take
from artplus.attacks._leaving import leave, rejoined
from artplus.errors import ConfigurationError
from artplus.geometry import Eps, Retraction
from artplus.model import LossModel
from artplus.spaces import InputSpace

WORTH = 0.125
"""Share of a batch that must be done before the rest goes on without it: what depends on ``x``
alone, as TRADES' clean prediction, is then computed again."""


@dataclass(frozen=True)
class View:
    """What a run sees of some examples.

    Attributes:
        judge: Values to climb, and who is misclassified.
        retract: Back into the ball and the box.
        step_size: Length of a step.
        space: Bounds and mask.
    """

    judge: Judge
    retract: Retraction
    step_size: Eps
    space: InputSpace


@dataclass(frozen=True)
class _Track:
    """What a run remembers of each example.

    Attributes:
        z: Where it is.
        left: Steps that it still goes on when misclassified.
        done: Whether it stays where it is.
        momentum: Of the direction, where there is some.
    """

    z: Tensor
    left: Tensor
    done: Tensor
    momentum: Tensor | None = None

    def take(self, rows: Tensor) -> _Track:
        momentum = None if self.momentum is None else self.momentum[rows]
        return _Track(self.z[rows], self.left[rows], self.done[rows], momentum)

    def replaced(self, other: _Track, rows: Tensor) -> _Track:
        return replace(self, z=self.z.index_copy(0, rows, other.z))


def ascend(
    view: Callable[[Tensor], View],
    z: Tensor,
    *,
    direction: Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
    steps: int,
    patience: int,
) -> Tensor:
    """Go up until misclassified ``patience + 1`` times, at most ``steps`` steps.

    Which examples are done is a mask on the device, so what is returned does not depend on when
    the batch is made smaller: on a CPU whenever it pays, elsewhere where
    :func:`~artplus.attacks._leaving.leave` lets the host wait.

    Args:
        view: The examples of some numbers.
        z: Where to begin.
        direction: ``(slope, momentum) -> (unit step, momentum)``.
        steps: Most steps.
        patience: Steps that a misclassified example still goes on.
    """
    device = z.device
    kept = torch.arange(len(z), device=device)
    flags = torch.zeros(len(z), dtype=torch.bool, device=device)
    track, seen = _Track(z, torch.full_like(kept, patience), flags), view(kept)
    gone: list[tuple[_Track, Tensor]] = []
    for k in range(1, steps + 1):
        _, fooled, slope = look(seen.judge, track.z)
        done = track.done | (fooled & (track.left == 0))
        step, momentum = direction(seen.space.restrict(slope), track.momentum)
        moved = seen.retract(track.z + seen.step_size * step)
        stay = column(done, moved)
        track = _Track(
            torch.where(stay, track.z, moved), track.left - (fooled & ~done).long(), done, momentum
        )
        rows = None if k == steps else _rows(k, done)
        if rows is not None:
            gone.append((track, rows))
            track, kept = track.take(rows), kept[rows]
            if not len(rows):
                break
            seen = view(kept)
    return rejoined(track, gone).z


def _rows(step: int, done: Tensor) -> Tensor | None:
    """Numbers of those that go on, if it is time to look and enough are done."""
    rows = leave(step, done) if done.device.type != "cpu" else (~done).nonzero().squeeze(1)
    return None if rows is None or len(done) - len(rows) < max(1, WORTH * len(done)) else rows


def view_of(
    model: LossModel,
    x: Tensor,
    y: Tensor,
    *,
    inner: Inner | None,
    space: InputSpace,
    step_size: Eps,
    eps: Eps,
    retraction: Callable[[Tensor, Eps, InputSpace], Retraction],
    targeted: bool,
) -> Callable[[Tensor], View]:
    """Views of a batch's examples by their numbers."""

    def view(rows: Tensor) -> View:
        center, part = x[rows], space.masked(take(space.mask, rows, x))
        return View(
            _judge(model, center, y[rows], inner, targeted=targeted),
            retraction(center, take(eps, rows, x), part),
            take(step_size, rows, x),
            part,
        )

    return view


def _judge(model: LossModel, x: Tensor, y: Tensor, inner: Inner | None, *, targeted: bool) -> Judge:
    """Inner loss and mistakes from one forward pass, whatever the inner loss makes of it."""
    passed: list[tuple[Tensor, Tensor]] = []

    def forward(z: Tensor) -> Tensor:
        predictions = model(z)
        passed.append((z, predictions))
        return predictions

    if not model.criterion.over_classes:
        raise ConfigurationError(
            "patience= counts the steps of a misclassified example, but this model's loss is not "
            "over classes; leave it out"
        )
    climb = (inner or own_loss)(replace(model, forward=forward), x, y)

    def judge(z: Tensor) -> tuple[Tensor, Tensor]:
        passed.clear()
        values = climb(z)
        found = [predictions for at, predictions in passed if at is z]
        passed.clear()
        if not found:
            raise ConfigurationError(
                "an attack with patience= must see the model's prediction for x_adv, but the inner "
                "loss never asks for it as it stands; leave patience out"
            )
        return (-values if targeted else values), model.wrong(found[0].detach(), y) ^ targeted

    return judge
