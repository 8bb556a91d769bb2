"""The space of raw inputs: a box of valid values and a mask of what may be changed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from artplus.errors import ConfigurationError


@dataclass(frozen=True)
class InputSpace:
    """Where a perturbation of pixels, waveforms or features lives.

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
        low = -torch.inf if self.low is None else self.low
        high = torch.inf if self.high is None else self.high
        if not bool((torch.as_tensor(low) <= torch.as_tensor(high)).all()):  # NaN compares false
            raise ConfigurationError(
                f"low must be <= high in every feature, got low={self.low!r}, high={self.high!r}"
            )

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
