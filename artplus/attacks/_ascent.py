"""One run of Auto-PGD in L∞ and L2: momentum and a step that halves (Croce and Hein, 2020)."""

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
"""When the step length is adapted, in percent of the steps: :math:`p_1 = 0.22` and
:math:`p_{j+1} = p_j + \\max(p_j - p_{j-1} - 0.03, 0.06)`."""


@dataclass(frozen=True)
class RunSettings:
    """Settings of a run; see :class:`artplus.attacks.APGD`."""

    steps: int
    rho: float
    momentum: float
    draws: int
    until_fooled: bool


@dataclass
class _Track:
    """The state of a run; every tensor has one row per example."""

    z: Tensor
    z_before: Tensor
    value: Tensor
    slope: Tensor
    step: Tensor
    best: Tensor
    best_value: Tensor
    best_slope: Tensor
    rises: Tensor
    step_kept: Tensor
    last_best: Tensor

    @classmethod
    def start(cls, z: Tensor, value: Tensor, slope: Tensor, step: Tensor) -> _Track:
        rises = torch.zeros_like(value)
        return cls(z, z, value, slope, step, z, value, slope, rises, rises > 0, value)

    def take(self, rows: Tensor) -> _Track:
        return _Track(*(getattr(self, field.name)[rows] for field in fields(self)))

    def move(self, z: Tensor, value: Tensor, slope: Tensor) -> None:
        """Move to ``z``, and update the best point where the value rose above it."""
        self.rises = self.rises + (value > self.value)
        higher = value > self.best_value
        self.best = torch.where(column(higher, z), z, self.best)
        self.best_slope = torch.where(column(higher, z), slope, self.best_slope)
        self.best_value = torch.where(higher, value, self.best_value)
        self.z_before, self.z, self.value, self.slope = self.z, z, value, slope

    def adapt_step(self, enough: float) -> None:
        """Halve the step and return to the best point where the loss stopped rising.

        Args:
            enough: Number of rises since the last checkpoint above which the step is kept.
        """
        no_gain = self.step_kept & (self.best_value <= self.last_best)
        stuck = (self.rises <= enough) | no_gain
        self.step = torch.where(column(stuck, self.z), self.step / 2, self.step)
        self.z = torch.where(column(stuck, self.z), self.best, self.z)
        self.slope = torch.where(column(stuck, self.z), self.best_slope, self.slope)
        self.step_kept, self.last_best = ~stuck, self.best_value
        self.rises = torch.zeros_like(self.rises)


def ascend(problem: Problem, step_size: Eps, z: Tensor, settings: RunSettings) -> Best:
    """One run. Every decision is a mask on the device, so a step never synchronises with the host.

    Args:
        problem: The value to maximise, and the ball.
        step_size: First step length.
        z: First iterate.
        settings: Settings of the attack.
    """
    value, fooled, slope = problem.look(z, settings.draws)
    best = Best(z, value, fooled)
    track = _Track.start(z, value, slope, first_steps(problem, step_size))
    remaining: Remaining[Best] = Remaining(problem)
    retract, checkpoint_steps = problem.retraction(), checkpoints(settings.steps)
    for k in range(1, settings.steps + 1):
        z = _next_point(track, problem, retract, settings.momentum if k > 1 else 1.0)
        value, fooled, slope = problem.look(z, settings.draws)
        best = best.better(Best(z, value, fooled))
        track.move(z, value, slope)
        if k in checkpoint_steps:
            track.adapt_step(settings.rho * checkpoint_steps[k])
        leaves = settings.until_fooled and k < settings.steps
        rows = remaining.leave(k, best.fooled, best) if leaves else None
        if rows is not None:
            best, track, problem = best.take(rows), track.take(rows), remaining.problem
            if not len(problem):
                break
            retract = problem.retraction()
    return remaining.rejoined(best)


def first_steps(problem: Problem, step_size: Eps) -> Tensor:
    """The first step length of each example, shaped to broadcast over ``z``."""
    z = problem.z0
    return step_size * column(z.new_ones(len(z)), z)


def _next_point(track: _Track, problem: Problem, retract: Retraction, momentum: float) -> Tensor:
    z, ball, region = track.z, problem.ball, problem.region
    z_step = retract(torch.addcmul(z, track.step, ball.steepest(region.restrict(track.slope))))
    if momentum == 1.0:
        return z_step
    # z + m (z_step - z) + (1 - m) (z - z_before), in three passes over memory.
    return retract(torch.lerp(z, z_step, momentum).add_(z - track.z_before, alpha=1 - momentum))


def checkpoints(steps: int) -> dict[int, int]:
    """Steps after which the step length is adapted, with the number of steps since the last one."""
    checkpoint_steps = sorted({-(-percent * steps // 100) for percent in _CHECKPOINTS})
    return dict(
        zip(
            checkpoint_steps,
            (b - a for a, b in zip([0, *checkpoint_steps], checkpoint_steps, strict=False)),
            strict=True,
        )
    )
