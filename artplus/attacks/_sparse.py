"""Auto-PGD in L1: steps on a few features, of which ever fewer are left (Croce and Hein, 2021)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artplus.attacks._ascent import Among, Pace, Scene
from artplus.attacks._base import column, look
from artplus.attacks._found import Found
from artplus.attacks._l1_ball import projection
from artplus.attacks._leaving import leave, rejoined

_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, as multiples of eps, and the share of the steps in each."""

_SHARE = 0.2
"""Share of the features that the first steps move."""

_FEWER = 1.5
"""Of the features that the best point changes, one in so many is moved next; also what a step is
divided by where sparsity has settled."""

_LEAST = 10.0
"""A step is never shorter than its first length divided by this."""


def ascend(scene: Scene, among: Among, z: Tensor, pace: Pace) -> Found:
    """One run: through balls of three, two and one times ``eps``, each from the last one's best.

    Every decision is a mask on the device: a step does not wait for the host. What is found in the
    larger balls does not count, so examples leave in the last one only.

    Args:
        scene: What is attacked.
        among: The scene of those that stay, for ``pace.until_fooled``.
        z: Where to begin.
        pace: Settings.
    """
    x = scene.x
    features = float(x[0].numel())
    active = torch.full((len(x),), _SHARE * features, dtype=x.dtype, device=x.device)
    changed = torch.full_like(active, features)
    (large, first), (middle, second), (own, last) = _counts(pace.steps)
    for scale, count in ((large, first), (middle, second)):
        if count:
            track, _ = _climb(scene, None, z, scale, count, pace.draws, active, changed)
            z = track.best
            changed = _changed(z, x)
            active = changed / _FEWER
    stay = among if pace.until_fooled else None
    return _climb(scene, stay, z, own, last, pace.draws, active, changed)[1]


def _counts(steps: int) -> list[tuple[float, int]]:
    """Radius and number of steps of each phase; the last takes what rounding leaves."""
    early = [(scale, int(share * steps)) for scale, share in _PHASES[:-1]]
    return [*early, (_PHASES[-1][0], steps - sum(count for _, count in early))]


@dataclass
class _Track:
    """What a run remembers of each example."""

    z: Tensor
    slope: Tensor
    step: Tensor
    best: Tensor
    best_value: Tensor
    best_slope: Tensor
    active: Tensor
    changed: Tensor

    def take(self, rows: Tensor) -> _Track:
        return _Track(*(getattr(self, field.name)[rows] for field in fields(self)))

    def move(self, z: Tensor, value: Tensor, slope: Tensor) -> None:
        higher = value > self.best_value
        self.best = torch.where(column(higher, z), z, self.best)
        self.best_slope = torch.where(column(higher, z), slope, self.best_slope)
        self.best_value = torch.where(higher, value, self.best_value)
        self.z, self.slope = z, slope

    def settle(self, x: Tensor, longest: Tensor) -> None:
        """Begin anew from the best point where it became sparser, else shorten the step."""
        now = _changed(self.best, x)
        again = column(now < 0.95 * self.changed, x)
        self.active, self.changed = now / _FEWER, now
        shorter = torch.maximum(self.step / _FEWER, longest / _LEAST)
        self.step = torch.where(again, longest, shorter)
        self.z = torch.where(again, self.best, self.z)
        self.slope = torch.where(again, self.best_slope, self.slope)


def _climb(
    scene: Scene,
    among: Among | None,
    z: Tensor,
    scale: float,
    steps: int,
    draws: int,
    active: Tensor,
    changed: Tensor,
) -> tuple[_Track, Found]:
    """Steps in one ball: where they came to, and the best of them all."""
    ball = projection(scene.x, scale * scene.eps, scene.space)
    z = ball(scene.x + scene.space.restrict(z - scene.x))
    longest = scale * scene.steps()
    value, fooled, slope = look(scene.judge, z, draws)
    found = Found(z, value, fooled)
    track = _Track(z, slope, longest, z, value, slope, active, changed)
    every, left, kept = max(int(0.04 * steps), 1), [], torch.arange(len(z), device=z.device)
    for k in range(1, steps + 1):
        z = ball(track.z + track.step * _spread(scene.space.restrict(track.slope), track.active))
        value, fooled, slope = look(scene.judge, z, draws)
        found = found.better(Found(z, value, fooled))
        track.move(z, value, slope)
        if k % every == 0:
            track.settle(scene.x, longest)
        rows = leave(k, found.fooled) if among is not None and k < steps else None
        if among is not None and rows is not None:
            left.append((found, rows))
            found, track, kept = found.take(rows), track.take(rows), kept[rows]
            if not len(rows):
                break
            scene = among(kept)
            ball = projection(scene.x, scale * scene.eps, scene.space)
            longest = scale * scene.steps()
    return track, rejoined(found, left)


def _spread(slope: Tensor, active: Tensor) -> Tensor:
    """A step of length one, shared equally by the features of largest slope, at least one."""
    size = slope.flatten(1).abs()
    ranks = (active.long() - 1).clamp(0, size.shape[1] - 1)
    least = size.sort(1, descending=True).values.gather(1, ranks[:, None])
    signs = slope.flatten(1).sign() * (size >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(slope)


def _changed(z: Tensor, x: Tensor) -> Tensor:
    """How many features differ, ``(batch,)``."""
    return (z != x).flatten(1).sum(1).to(x.dtype)
