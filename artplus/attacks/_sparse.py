"""Auto-PGD in L1: steps on a few features, of which ever fewer are left (Croce and Hein, 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from artplus.attacks._base import Judge, column, look
from artplus.attacks._found import Found
from artplus.attacks._l1_ball import projection
from artplus.geometry import Eps, Retraction
from artplus.spaces import InputSpace

_PHASES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))
"""Radii, as multiples of eps, and the share of the steps in each."""

_SHARE = 0.2
"""Share of the features that the first steps move."""

_FEWER = 1.5
"""Of the features that the best point changes, one in so many is moved next; also what a step is
divided by where sparsity has settled."""

_LEAST = 10.0
"""A step is never shorter than its first length divided by this."""


def ascend(
    judge: Judge, x: Tensor, z: Tensor, eps: Eps, step: Eps, steps: int, space: InputSpace
) -> Found:
    """One run: through balls of three, two and one times ``eps``, each from the last one's best.

    Every decision is a mask on the device: no step waits for the host. What is found in the larger
    balls does not count.

    Args:
        judge: ``z -> (values, fooled)``; the values are climbed.
        x: Centre of the balls.
        z: Where to begin.
        eps: Radius, a number or one per example.
        step: First length of a step in the last ball.
        steps: In all balls together.
        space: Range and mask.
    """
    features = float(x[0].numel())
    active = torch.full((len(x),), _SHARE * features, dtype=x.dtype, device=x.device)
    changed = torch.full_like(active, features)
    (large, first), (middle, second), (own, last) = _counts(steps)
    for scale, count in ((large, first), (middle, second)):
        if count:
            ball = projection(x, scale * eps, space)
            z, _ = _climb(judge, x, ball, z, scale * step, count, space, active, changed)
            changed = _changed(z, x)
            active = changed / _FEWER
    ball = projection(x, own * eps, space)
    return _climb(judge, x, ball, z, own * step, last, space, active, changed)[1]


def _counts(steps: int) -> list[tuple[float, int]]:
    """Radius and number of steps of each phase; the last takes what rounding leaves."""
    early = [(scale, int(share * steps)) for scale, share in _PHASES[:-1]]
    return [*early, (_PHASES[-1][0], steps - sum(count for _, count in early))]


def _climb(
    judge: Judge,
    x: Tensor,
    ball: Retraction,
    z: Tensor,
    step_size: Eps,
    steps: int,
    space: InputSpace,
    active: Tensor,
    changed: Tensor,
) -> tuple[Tensor, Found]:
    """Steps in one ball: the point of largest value, and the best of them all."""
    z = ball(x + space.restrict(z - x))
    longest = step_size * column(z.new_ones(len(z)), z)
    step = longest
    value, fooled, slope = look(judge, z)
    found = Found(z, value, fooled)
    best, best_value, best_slope = z, value, slope
    every = max(int(0.04 * steps), 1)
    for k in range(1, steps + 1):
        z = ball(z + step * _spread(space.restrict(slope), active))
        value, fooled, slope = look(judge, z)
        found = found.better(Found(z, value, fooled))
        higher = value > best_value
        best = torch.where(column(higher, z), z, best)
        best_slope = torch.where(column(higher, z), slope, best_slope)
        best_value = torch.where(higher, value, best_value)
        if k % every == 0:
            now = _changed(best, x)
            sparser = now < 0.95 * changed
            active, changed = now / _FEWER, now
            again = column(sparser, z)
            step = torch.where(again, longest, torch.maximum(step / _FEWER, longest / _LEAST))
            z, slope = torch.where(again, best, z), torch.where(again, best_slope, slope)
    return best, found


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
