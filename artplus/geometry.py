"""Norm balls: length, steepest step, random point, and projection."""

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
    """What an attack needs of a norm. Tensors are ``(batch, *input)``, lengths ``(batch,)``."""

    order: float

    def length(self, delta: Tensor) -> Tensor:
        """Norm of each example's perturbation, ``(batch,)``."""
        ...

    def steepest(self, gradient: Tensor) -> Tensor:
        """Unit-length step of largest product with ``gradient``; zero where that is zero."""
        ...

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        """A random perturbation in the ball of radius ``eps``, shaped like ``x``."""
        ...

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        """A function that brings points back into the box and the ball around ``x``."""
        ...


def padded_like(z: Tensor, like: Tensor) -> Tensor:
    """``z`` padded to the shape of ``like`` with the values of ``like``.

    A slice of a batch of images of different sizes may be padded less than the whole batch.
    """
    if z.shape == like.shape:
        return z
    padded = like.clone()
    padded[tuple(map(slice, z.shape))] = z
    return padded


def clip(z: Tensor, box: Box) -> Tensor:
    """``z`` clipped to the box.

    Numbers and tensors on the device of ``z`` are used directly. Other bounds are copied to that
    device at every call, so move the box once before a loop (:meth:`artplus.spaces.InputSpace.on`).
    """
    low, high = box.low, box.high
    if low is None and high is None:
        return z
    if isinstance(low, (int, float, NoneType)) and isinstance(high, (int, float, NoneType)):
        return torch.clamp(z, low, high)  # faster than with tensors of one number
    return torch.clamp(z, beside(low, z), beside(high, z))


def beside(bound: float | Tensor | None, z: Tensor) -> Tensor | None:
    """A bound as a tensor of the device and dtype of ``z``; ``None`` stays ``None``."""
    return None if bound is None else torch.as_tensor(bound, dtype=z.dtype, device=z.device)


def usable(bound: float | Tensor, z: Tensor) -> float | Tensor:
    """A bound to compute with ``z``; a number stays a number and needs no copy to the device."""
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
        # Divided by the largest entry first, since squares of small floats underflow to zero and
        # the gradients of a confident model are that small.
        peak = gradient.flatten(1).abs().amax(1)
        unit = gradient / _guard(column(peak, gradient))
        return unit / _guard(column(self.length(unit), unit))

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        direction = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        radius = _uniform(x[:, :1].flatten(1)[:, 0], generator) ** (1 / x[0].numel())
        return self.steepest(direction) * column(radius, x) * eps

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        return _rescaling(self, x, eps, box)


class L1:
    """Sum of absolute changes: sparse perturbations.

    As in ART, a step moves the one feature of largest gradient, and points return to the ball by
    rescaling, not by the Euclidean projection.
    """

    order = 1.0

    def length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def steepest(self, gradient: Tensor) -> Tensor:
        flat = gradient.flatten(1)
        top = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, top, flat.gather(1, top).sign()).view_as(gradient)

    def random(self, x: Tensor, eps: Eps, generator: torch.Generator | None) -> Tensor:
        # Uniform in the ball: d of the d + 1 gaps between sorted uniforms, with random signs.
        n, d = len(x), x[0].numel()
        cuts = _uniform(x.new_empty(n, d), generator).sort(1).values
        gaps = torch.diff(cuts, prepend=cuts.new_zeros(n, 1), dim=1)
        signs = _uniform(gaps, generator).lt(0.5) * 2 - 1
        return (gaps * signs).view_as(x) * eps

    def retraction(self, x: Tensor, eps: Eps, box: Box) -> Retraction:
        return _rescaling(self, x, eps, box)


def _rescaling(ball: Geometry, x: Tensor, eps: Eps, box: Box) -> Retraction:
    """Clip to the box, then rescale into the ball, which stays in the box since it is convex."""
    # Clipped again, because x + (z - x) may leave the box by a rounding error.
    return lambda z: clip(x + rescale(ball, clip(z, box) - x, eps), box)


def rescale(geometry: Geometry, delta: Tensor, eps: Eps) -> Tensor:
    """``delta`` shortened to length eps where it is longer; in L2 this is the projection."""
    length = column(geometry.length(delta), delta)
    return delta * torch.clamp(eps / _guard(length), max=1.0)


class TokenL2(L2):
    """A Euclidean ball around each token, a row of the last axis.

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
        per: ``"example"``, or ``"token"`` for a separate ball around each row of the last axis (no
            difference in L∞).

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


def column(values: Tensor, like: Tensor) -> Tensor:
    """``(batch,)`` values as ``(batch, 1, ...)``, to be broadcast over ``like``."""
    return values.view(-1, *(1,) * (like.ndim - 1))


def _guard(length: Tensor) -> Tensor:
    return length.clamp_min(torch.finfo(length.dtype).tiny)


def _uniform(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device, dtype=like.dtype)
