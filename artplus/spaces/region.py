"""Bounds of valid values, and a mask of what may be changed, beside one float tensor."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import TypeGuard, TypeVar, cast

import torch
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.geometry import beside

V = TypeVar("V")
R = TypeVar("R", bound="Region")


@dataclass(frozen=True)
class Region:
    """A box of valid values and a mask.

    Attributes:
        low: Least valid value, a number or a tensor that broadcasts over one input; ``None`` is
            unbounded.
        high: Greatest valid value.
        mask: Zero where an input must not change; broadcasts over one input or over the batch.

    Raises:
        ConfigurationError: if a bound is not a number, or ``low`` exceeds ``high``.
    """

    low: float | Tensor | None = None
    high: float | Tensor | None = None
    mask: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high", "mask"):
            value = getattr(self, name)
            number = _is_number(value) and name != "mask"
            real = isinstance(value, Tensor) and not value.is_complex()
            if not (value is None or number or real):
                object.__setattr__(self, name, _checks.numbers(name, value))
        low = -torch.inf if self.low is None else self.low
        high = torch.inf if self.high is None else self.high
        if self.mask is not None and not bool(((self.mask == 0) | (self.mask == 1)).all()):
            raise ConfigurationError(
                "mask must hold 0 where inputs must not change and 1 elsewhere, got values in "
                f"[{float(self.mask.min()):g}, {float(self.mask.max()):g}]"
            )
        ordered = low <= high if _is_number(low) and _is_number(high) else _ordered(low, high)
        if not ordered:  # NaN compares false
            raise ConfigurationError(
                f"low must be <= high in every feature, got low={self.low!r}, high={self.high!r}"
            )

    def on(self: R, x: Tensor) -> R:
        """The same region for use beside ``x``: bounds and mask on its device and in its dtype.

        Attacks ask for it once, when they begin, so that no step copies anything to the device.
        A bound of one number becomes a Python number, for which nothing is ever copied.
        """
        low, high, width = self.low, self.high, None
        if _is_several(low) or _is_several(high):  # clamp takes no mixture
            width = self.width()  # now, since later it would wait for the device
            low, high = beside(low, x), beside(high, x)
        else:
            low, high = _number(low), _number(high)
        mask = None if self.mask is None else self.mask.to(x)
        if low is self.low and high is self.high and mask is self.mask:
            return self
        return self._with(low=low, high=high, mask=mask, _width=width)

    def masked(self: R, mask: Tensor | None) -> R:
        """The same box with another mask."""
        return self if mask is self.mask else self._with(mask=mask)

    def rows(self: R, rows: slice | Tensor, like: Tensor) -> R:
        """The region of some examples; only a mask with an entry for each example changes."""
        mask = self.mask
        if mask is None or mask.ndim != like.ndim or len(mask) != len(like):
            return self
        return self._with(mask=mask[rows])

    def at(self: R, places: Tensor, x: Tensor) -> R:
        """The same region for some features of each input.

        Args:
            places: Their numbers in the flattened input, ``(batch, features)``.
            x: Inputs, ``(batch, *input)``.
        """
        if not any(isinstance(value, Tensor) for value in (self.low, self.high, self.mask)):
            return self
        low, high = _features(self.low, places, x), _features(self.high, places, x)
        mask = None if self.mask is None else _features(self.mask, places, x)
        return self._with(low=low, high=high, mask=mask)

    def _with(self: R, **values: float | Tensor | None) -> R:
        """A copy whose bounds are not compared anew: that would wait for the device."""
        other = copy(self)
        for name, value in values.items():
            object.__setattr__(other, name, value)
        return other

    def restrict(self, direction: Tensor) -> Tensor:
        """``direction`` with the masked features set to zero."""
        if self.mask is None:
            return direction
        return direction * self.mask.to(direction)

    def width(self) -> float | None:
        """``high - low``, the mean over features; ``None`` if unbounded."""
        if self.low is None or self.high is None:
            return None
        known: float | None = self.__dict__.get("_width")
        if known is not None:
            return known
        gap = self.high - self.low
        return float(gap.mean()) if isinstance(gap, Tensor) else float(gap)


def _features(value: V, places: Tensor, x: Tensor) -> V:
    """What holds for the features ``places``, of a value that broadcasts over ``x``."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim == x.ndim:
        return cast(V, value.expand_as(x).flatten(1).gather(1, places))
    return cast(V, value.expand(x.shape[1:]).flatten()[places])


def _is_number(bound: object) -> TypeGuard[float]:
    return isinstance(bound, (int, float))


def _ordered(low: float | Tensor, high: float | Tensor) -> bool:
    """Whether ``low <= high`` in every feature; waits for the device that holds one of them."""
    return bool((torch.as_tensor(low) <= torch.as_tensor(high)).all())


def _is_several(bound: float | Tensor | None) -> bool:
    """Whether a bound differs by feature."""
    return not (bound is None or _is_number(bound)) and torch.as_tensor(bound).numel() > 1


def _number(bound: float | Tensor | None) -> float | None:
    """A bound of one number as a Python number."""
    return bound if bound is None or _is_number(bound) else float(bound)
