"""Norm balls: length, steepest step, random point, and the way back in."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import NoneType
from typing import Protocol

import torch
from torch import Tensor

from artplus.errors import ConfigurationError

Eps = float | Tensor
Retraction = Callable[[Tensor], Tensor]


class Box(Protocol):
    """Lower and upper bounds of valid inputs; ``None`` is unbounded."""

    @property
    def low(self) -> float | Tensor | None: ...
    @property
    def high(self) -> float | Tensor | None: ...


class Geometry(Protocol):
    """What an attack asks of a norm. Tensors are ``(batch, *input)``, lengths ``(batch,)``."""

    order: float

    def length(self, delta: Tensor) -> Tensor:
        """Norm of each example's perturbation, ``(batch,)``."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """Unit-length step that gains most along ``gradient``; zero where that is zero."""
        ...

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        """A random perturbation in the ball of radius ``eps``, shaped like ``x``."""
        ...

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        """A function that brings points back into the box and the ball around ``x``."""
        ...


def padded_like(z: Tensor, like: Tensor) -> Tensor:
    """``z`` in the shape of ``like``, with its values where ``z`` ends.

    A part of a list of images is padded to its own largest image, and not to the whole's.
    """
    if z.shape == like.shape:
        return z
    whole = like.clone()
    whole[tuple(map(slice, z.shape))] = z
    return whole


def clip(z: Tensor, box: Box) -> Tensor:
    """``z`` clipped to the box.

    Bounds that are numbers, or tensors beside ``z``, are used as they are; others are brought to
    its device, so in a loop use a box that is there already (:meth:`artplus.spaces.InputSpace.on`).
    """
    low, high = box.low, box.high
    if low is None and high is None:
        return z
    if isinstance(low, (int, float, NoneType)) and isinstance(high, (int, float, NoneType)):
        return torch.clamp(z, low, high)  # faster than by tensors of one number
    return torch.clamp(z, beside(low, z), beside(high, z))


def beside(bound: float | Tensor | None, z: Tensor) -> Tensor | None:
    """A bound as a tensor on the device of ``z`` and in its dtype; ``None`` stays unbounded."""
    return None if bound is None else torch.as_tensor(bound, dtype=z.dtype, device=z.device)


def usable(bound: float | Tensor, z: Tensor) -> float | Tensor:
    """A bound to calculate with beside ``z``; a number stays one and needs no copy to a device."""
    if isinstance(bound, (int, float)):
        return bound
    return torch.as_tensor(bound, dtype=z.dtype, device=z.device)


def moved(z: Tensor, direction: Tensor, length: Eps) -> Tensor:
    """``z + length * direction``; one pass over memory where the length is a number."""
    if isinstance(length, Tensor):
        return z + length * direction
    return torch.add(z, direction, alpha=length)


class Linf:
    """Every feature moves by at most eps, a number or one per feature."""

    order = math.inf

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().amax(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        return _uniform(x, generator).mul_(2).sub_(1).mul_(eps)

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        # Ball and box are both boxes: their intersection is one clamp, computed once per batch.
        low, high = clip(x - eps, box), clip(x + eps, box)
        return lambda z: torch.clamp(z, low, high)


class L2:
    """Euclidean ball, one radius per example."""

    order = 2.0

    def length(self, delta: Tensor) -> Tensor:
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def steepest(self, gradient: Tensor) -> Tensor:
        # Divided by the largest entry first: the square of a small float underflows to zero, and
        # a confident model's gradient is that small.
        peak = gradient.flatten(1).abs().amax(1)
        unit = gradient / _guard(_column(peak, gradient))
        return unit / _guard(_column(self.length(unit), unit))

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        radius = _uniform(x[:, :1].flatten(1)[:, 0], generator) ** (1 / x[0].numel())
        return self.steepest(direction) * _column(radius, x) * eps

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        return _rescaling(self, x, eps, box)


class L1:
    """Sum of absolute changes: sparse perturbations.

    As in ART, a step moves the one feature with the largest gradient and the way back into the
    ball is a rescaling, not the Euclidean projection.
    """

    order = 1.0

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        top = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).view_as(gradient)

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        # Uniform in the ball: d of the d + 1 gaps of sorted uniforms, with random signs.
        n, d = len(x), x[0].numel()
        cuts = _uniform(x.new_empty(n, d), generator).sort(1).values
        gaps = torch.diff(cuts, prepend=cuts.new_zeros(n, 1), dim=1)
        signs = _uniform(gaps, generator).lt(0.5) * 2 - 1
        return (gaps * signs).view_as(x) * eps

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        return _rescaling(self, x, eps, box)


def _rescaling(ball: Geometry, x: Tensor, eps: Eps, box: Box) -> Retraction:
    """The box first, then a rescaling into the ball, which stays in the box since it is convex."""
    # Clipped once more, because x + (z - x) may leave the box by a rounding error.
    return lambda z: clip(x + rescale(ball, clip(z, box) - x, eps), box)


def rescale(geometry: Geometry, delta: Tensor, eps: Eps) -> Tensor:
    """``delta`` shortened to length eps where it is longer: the projection for L2."""
    length = _column(geometry.length(delta), delta)
    return delta * torch.clamp(eps / _guard(length), max=1.0)


class TokenL2(L2):
    """A Euclidean ball around each token: rows of the last axis have a radius each.

    The length of an example's perturbation is that of its longest row.
    """

    def length(self, delta: Tensor) -> Tensor:
        return self.row_lengths(delta).flatten(1).amax(1)

    def row_lengths(self, delta: Tensor) -> Tensor:
        """Norm of each row, ``(batch, ..., 1)``."""
        lengths: Tensor = torch.linalg.vector_norm(delta, dim=-1, keepdim=True)
        return lengths

    def steepest(self, gradient: Tensor) -> Tensor:
        peak = gradient.abs().amax(-1, keepdim=True)
        unit = gradient / _guard(peak)
        return unit / _guard(self.row_lengths(unit))

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        radius = _uniform(x[..., :1], generator) ** (1 / x.shape[-1])
        return self.steepest(direction) * radius * eps

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        def retract(z: Tensor) -> Tensor:
            delta = clip(z, box) - x
            shorter = torch.clamp(eps / _guard(self.row_lengths(delta)), max=1.0)
            return clip(x + delta * shorter, box)

        return retract


_GEOMETRIES: dict[float, Geometry] = {math.inf: Linf(), 2.0: L2(), 1.0: L1()}
_PER_TOKEN: dict[float, Geometry] = {math.inf: Linf(), 2.0: TokenL2()}


def geometry(norm: float | str, per: str = "example") -> Geometry:
    """The geometry of a norm: ``numpy.inf`` or ``"inf"``, ``2`` or ``1``.

    Args:
        norm: The order.
        per: ``"example"``, or ``"token"``: each row of the last axis has a ball of its own (in L∞
            that is the same).

    Raises:
        ConfigurationError: for any other norm, and for L1 per token.
    """
    try:
        order = float(norm)
    except (TypeError, ValueError):
        order = math.nan
    if order not in _GEOMETRIES:
        raise ConfigurationError(f"norm must be numpy.inf (or 'inf'), 2 or 1, got {norm!r}")
    if per == "example":
        return _GEOMETRIES[order]
    if order not in _PER_TOKEN:
        raise ConfigurationError("L1 is not defined per token; use norm=2 or numpy.inf")
    return _PER_TOKEN[order]


def _column(values: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` values as ``(batch, 1, ...)``, to be broadcast over ``like``."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def _guard(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
