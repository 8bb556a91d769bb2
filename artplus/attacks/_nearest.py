"""The nearest mistake met so far, for each of a batch, and a search for one on the way to it."""

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


@dataclass(frozen=True)
class Nearest:
    """Candidates and how far they are; none is edited in place.

    Attributes:
        z: ``(batch, ...)``; where no mistake was met, the point where the attack ended.
        distance: ``(batch,)``; infinite where no mistake was met.
    """

    z: Tensor
    distance: Tensor

    def better(self, other: Nearest) -> Nearest:
        """Per example the nearer of the two; the other if they are equally far."""
        take = other.distance <= self.distance
        return Nearest(
            torch.where(column(take, self.z), other.z, self.z),
            torch.where(take, other.distance, self.distance),
        )

    def take(self, rows: Tensor) -> Nearest:
        """Those of the examples ``rows``."""
        return Nearest(self.z[rows], self.distance[rows])

    def replaced(self, other: Nearest, rows: Tensor) -> Nearest:
        """``other`` for the examples ``rows``, the present ones for the rest."""
        return Nearest(
            self.z.index_copy(0, rows, other.z),
            self.distance.index_copy(0, rows, other.distance),
        )

    def merged(self, other: Nearest, rows: Tensor) -> Nearest:
        """The better of the two where ``other`` holds only the examples ``rows``."""
        return self.replaced(self.take(rows).better(other), rows)


def closed_in(
    found: Nearest,
    x: Tensor,
    margin: Callable[[Tensor], Tensor],
    length: Length,
    box: Box,
    steps: int,
) -> Nearest:
    """Search for a nearer mistake on the way from ``x`` to each one found.

    A tenth beyond the place where a straight line through the margins at both ends is zero, which
    becomes the new end on its side: the way shrinks to a tenth or the secant gets truer. Where
    there is no mistake nothing changes.

    Args:
        found: What was found, at whatever distance.
        x: Where the ways begin, classified right.
        margin: ``x_adv -> (batch,)``, positive on mistakes alone.
        length: Norm of a perturbation.
        box: Bounds that rounding must not leave.
        steps: Forward passes, after one for each end.
    """
    if not steps:
        return found
    met = found.distance < math.inf
    way = found.z - x
    low, high = torch.zeros_like(found.distance), torch.ones_like(found.distance)
    below, above = margin(x), margin(found.z)
    for _ in range(steps):
        root = torch.nan_to_num(-below / (above - below), nan=0.5).clamp(0, 1)
        at = low + (high - low) * (root + 0.1 * (1 - root))
        z = clip(x + column(at, x) * way, box)
        value = margin(z)
        beyond = value > 0
        high, above = torch.where(beyond, at, high), torch.where(beyond, value, above)
        low, below = torch.where(beyond, low, at), torch.where(beyond, below, value)
        found = found.better(Nearest(z, torch.where(met & beyond, length(z - x), math.inf)))
    return found
