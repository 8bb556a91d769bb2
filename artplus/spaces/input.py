"""The space of raw inputs: a box of valid values and a mask of what may be changed."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class InputSpace:
    """Where a perturbation of pixels, waveforms or features lives.

    Attributes:
        low: Least valid value, a number or a tensor that broadcasts over one input; ``None`` is
            unbounded.
        high: Greatest valid value.
        mask: Zero where an input must not change; broadcasts over one input or over the batch.
    """

    low: float | Tensor | None = None
    high: float | Tensor | None = None
    mask: Tensor | None = None

    def restrict(self, direction: Tensor) -> Tensor:
        """``direction`` with the masked features set to zero."""
        if self.mask is None:
            return direction
        return direction * self.mask.to(direction)

    def width(self) -> float | None:
        """``high - low``, the mean over features; ``None`` if unbounded."""
        if self.low is None or self.high is None:
            return None
        gap = self.high - self.low
        return float(gap.mean()) if isinstance(gap, Tensor) else float(gap)
