"""The nearest mistake so far of each example, and a line search for a nearer one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.attacks._base import column
from artplus.geometry import Box, clip

Length = Callable[[Tensor], Tensor]
"""Norm of each perturbation, ``(batch,)``."""

DUAL = {math.inf: 1.0, 2.0: 2.0, 1.0: math.inf}
"""Order of the dual norm."""


@dataclass(frozen=True)
class Nearest:
    """One candidate per example with its distance; immutable.

    Attributes:
        z: ``(batch, ...)``; where there is no mistake yet, the point where the attack ended.
        distance: ``(batch,)``; infinite where there is no mistake yet.
    """

    z: Tensor
    distance: Tensor

    def better(self, other: Nearest) -> Nearest:
        """Per example the nearer of the two; ``other`` if they are equally far."""
        other_wins = other.distance <= self.distance
        return Nearest(
            torch.where(column(other_wins, self.z), other.z, self.z),
            torch.where(other_wins, other.distance, self.distance),
        )

    def take(self, rows: Tensor) -> Nearest:
        """The candidates of the examples ``rows``."""
        return Nearest(self.z[rows], self.distance[rows])

    def replaced(self, other: Nearest, rows: Tensor) -> Nearest:
        """``other`` for the examples ``rows``, ``self`` for the rest."""
        return Nearest(
            self.z.index_copy(0, rows, other.z),
            self.distance.index_copy(0, rows, other.distance),
        )

    def merged(self, other: Nearest, rows: Tensor) -> Nearest:
        """The nearer of the two, where ``other`` holds only the examples ``rows``."""
        return self.replaced(self.take(rows).better(other), rows)


def line_search(
    best: Nearest,
    x: Tensor,
    margin: Callable[[Tensor], Tensor],
    length: Length,
    box: Box,
    steps: int,
) -> Nearest:
    """Search for a nearer mistake on the line from ``x`` to each mistake in ``best``.

    Each step takes the zero of the secant through the margins at both ends, goes a tenth of the
    rest of the interval beyond it, and makes that point the new end on its side. So the interval
    shrinks to a tenth, or the secant gets more accurate. Examples without a mistake do not change.

    Args:
        best: The nearest mistakes so far.
        x: Correctly classified start of each line.
        margin: ``x_adv -> (batch,)``, positive on mistakes only.
        length: Norm of a perturbation.
        box: Bounds that rounding must not leave.
        steps: Forward passes, after one for each end.
    """
    if not steps:
        return best
    is_mistake = best.distance < math.inf
    delta = best.z - x
    t_from, t_to = torch.zeros_like(best.distance), torch.ones_like(best.distance)
    margin_from, margin_to = margin(x), margin(best.z)
    for _ in range(steps):
        root = torch.nan_to_num(-margin_from / (margin_to - margin_from), nan=0.5).clamp(0, 1)
        t = t_from + (t_to - t_from) * (root + 0.1 * (1 - root))
        z = clip(x + column(t, x) * delta, box)
        value = margin(z)
        beyond = value > 0
        t_to, margin_to = torch.where(beyond, t, t_to), torch.where(beyond, value, margin_to)
        t_from, margin_from = (
            torch.where(beyond, t_from, t),
            torch.where(beyond, margin_from, value),
        )
        best = best.better(Nearest(z, torch.where(is_mistake & beyond, length(z - x), math.inf)))
    return best
