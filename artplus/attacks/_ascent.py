"""The run of Auto-PGD in L∞ and L2: momentum, and a step that halves (Croce and Hein, 2020)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artplus.attacks._base import column
from artplus.attacks._best import Best
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.geometry import Eps, Retraction

_CHECKPOINTS = (22, 41, 57, 70, 80, 87, 93, 99)
"""When to judge the step length, in percent of the steps: :math:`p_1 = 0.22` and
:math:`p_{j+1} = p_j + \\max(p_j - p_{j-1} - 0.03, 0.06)`."""


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


def ascend(problem: Problem, step_size: Eps, z: Tensor, pace: Pace) -> Best:
    """One run. Every decision is a mask on the device: a step does not wait for the host.

    Args:
        problem: What is climbed.
        step_size: First length of a step.
        z: Where to begin.
        pace: Settings.
    """
    value, fooled, slope = problem.look(z, pace.draws)
    best = Best(z, value, fooled)
    track = _Track.begun(z, value, slope, first_steps(problem, step_size))
    remaining: Remaining[Best] = Remaining(problem)
    retract, looks = problem.retraction(), checkpoints(pace.steps)
    for k in range(1, pace.steps + 1):
        z = _ahead(track, problem, retract, pace.momentum if k > 1 else 1.0)
        value, fooled, slope = problem.look(z, pace.draws)
        best = best.better(Best(z, value, fooled))
        track.move(z, value, slope)
        if k in looks:
            track.settle(pace.rho * looks[k])
        leaves = pace.until_fooled and k < pace.steps
        rows = remaining.leave(k, best.fooled, best) if leaves else None
        if rows is not None:
            best, track, problem = best.take(rows), track.take(rows), remaining.problem
            if not len(problem):
                break
            retract = problem.retraction()
    return remaining.rejoined(best)


def first_steps(problem: Problem, step_size: Eps) -> Tensor:
    """The first length of a step, for each example a row that broadcasts over it."""
    z = problem.z0
    return step_size * column(z.new_ones(len(z)), z)


def _ahead(track: _Track, problem: Problem, retract: Retraction, momentum: float) -> Tensor:
    z, ball, region = track.z, problem.ball, problem.region
    ahead = retract(torch.addcmul(z, track.step, ball.steepest(region.restrict(track.slope))))
    if momentum == 1.0:
        return ahead
    # z + m (ahead - z) + (1 - m) (z - before), in three passes over memory
    return retract(torch.lerp(z, ahead, momentum).add_(z - track.before, alpha=1 - momentum))


def checkpoints(steps: int) -> dict[int, int]:
    """Steps after which to look at the step length, with the number of steps since the last."""
    looks = sorted({-(-percent * steps // 100) for percent in _CHECKPOINTS})
    return dict(zip(looks, (b - a for a, b in zip([0, *looks], looks, strict=False)), strict=True))
