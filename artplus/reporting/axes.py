"""The range of an axis, its ticks and their labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from numpy.typing import NDArray

from artplus.evaluation import wording
from artplus.evaluation.section import Unit

T = TypeVar("T", float, NDArray[Any])


@dataclass(frozen=True)
class Axis:
    """A range with ticks.

    Attributes:
        low: Where it begins.
        high: Where it ends, more than ``low``.
        ticks: Positions within the range.
        labels: The text at each tick.
    """

    low: float
    high: float
    ticks: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()

    def place(self, value: T, start: float, end: float) -> T:
        """The coordinate of a value or an array, if the axis is drawn from ``start`` to ``end``."""
        return start + (value - self.low) / (self.high - self.low) * (end - start)


def axis(
    values: Iterable[float | None], unit: Unit, *, marks: int = 5, tight: bool = False
) -> Axis:
    """A range around the values that ends on round numbers; shares run from 0 to 1.

    Args:
        values: What is drawn; missing and infinite values are left out.
        unit: How values are written. ``"percent"`` fixes the range, unless values lie outside.
        marks: Approximate number of ticks.
        tight: Begin and end at the values themselves, as is usual for the variable of a curve.

    Example:
        >>> axis([0.2, 3.9], "number").labels
        ('0', '1', '2', '3', '4')
    """
    known = [float(v) for v in values if v is not None and math.isfinite(v)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    if unit == "percent" and low >= 0 and high <= 1 and not tight:
        return Axis(0.0, 1.0, (0, 0.25, 0.5, 0.75, 1), ("0%", "25%", "50%", "75%", "100%"))
    largest = max(abs(low), abs(high))
    if high - low <= max(1e-9 * largest, 1e-300):  # a single value, up to rounding
        room = largest / 2 if largest > 1e-300 else 0.5
        low, high = low - room, high + room
    if not tight and 0 < low < high / 2:
        low = 0.0
    step = _step((high - low) / marks, whole=unit == "count")
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    if not tight and last == first:
        last += 1
    ticks = tuple(step * k for k in range(first, last + 1))
    if not tight:
        low, high = ticks[0], ticks[-1]
    return Axis(low, high, ticks, tuple(_label(tick, step, unit) for tick in ticks))


def _step(rough: float, *, whole: bool) -> float:
    """The next larger round number: 1, 2, 2.5 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))
    return max(1.0, float(math.ceil(step))) if whole else step


def _label(tick: float, step: float, unit: Unit) -> str:
    """As many decimals as the distance between two ticks needs."""
    if unit == "percent":
        tick, step = 100 * tick, 100 * step
    if abs(tick) < step * 1e-6:
        tick = 0.0
    if max(abs(tick), step) >= 1e6 or step < 1e-4:
        text = wording.cell(tick, "number")
    else:
        decimals = next(d for d in range(8) if abs(step * 10**d - round(step * 10**d)) < 1e-6)
        text = f"{tick:,.{decimals}f}"
    return text.replace("-", "−") + ("%" if unit == "percent" else "")
