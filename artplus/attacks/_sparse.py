"""One run of Auto-PGD in L1: sparse steps on fewer and fewer features (Croce and Hein, 2021)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from artplus.attacks._ascent import RunSettings, first_steps
from artplus.attacks._base import column
from artplus.attacks._best import Best
from artplus.attacks._l1_ball import projection
from artplus.attacks._problem import Problem
from artplus.attacks._remaining import Remaining
from artplus.geometry import Eps

_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, as multiples of eps, and the share of the steps spent in each."""

_SHARE = 0.2
"""Share of the features that the first steps change."""

_FEWER = 1.5
"""The number of features to change next is that of the best point divided by this. Where the best
point became no sparser, the step length is divided by it too."""

_LEAST = 10.0
"""A step is never shorter than its first length divided by this."""


def ascend(problem: Problem, step_size: Eps, z: Tensor, settings: RunSettings) -> Best:
    """One run through balls of radius ``3 * eps``, ``2 * eps`` and ``eps``.

    Each ball starts from the best point of the one before. Every decision is a mask on the device,
    so a step never synchronises with the host. Points in the larger balls do not count as results,
    so examples leave the batch in the last ball only.

    Args:
        problem: The value to maximise, and the ball.
        step_size: First step length in the smallest ball.
        z: First iterate.
        settings: Settings of the attack.
    """
    z0 = problem.z0
    features = float(z0[0].numel())
    active = torch.full((len(z0),), _SHARE * features, dtype=z0.dtype, device=z0.device)
    changed = torch.full_like(active, features)
    (large, first), (middle, second), (small, last) = _counts(settings.steps)
    for scale, count in ((large, first), (middle, second)):
        if count:
            track, _ = _climb(
                problem, step_size, z, scale, count, settings.draws, active, changed, leaves=False
            )
            z = track.best
            changed = _changed(z, z0)
            active = changed / _FEWER
    return _climb(
        problem,
        step_size,
        z,
        small,
        last,
        settings.draws,
        active,
        changed,
        leaves=settings.until_fooled,
    )[1]


def _counts(steps: int) -> list[tuple[float, int]]:
    """Radius and number of steps of each phase; the last phase takes the steps lost to rounding."""
    early = [(scale, int(share * steps)) for scale, share in _PHASES[:-1]]
    return [*early, (_PHASES[-1][0], steps - sum(count for _, count in early))]


def random_start(problem: Problem) -> Tensor:
    """Gaussian noise at ``z0``, projected on the largest ball and the region, as the authors start.

    A point drawn uniformly from the ball spreads its length over all features, so that every
    restart would start near ``z0``; the projection of noise leaves the few features drawn largest.
    The noise is as wide as the range of valid values, 1 in the authors' code, and ``eps`` wide
    where that is unbounded.
    """
    z0, region = problem.z0, problem.region
    width = region.width()
    noise = torch.randn(z0.shape, generator=problem.generator, dtype=z0.dtype, device=z0.device)
    noise = region.restrict(noise * (problem.eps if width is None else width))
    return projection(z0, _PHASES[0][0] * problem.eps, region)(z0 + noise)


@dataclass
class _Track:
    """The state of a run; every tensor has one row per example."""

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

    def adapt_step(self, x: Tensor, longest: Tensor) -> None:
        """Restart from the best point where it became sparser; shorten the step elsewhere."""
        sparsity = _changed(self.best, x)
        sparser = column(sparsity < 0.95 * self.changed, x)
        self.active, self.changed = sparsity / _FEWER, sparsity
        shorter = torch.maximum(self.step / _FEWER, longest / _LEAST)
        self.step = torch.where(sparser, longest, shorter)
        self.z = torch.where(sparser, self.best, self.z)
        self.slope = torch.where(sparser, self.best_slope, self.slope)


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
    """The steps in one ball: the final state, and the best point of each example."""
    ball = projection(problem.z0, scale * problem.eps, problem.region)
    z = ball(problem.z0 + problem.region.restrict(z - problem.z0))
    longest = scale * first_steps(problem, step_size)
    value, fooled, slope = problem.look(z, draws)
    best = Best(z, value, fooled)
    track = _Track(z, slope, longest, z, value, slope, active, changed)
    remaining: Remaining[Best] = Remaining(problem)
    interval = max(int(0.04 * steps), 1)
    for k in range(1, steps + 1):
        step = _spread(problem.region.restrict(track.slope), track.active)
        z = ball(track.z + track.step * step)
        value, fooled, slope = problem.look(z, draws)
        best = best.better(Best(z, value, fooled))
        track.move(z, value, slope)
        if k % interval == 0:
            track.adapt_step(problem.z0, longest)
        rows = remaining.leave(k, best.fooled, best) if leaves and k < steps else None
        if rows is not None:
            best, track, problem = best.take(rows), track.take(rows), remaining.problem
            if not len(problem):
                break
            ball = projection(problem.z0, scale * problem.eps, problem.region)
            longest = longest[rows]
    return track, remaining.rejoined(best)


def _spread(slope: Tensor, active: Tensor) -> Tensor:
    """A step of L1 length one, split equally among the ``active`` features of largest gradient."""
    size = slope.flatten(1).abs()
    ranks = (active.long() - 1).clamp(0, size.shape[1] - 1)
    least = size.sort(1, descending=True).values.gather(1, ranks[:, None])
    signs = slope.flatten(1).sign() * (size >= least)
    return (signs / signs.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(slope)


def _changed(z: Tensor, x: Tensor) -> Tensor:
    """Number of features in which ``z`` and ``x`` differ, ``(batch,)``."""
    return (z != x).flatten(1).sum(1).to(x.dtype)
