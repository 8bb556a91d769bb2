"""The shapes that Square draws: windows, stripes and pyramids on images, signals and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from artplus.errors import ConfigurationError

Side = tuple[int, int]
Draw = torch.Generator | None


@dataclass(frozen=True)
class Canvas:
    """One input seen as ``(channels, height, width)``; a signal or a row has height 1."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, x: Tensor, *, tiled: bool) -> Canvas:
        """The canvas of inputs ``(batch, *input)``.

        Args:
            x: Inputs.
            tiled: Pyramids will be drawn, which need three pixels each way.

        Raises:
            ConfigurationError: for inputs that are no images, signals or rows.
        """
        shape = tuple(x.shape[1:])
        if tiled and (len(shape) != 3 or min(shape[1:]) < 3):
            raise ConfigurationError(
                "Square with norm 2 draws pyramids on images (batch, channels, height, width) of "
                f"at least 3 x 3 pixels, got inputs of shape {shape}. Use norm=numpy.inf, or APGD."
            )
        if not 1 <= len(shape) <= 3:
            raise ConfigurationError(
                "Square needs images (batch, channels, height, width), signals (batch, channels, "
                f"length) or rows (batch, features), got inputs of shape {shape}"
            )
        channels, height, width = (1,) * (3 - len(shape)) + shape
        if len(shape) == 2:
            channels, height = shape[0], 1
        return cls(channels, height, width)

    def image(self, x: Tensor) -> Tensor:
        """Inputs as ``(batch, channels, height, width)``."""
        return x.reshape(len(x), self.channels, self.height, self.width)

    def signs(self, x: Tensor, generator: Draw) -> Tensor:
        """One random sign per example and channel, shaped like ``x``."""
        return self._spread(_signs((len(x), self.channels, 1, 1), x, generator), x)

    def stripes(self, x: Tensor, generator: Draw) -> Tensor:
        """One random sign per example, channel and column, shaped like ``x``."""
        return self._spread(_signs((len(x), self.channels, 1, self.width), x, generator), x)

    def side(self, share: float, *, least: int = 1, odd: bool = False) -> Side:
        """Height and width of a window that covers ``share`` of the pixels."""
        if self.height == 1:
            return 1, min(max(round(share * self.width), least), self.width)
        side = max(round(math.sqrt(share * self.height * self.width)), least)
        side = min(side, self.height, self.width)
        if odd and side % 2 == 0:
            side += 1 if side < min(self.height, self.width) else -1
        return side, side

    def corners(self, count: int, side: Side, like: Tensor, generator: Draw) -> Tensor:
        """Top left corners of windows inside the canvas, ``(count, 2)``, drawn per example."""
        room = (self.height - side[0] + 1, self.width - side[1] + 1)
        drawn = [torch.randint(n, (count,), generator=generator, device=like.device) for n in room]
        return torch.stack(drawn, 1)

    def places(self, corners: Tensor, side: Side) -> Tensor:
        """Where each example's window lies in its flattened input, ``(n, channels, pixels)``."""
        like = corners.device
        down = torch.arange(side[0], device=like)[:, None] * self.width
        inside = (down + torch.arange(side[1], device=like)).flatten()
        channel = torch.arange(self.channels, device=like)[:, None] * (self.height * self.width)
        return (corners[:, 0] * self.width + corners[:, 1])[:, None, None] + channel + inside

    def tiles(self, x: Tensor, order: float, generator: Draw) -> Tensor:
        """A grid of pyramids, five each way where they fit, of random signs; shaped like ``x``."""
        n, c, s = len(x), self.channels, max(min(self.height, self.width) // 5, 1)
        rows, columns = self.height // s, self.width // s
        shape = pyramid(s, order, x)
        flip = torch.rand((n, 1, rows, 1, columns, 1), generator=generator, device=x.device) < 0.5
        tile = torch.where(
            flip, shape[None, None, None, :, None, :], shape.T[None, None, None, :, None, :]
        )
        grid = (tile * _signs((n, c, rows, 1, columns, 1), x, generator)).reshape(
            n, c, rows * s, columns * s
        )
        top, left = (self.height - rows * s) // 2, (self.width - columns * s) // 2
        delta = x.new_zeros(n, c, self.height, self.width)
        delta[:, :, top : top + rows * s, left : left + columns * s] = grid
        return delta.view_as(x)

    def moved(
        self, delta: Tensor, eps: float | Tensor, share: float, order: float, generator: Draw
    ) -> Tensor:
        """``delta`` with the length of one window moved into another (the step in L2 and L1).

        The second window is emptied, and a pyramid of random sign added to the first, whose
        length takes what the second gave up and what the whole leaves unused of ``eps``. In L1
        that is, as in the authors' code, ``channels`` times what would fill the ball.
        """
        n, c, side = len(delta), self.channels, self.side(share, least=3, odd=True)
        flat = delta.flatten(1)
        here = self.places(self.corners(n, side, delta, generator), side).flatten(1)
        there = self.places(self.corners(n, side, delta, generator), side).flatten(1)
        old = flat.gather(1, here).view(n, c, -1)
        rest = flat.scatter(1, here, 0.0)
        given = rest.gather(1, there).view(n, c, -1)
        radius = (eps.reshape(-1, 1, 1) if isinstance(eps, Tensor) else eps) ** order
        unused = (radius - _mass(flat, order)[:, None, None]).clamp_min(0)
        budget = unused / c + _mass(old, order)[..., None] + _mass(given, order)[..., None]
        budget = budget * c if order == 1 else budget.sqrt()
        shape = pyramid(side[0], order, delta)
        flip = torch.rand((n, 1, 1), generator=generator, device=delta.device) < 0.5
        bump = torch.where(flip, shape.flatten(), shape.T.flatten())
        new = bump * _signs((n, c, 1), delta, generator) + _unit(old, order)
        rest.scatter_(1, there, 0.0)
        return rest.scatter_(1, here, (_unit(new, order) * budget).flatten(1)).view_as(delta)

    def _spread(self, part: Tensor, x: Tensor) -> Tensor:
        return part.expand(len(x), self.channels, self.height, self.width).reshape(x.shape)


def pyramid(side: int, order: float, like: Tensor) -> Tensor:
    """The pyramid of a side, in the precision and on the device of ``like``; built once."""
    return _pyramid(side, order, like.dtype, like.device)


@cache
def _pyramid(side: int, order: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""A unit-length bump and hollow, one above the other, ``(side, side)``.

    Each half falls off from its middle in nested frames, the ``k``-th of height
    :math:`\sum_{j \ge k} (j + 1)^{-2}` in L2, and with :math:`-4` for :math:`-2` in L1.
    """
    half, like = side // 2, torch.empty((), dtype=dtype, device=device)
    whole = [_frames(half, side, order, like), -_frames(side - half, side, order, like)]
    return _unit(torch.cat(whole).flatten(), order).view(side, side)


def _frames(height: int, width: int, order: float, like: Tensor) -> Tensor:
    count = max(height // 2, width // 2) + 1
    falls = torch.arange(1, count + 1, device=like.device, dtype=like.dtype) ** (-4 / order)
    heights = falls.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    frames = heights[torch.maximum(down[:, None], across[None])]
    return _unit(frames.flatten(), order).view_as(frames) if height else frames


def _unit(values: Tensor, order: float) -> Tensor:
    """Scaled to length one over the last axis; zero stays zero."""
    return F.normalize(values, p=order, dim=-1, eps=1e-12)


def _mass(values: Tensor, order: float) -> Tensor:
    r""":math:`\sum_i |v_i|^p` over the last axis."""
    return (values.abs() if order == 1 else values.square()).sum(-1)


def _signs(shape: tuple[int, ...], like: Tensor, generator: Draw) -> Tensor:
    drawn = torch.randint(2, shape, generator=generator, device=like.device)
    return (drawn * 2 - 1).to(like.dtype)
