"""Auto-PGD in L1: steps on a few features, of which ever fewer are left (Croce and Hein, 2021)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artplus.attacks._ascent import Pace, first_steps
from artplus.attacks._base import column
from artplus.attacks._best import Best
from artplus.attacks._l1_ball import projection
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.geometry import Eps

_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, as multiples of eps, and the share of the steps in each."""

_SHARE = 0.2
"""Share of the features that the first steps move."""

_FEWER = 1.5
"""Of the features that the best point changes, one in so many is moved next; also what a step is
divided by where sparsity has settled."""

_LEAST = 10.0
"""A step is never shorter than its first length divided by this."""


def ascend(problem: Problem, step_size: Eps, z: Tensor, pace: Pace) -> Best:
    """One run: through balls of three, two and one times ``eps``, each from the last one's best.

    Every decision is a mask on the device: a step does not wait for the host. What is found in the
    larger balls does not count, so examples leave in the last one only.

    Args:
        problem: What is climbed.
        step_size: First length of a step, in the smallest ball.
        z: Where to begin.
        pace: Settings.
    """
    x = problem.z0
    features = float(x[0].numel())
    active = torch.full((len(x),), _SHARE * features, dtype=x.dtype, device=x.device)
    changed = torch.full_like(active, features)
    (large, first), (middle, second), (own, last) = _counts(pace.steps)
    for scale, count in ((large, first), (middle, second)):
        if count:
            track, _ = _climb(
                problem, step_size, z, scale, count, pace.draws, active, changed, leaves=False
            )
            z = track.best
            changed = _changed(z, x)
            active = changed / _FEWER
    return _climb(
        problem,
        step_size,
        z,
        own,
        last,
        pace.draws,
        active,
        changed,
        leaves=pace.until_fooled,
    )[1]


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
    problem: Problem,
    step_size: Eps,
    z: Tensor,
    scale: float,
    steps: int,
    draws: int,
    active: Tensor,
    changed: Tensor,
    *,
    leaves: bool,
) -> tuple[_Track, Best]:
    """Steps in one ball: where they came to, and the best of them all."""
    ball = projection(problem.z0, scale * problem.eps, problem.region)
    z = ball(problem.z0 + problem.region.restrict(z - problem.z0))
    longest = scale * first_steps(problem, step_size)
    value, fooled, slope = problem.look(z, draws)
    best = Best(z, value, fooled)
    track = _Track(z, slope, longest, z, value, slope, active, changed)
    remaining: Remaining[Best] = Remaining(problem)
    every = max(int(0.04 * steps), 1)
    for k in range(1, steps + 1):
        step = _spread(problem.region.restrict(track.slope), track.active)
        z = ball(track.z + track.step * step)
        value, fooled, slope = problem.look(z, draws)
        best = best.better(Best(z, value, fooled))
        track.move(z, value, slope)
        if k % every == 0:
            track.settle(problem.z0, longest)
        rows = remaining.leave(k, best.fooled, best) if leaves and k < steps else None
        if rows is not None:
            best, track, problem = best.take(rows), track.take(rows), remaining.problem
            if not len(problem):
                break
            ball = projection(problem.z0, scale * problem.eps, problem.region)
            longest = longest[rows]
    return track, remaining.rejoined(best)


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
