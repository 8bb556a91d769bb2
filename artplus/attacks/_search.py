"""The candidates of Square's queries: corners of the L∞ ball; windows moved about in L2 and L1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from artplus.attacks import _l1_ball
from artplus.attacks._base import column, take
from artplus.attacks._patterns import Canvas, Draw
from artplus.geometry import Eps, clip, geometry
from artplus.spaces import Region


@dataclass(frozen=True)
class Candidates:
    """Candidates of one query.

    Attributes:
        z: ``(batch, *input)``.
        undo: ``rose -> best``: the candidates where the margin rose, else the previous best.
        changed: Which candidates differ from the previous best, ``(batch,)``; ``None`` if nearly
            all do.
    """

    z: Tensor
    undo: Callable[[Tensor], Tensor]
    changed: Tensor | None = None


class Search(Protocol):
    """The random search of one norm, on the examples it holds."""

    def first(self, generator: Draw) -> Tensor:
        """First point of the search."""
        ...

    def inside(self, z: Tensor) -> Tensor:
        """``z`` projected into the ball and the space."""
        ...

    def tried(self, best: Tensor, share: float, generator: Draw) -> Candidates:
        """Candidates that change about ``share`` of the pixels; may write into ``best``."""
        ...

    def take(self, rows: Tensor) -> Search:
        """The search of the examples ``rows``."""
        ...


@dataclass(frozen=True)
class Corners:
    """L∞: every feature is at its least or greatest value, except in a start given by the user.

    Attributes:
        canvas: Form of the inputs.
        ends: The least and the greatest value of each feature, ``(batch, 2, *input)``.
    """

    canvas: Canvas
    ends: Tensor

    @classmethod
    def around(cls, x: Tensor, eps: Eps, space: Region) -> Corners:
        """The ball of radius ``eps`` around ``x``, inside the space."""
        reach = space.restrict(torch.as_tensor(eps).to(x).expand_as(x))
        ends = torch.stack([clip(x - reach, space), clip(x + reach, space)], 1)
        return cls(Canvas.of(x, tiled=False), ends.contiguous())

    def first(self, generator: Draw) -> Tensor:
        low, high = self.ends.unbind(1)
        return torch.where(self.canvas.stripes(low, generator) > 0, high, low)

    def inside(self, z: Tensor) -> Tensor:
        return torch.clamp(z, *self.ends.unbind(1))

    def tried(self, best: Tensor, share: float, generator: Draw) -> Candidates:
        # Only a window changes, so it is written into ``best`` and, where the margin does not rise,
        # written back, without a pass over whole images.
        n, canvas, side = len(best), self.canvas, self.canvas.side(share)
        places = canvas.places(n, side, best, generator)
        up = torch.randint(2, (n, canvas.channels, 1), generator=generator, device=best.device)
        flat = best.flatten(1)
        new = self.ends.flatten(1).gather(1, (places + up * flat.shape[1]).flatten(1))
        places = places.flatten(1)
        old = flat.gather(1, places)
        flat.scatter_(1, places, new)

        def undo(rose: Tensor) -> Tensor:
            flat.scatter_(1, places, torch.where(rose[:, None], new, old))
            return flat.view_as(best)

        return Candidates(flat.view_as(best), undo, (new != old).any(1))

    def take(self, rows: Tensor) -> Corners:
        return Corners(self.canvas, self.ends[rows])


@dataclass(frozen=True)
class Spread:
    """L2 and L1: the radius is spread over windows.

    Attributes:
        canvas: Form of the inputs.
        order: 2 or 1.
        x: Centres, ``(batch, *input)``.
        eps: Radius.
        space: Bounds and mask.
    """

    canvas: Canvas
    order: float
    x: Tensor
    eps: Eps
    space: Region

    def first(self, generator: Draw) -> Tensor:
        return self._filled(self.canvas.tiles(self.x, self.order, generator))

    def inside(self, z: Tensor) -> Tensor:
        delta = self.space.restrict(z - self.x)
        if self.order == 1:
            return _l1_ball.projection(self.x, self.eps, self.space)(self.x + delta)
        return geometry(self.order).retraction(self.x, self.eps, self.space)(self.x + delta)

    def tried(self, best: Tensor, share: float, generator: Draw) -> Candidates:
        """The length of one window moved into another.

        In L2 the perturbation stays as long as the radius or, if clipped, shorter. Only two windows
        change, and they are written into ``best``. In L1 the whole point must be projected.
        """
        n, canvas, side = len(best), self.canvas, self.canvas.side(share, least=3, odd=True)
        flat, centre = best.flatten(1), self.x.flatten(1)
        if self.order == 1:
            flat = flat.clone()
        unused = self._unused(flat - centre)
        here = canvas.places(n, side, flat, generator).flatten(1)
        there = canvas.places(n, side, flat, generator).flatten(1)
        x_here, x_there = centre.gather(1, here), centre.gather(1, there)
        was_here = flat.gather(1, here)
        flat.scatter_(1, here, x_here)
        was_there = flat.gather(1, there)  # features in both windows count once
        space, delta, removed = self.space.at(here, self.x), was_here - x_here, was_there - x_there
        new = canvas.refilled(delta, removed, unused, space.mask, side, self.order, generator)
        new = x_here + new if self.order == 1 else clip(x_here + new, space)
        flat.scatter_(1, there, x_there).scatter_(1, here, new)
        if self.order == 1:
            z = self.inside(flat.view_as(best))
            return Candidates(z, lambda rose: torch.where(column(rose, z), z, best))

        def undo(rose: Tensor) -> Tensor:
            flat.scatter_(1, there, torch.where(rose[:, None], x_there, was_there))
            flat.scatter_(1, here, torch.where(rose[:, None], new, was_here))
            return flat.view_as(best)

        return Candidates(flat.view_as(best), undo)

    def _unused(self, delta: Tensor) -> Tensor:
        """``radius**p - length**p`` of ``delta``, ``(n, features)``, in the Lp norm."""
        radius = self.eps.flatten() if isinstance(self.eps, Tensor) else self.eps
        used: Tensor = torch.linalg.vector_norm(delta, self.order, 1) ** self.order
        return radius**self.order - used

    def _filled(self, delta: Tensor) -> Tensor:
        """The point at ``delta`` scaled to the radius; clipping to the box only shortens it."""
        if self.order == 1:
            return self.inside(self.x + delta)
        delta = self.space.restrict(delta)
        length = geometry(self.order).length(delta).clamp_min(torch.finfo(delta.dtype).tiny)
        return clip((delta * (self.eps / column(length, delta))).add_(self.x), self.space)

    def take(self, rows: Tensor) -> Spread:
        space = self.space.rows(rows, self.x)
        return replace(self, x=self.x[rows], eps=take(self.eps, rows, self.x), space=space)


def search(x: Tensor, eps: Eps, space: Region, order: float) -> Search:
    """The search of a norm around ``x``.

    Raises:
        ConfigurationError: for inputs other than images or, in L∞, signals and rows.
    """
    if order == torch.inf:
        return Corners.around(x, eps, space)
    return Spread(Canvas.of(x, tiled=True), order, x.contiguous(), eps, space)
