"""Which inputs are images, and in what range they are shown."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def as_image(x: Array) -> Array | None:
    """``(H, W)`` or ``(H, W, 3)`` of an input of that kind, channels first or last; else ``None``.

    Example:
        >>> as_image(np.zeros((3, 8, 6))).shape, as_image(np.zeros((1, 8, 6))).shape
        ((8, 6, 3), (8, 6))
        >>> as_image(np.zeros(12)) is None
        True
    """
    if x.ndim == 3 and x.shape[0] in (1, 3):
        x = np.moveaxis(x, 0, -1)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim == 3 and x.shape[-1] == 3 or x.ndim == 2:
        return x if min(x.shape[:2]) >= 5 else None
    return None


def value_range(x: Array) -> tuple[float, float]:
    """The range to show images in: 0 to 1 or 0 to 255 if they fit, else their own.

    Example:
        >>> value_range(np.array([0.1, 0.9]))
        (0.0, 1.0)
    """
    least, most = float(x.min()), float(x.max())
    for high in (1.0, 255.0):
        if least >= 0 and most <= high * (1 + 1e-6):
            return 0.0, high
    return least, most


def shown(image: Array, low: float, high: float) -> NDArray[np.float32]:
    """An image with ``low`` as 0 and ``high`` as 1, cut to that range."""
    span = (high - low) or 1.0
    return np.clip((np.asarray(image, dtype=np.float64) - low) / span, 0, 1).astype(np.float32)
