"""The run of Auto-PGD in L∞ and L2: momentum, and a step that halves (Croce and Hein, 2020)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artplus.attacks._base import Judge, column, look
from artplus.attacks._found import Found
from artplus.attacks._leaving import leave, rejoined
from artplus.geometry import Eps, Geometry, Retraction
from artplus.spaces import InputSpace

_CHECKPOINTS = (22, 41, 57, 70, 80, 87, 93, 99)
"""When to judge the step length, in percent of the steps: :math:`p_1 = 0.22` and
:math:`p_{j+1} = p_j + \\max(p_j - p_{j-1} - 0.03, 0.06)`."""


@dataclass(frozen=True)
class Scene:
    """Examples to be attacked, and all that belongs to each.

    Attributes:
        judge: ``z -> (values, fooled)``; the values are climbed.
        x: Where they are, ``(batch, *input)``.
        eps: Radius.
        step_size: First length of a step.
        space: Bounds and mask.
    """

    judge: Judge
    x: Tensor
    eps: Eps
    step_size: Eps
    space: InputSpace

    def steps(self) -> Tensor:
        """The first length of a step, for each example a row that broadcasts over it."""
        return self.step_size * column(self.x.new_ones(len(self.x)), self.x)


Among = Callable[[Tensor], Scene]
"""The scene of some of a run's examples, by their numbers."""


@dataclass(frozen=True)
class Pace:
    """Settings of a run; see :class:`artplus.attacks.APGD`."""

    steps: int
    rho: float
    momentum: float
    draws: int
    until_fooled: bool


@dataclass
class _Track:
    """What a run remembers of each example."""

    z: Tensor
    before: Tensor
    value: Tensor
    slope: Tensor
    step: Tensor
    best: Tensor
    best_value: Tensor
    best_slope: Tensor
    rises: Tensor
    kept: Tensor
    last_best: Tensor

    @classmethod
    def begun(cls, z: Tensor, value: Tensor, slope: Tensor, step: Tensor) -> _Track:
        rises = torch.zeros_like(value)
        return cls(z, z, value, slope, step, z, value, slope, rises, rises > 0, value)

    def take(self, rows: Tensor) -> _Track:
        return _Track(*(getattr(self, field.name)[rows] for field in fields(self)))

    def move(self, z: Tensor, value: Tensor, slope: Tensor) -> None:
        """Go to ``z``, and keep it where nothing was better."""
        self.rises = self.rises + (value > self.value)
        higher = value > self.best_value
        self.best = torch.where(column(higher, z), z, self.best)
        self.best_slope = torch.where(column(higher, z), slope, self.best_slope)
        self.best_value = torch.where(higher, value, self.best_value)
        self.before, self.z, self.value, self.slope = self.z, z, value, slope

    def settle(self, enough: float) -> None:
        """Halve the step and go back to the best where the loss stopped rising."""
        still = self.kept & (self.best_value <= self.last_best)
        stuck = (self.rises <= enough) | still
        self.step = torch.where(column(stuck, self.z), self.step / 2, self.step)
        self.z = torch.where(column(stuck, self.z), self.best, self.z)
        self.slope = torch.where(column(stuck, self.z), self.best_slope, self.slope)
        self.kept, self.last_best = ~stuck, self.best_value
        self.rises = torch.zeros_like(self.rises)


def ascend(scene: Scene, among: Among, ball: Geometry, z: Tensor, pace: Pace) -> Found:
    """One run. Every decision is a mask on the device: a step does not wait for the host.

    Args:
        scene: What is attacked.
        among: The scene of those that stay, for ``pace.until_fooled``.
        ball: Norm.
        z: Where to begin.
        pace: Settings.
    """
    value, fooled, slope = look(scene.judge, z, pace.draws)
    found, track = Found(z, value, fooled), _Track.begun(z, value, slope, scene.steps())
    retract = ball.retraction(scene.x, scene.eps, scene.space)
    looks, left, kept = checkpoints(pace.steps), [], torch.arange(len(z), device=z.device)
    for k in range(1, pace.steps + 1):
        z = _ahead(track, ball, retract, scene.space, pace.momentum if k > 1 else 1.0)
        value, fooled, slope = look(scene.judge, z, pace.draws)
        found = found.better(Found(z, value, fooled))
        track.move(z, value, slope)
        if k in looks:
            track.settle(pace.rho * looks[k])
        rows = leave(k, found.fooled) if pace.until_fooled and k < pace.steps else None
        if rows is not None:
            left.append((found, rows))
            found, track, kept = found.take(rows), track.take(rows), kept[rows]
            if not len(rows):
                break
            scene = among(kept)
            retract = ball.retraction(scene.x, scene.eps, scene.space)
    return rejoined(found, left)


def _ahead(
    track: _Track, ball: Geometry, retract: Retraction, space: InputSpace, momentum: float
) -> Tensor:
    z = track.z
    ahead = retract(torch.addcmul(z, track.step, ball.steepest(space.restrict(track.slope))))
    if momentum == 1.0:
        return ahead
    # z + m (ahead - z) + (1 - m) (z - before), in three passes over memory
    return retract(torch.lerp(z, ahead, momentum).add_(z - track.before, alpha=1 - momentum))


def checkpoints(steps: int) -> dict[int, int]:
    """Steps after which to look at the step length, with the number of steps since the last."""
    looks = sorted({-(-percent * steps // 100) for percent in _CHECKPOINTS})
    return dict(zip(looks, (b - a for a, b in zip([0, *looks], looks, strict=False)), strict=True))
