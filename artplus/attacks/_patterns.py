"""The shapes that Square draws: windows, stripes and pyramids on images, signals and rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
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

    def window(self, corners: Tensor, side: Side, x: Tensor) -> Tensor:
        """Which entries of ``x`` lie in each example's window, booleans shaped like ``x``."""
        return self._spread(self._mask(corners, side), x)

    def tiles(self, x: Tensor, generator: Draw) -> Tensor:
        """A grid of pyramids, five each way where they fit, of random signs; shaped like ``x``."""
        n, c, s = len(x), self.channels, max(min(self.height, self.width) // 5, 1)
        rows, columns = self.height // s, self.width // s
        shape = pyramid(s, x)
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

    def moved(self, delta: Tensor, eps: float | Tensor, share: float, generator: Draw) -> Tensor:
        """``delta`` with the length of one window moved into another (the L2 step).

        The second window is emptied, and a pyramid of random sign added to the first, whose
        length takes what the second gave up and what the whole leaves unused of ``eps``.
        """
        n, side = len(delta), self.side(share, least=3, odd=True)
        image = self.image(delta)
        here = self._mask(self.corners(n, side, delta, generator), side)
        there = self._mask(self.corners(n, side, delta, generator), side)
        unused = (_eps_image(eps) ** 2 - _square(image, (1, 2, 3))).clamp_min(0)
        budget = (unused / self.channels + _square(image * (here | there), (2, 3))).sqrt()
        shape = pyramid(side[0], delta)
        flip = torch.rand((n, 1, 1, 1), generator=generator, device=delta.device) < 0.5
        bump = torch.where(flip, shape, shape.T)
        bump = bump * _signs((n, self.channels, 1, 1), delta, generator)
        # Windows are where the mask is true, row by row: a masked scatter fills them in order.
        full = torch.zeros_like(image).masked_scatter(here.expand_as(image), bump.contiguous())
        old = image * here
        new = full + old / _square(old, (2, 3)).sqrt().clamp_min(1e-12)
        new = new / _square(new, (2, 3)).sqrt().clamp_min(1e-12) * budget
        return torch.where(here, new, image.masked_fill(there, 0.0)).view_as(delta)

    def _mask(self, corners: Tensor, side: Side) -> Tensor:
        row = torch.arange(self.height, device=corners.device)[None] - corners[:, :1]
        column = torch.arange(self.width, device=corners.device)[None] - corners[:, 1:]
        rows, columns = (row >= 0) & (row < side[0]), (column >= 0) & (column < side[1])
        return rows[:, None, :, None] & columns[:, None, None, :]

    def _spread(self, part: Tensor, x: Tensor) -> Tensor:
        return part.expand(len(x), self.channels, self.height, self.width).reshape(x.shape)


def pyramid(side: int, like: Tensor) -> Tensor:
    r"""A unit-length bump and hollow, one above the other, ``(side, side)``.

    Each half falls off from its middle in nested frames, the ``k``-th of height
    :math:`\sum_{j \ge k} 1 / (j + 1)^2`.
    """
    half = side // 2
    whole = torch.cat([_frames(half, side, like), -_frames(side - half, side, like)])
    return whole / _square(whole, (0, 1)).sqrt()


def _frames(height: int, width: int, like: Tensor) -> Tensor:
    count = max(height // 2, width // 2) + 1
    falls = 1 / torch.arange(1, count + 1, device=like.device, dtype=like.dtype) ** 2
    heights = falls.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    frames = heights[torch.maximum(down[:, None], across[None])]
    return frames / _square(frames, (0, 1)).sqrt() if height else frames


def _signs(shape: tuple[int, ...], like: Tensor, generator: Draw) -> Tensor:
    drawn = torch.randint(2, shape, generator=generator, device=like.device)
    return (drawn * 2 - 1).to(like.dtype)


def _square(image: Tensor, axes: tuple[int, ...]) -> Tensor:
    return image.square().sum(axes, keepdim=True)


def _eps_image(eps: float | Tensor) -> Tensor:
    """A radius, or one per example, to be broadcast over images."""
    radius = torch.as_tensor(eps)
    return radius.reshape(-1, 1, 1, 1)
