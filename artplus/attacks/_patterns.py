"""The patterns of Square: windows, stripes and pyramids on images, signals and rows."""

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

_TINY = 1e-12
"""Smallest length to divide by."""


@dataclass(frozen=True)
class Canvas:
    """One input seen as ``(channels, height, width)``; a signal or a row has height 1."""

    channels: int
    height: int
    width: int

    @classmethod
    def of(cls, z: Tensor, *, tiled: bool) -> Canvas:
        """The canvas of inputs ``(batch, *input)``.

        Args:
            z: Inputs.
            tiled: Whether pyramids will be drawn, which need 3 x 3 pixels.

        Raises:
            ConfigurationError: for inputs other than images, signals or rows.
        """
        shape = tuple(z.shape[1:])
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

    def stripes(self, z: Tensor, generator: Draw) -> Tensor:
        """One random sign per example, channel and column, shaped like ``z``."""
        return self._broadcast(_signs((len(z), self.channels, 1, self.width), z, generator), z)

    def side(self, share: float, *, least: int = 1, odd: bool = False) -> Side:
        """Height and width of a window that covers ``share`` of the pixels."""
        if self.height == 1:
            return 1, min(max(round(share * self.width), least), self.width)
        side = max(round(math.sqrt(share * self.height * self.width)), least)
        side = min(side, self.height, self.width)
        if odd and side % 2 == 0:
            side += 1 if side < min(self.height, self.width) else -1
        return side, side

    def places(self, count: int, side: Side, like: Tensor, generator: Draw) -> Tensor:
        """Indices of a random window in each of ``count`` flattened inputs.

        Corners are drawn per example, and windows reach every pixel.

        Returns:
            ``(count, channels, pixels)``.
        """
        tops, lefts = self.height - side[0] + 1, self.width - side[1] + 1
        down = torch.randint(tops, (count, 1, 1), generator=generator, device=like.device)
        across = torch.randint(lefts, (count, 1, 1), generator=generator, device=like.device)
        return (across + down * self.width) + _window(self, side, like.device)

    def tiles(self, z: Tensor, order: float, generator: Draw) -> Tensor:
        """A grid of 5 x 5 pyramids (where they fit) of random signs, shaped like ``z``."""
        n, c, s = len(z), self.channels, max(min(self.height, self.width) // 5, 1)
        rows, columns = self.height // s, self.width // s
        turn = torch.randint(2, (n, 1, rows, columns), generator=generator, device=z.device)
        sign = torch.randint(2, (n, c, rows, columns), generator=generator, device=z.device)
        tiles = bumps(s, order, z)[turn + 2 * sign].view(n, c, rows, columns, s, s)
        grid = tiles.transpose(3, 4).reshape(n, c, rows * s, columns * s)
        top, left = (self.height - rows * s) // 2, (self.width - columns * s) // 2
        delta = z.new_zeros(n, c, self.height, self.width)
        delta[:, :, top : top + rows * s, left : left + columns * s] = grid
        return delta.view_as(z)

    def refilled(
        self, delta: Tensor, removed: Tensor, unused: Tensor, mask: Tensor | None, side: Side,
        order: float, generator: Draw,
    ) -> Tensor:  # fmt: skip
        """The new perturbation of a window in L2 or L1: the old one plus a pyramid of random sign.

        Its length includes the length of the other window, which is set to zero, and the part of
        the radius that the perturbation does not use. In L1 it is, as in the authors' code,
        ``channels`` times the length that would fill the ball.

        Args:
            delta: Perturbation of this window, ``(n, channels * pixels)``.
            removed: Perturbation of the other window outside this one, shaped like ``delta``.
            unused: ``radius**order - length**order`` of the whole perturbation, ``(n,)``.
            mask: 1 where the window may change, 0 elsewhere; ``None`` is 1 everywhere.
            side: The window's height and width.
            order: 2 or 1.
            generator: For the pyramid's direction and signs.
        """
        n, c = len(delta), self.channels
        delta, removed = delta.view(n, c, -1), removed.view(n, c, -1)
        length = _length(delta, order)
        budget = (unused / c)[:, None, None] + length**order + _length(removed, order) ** order
        budget = budget.clamp_min(0)  # rounding may have used a little too much
        budget = budget * c if order == 1 else budget.sqrt()
        turn = torch.randint(2, (n, 1), generator=generator, device=delta.device)
        sign = torch.randint(2, (n, c), generator=generator, device=delta.device)
        bump = bumps(side[0], order, delta)[turn + 2 * sign]
        new = bump + delta / length.clamp_min(_TINY)
        if mask is not None:
            new = new * mask.view(n, c, -1)
        return (new * (budget / _length(new, order).clamp_min(_TINY))).flatten(1)

    def _broadcast(self, pattern: Tensor, z: Tensor) -> Tensor:
        return pattern.expand(len(z), self.channels, self.height, self.width).reshape(z.shape)


@cache
def _window(canvas: Canvas, side: Side, device: torch.device) -> Tensor:
    """Indices of the window in the top left corner, ``(channels, pixels)``."""
    down = torch.arange(side[0], device=device)[:, None] * canvas.width
    inside = (down + torch.arange(side[1], device=device)).flatten()
    return (
        torch.arange(canvas.channels, device=device)[:, None] * (canvas.height * canvas.width)
        + inside
    )


def bumps(side: int, order: float, like: Tensor) -> Tensor:
    """A pyramid, its transpose, and the negatives of both, flattened: ``(4, side ** 2)``.

    They have the dtype and device of ``like`` and are cached.
    """
    return _bumps(side, order, like.dtype, like.device)


@cache
def _bumps(side: int, order: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    upright = pyramid(side, order, dtype, device)
    upright_and_turned = torch.stack([upright.flatten(), upright.T.flatten()])
    return torch.cat([upright_and_turned, -upright_and_turned])


def pyramid(side: int, order: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    r"""A positive and a negative pyramid, one above the other, of length one; ``(side, side)``.

    Each half falls off from its middle in nested frames. The ``k``-th frame has height
    :math:`\sum_{j \ge k} (j + 1)^{-2}` in L2, and with :math:`-4` for :math:`-2` in L1.
    """
    half, like = side // 2, torch.empty((), dtype=dtype, device=device)
    halves = [_frames(half, side, order, like), -_frames(side - half, side, order, like)]
    return _unit(torch.cat(halves).flatten(), order).view(side, side)


def _frames(height: int, width: int, order: float, like: Tensor) -> Tensor:
    count = max(height // 2, width // 2) + 1
    falls = torch.arange(1, count + 1, device=like.device, dtype=like.dtype) ** (-4 / order)
    heights = falls.flip(0).cumsum(0).flip(0)
    down = (torch.arange(height, device=like.device) - height // 2).abs()
    across = (torch.arange(width, device=like.device) - width // 2).abs()
    frames = heights[torch.maximum(down[:, None], across[None])]
    return _unit(frames.flatten(), order).view_as(frames) if height else frames


def _unit(values: Tensor, order: float) -> Tensor:
    """``values`` scaled to length one over the last axis; zero stays zero."""
    return F.normalize(values, p=order, dim=-1, eps=_TINY)


def _length(values: Tensor, order: float) -> Tensor:
    """Norm over the last axis, which is kept."""
    length: Tensor = torch.linalg.vector_norm(values, order, -1, keepdim=True)
    return length


def _signs(shape: tuple[int, ...], like: Tensor, generator: Draw) -> Tensor:
    drawn = torch.randint(2, shape, generator=generator, device=like.device)
    return (drawn * 2 - 1).to(like.dtype)
