"""The two random augmentations that nearly every recipe uses, for batches of images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from artplus import _checks
from artplus.errors import DataError


def random_flip(x: Tensor, probability: float = 0.5) -> Tensor:
    """Mirror a random subset of the images left to right.

    Args:
        x: ``(batch, ..., width)``.
        probability: Chance that an image is mirrored, in [0, 1); 0.5 as in He et al. (2016)
            and since.

    Returns:
        A new tensor shaped like ``x``.

    Example:
        >>> import torch
        >>> x = torch.arange(4.0).reshape(1, 1, 2, 2)
        >>> torch.equal(random_flip(x, 0.0), x)
        True
    """
    _checks.fraction("probability", probability)
    is_flipped = torch.rand(len(x), device=x.device) < probability
    return torch.where(is_flipped.view(-1, *(1,) * (x.ndim - 1)), x.flip(-1), x)


def random_crop(x: Tensor, padding: int = 4) -> Tensor:
    """Pad each image on all sides and cut out a window of its size at a random place.

    Args:
        x: ``(batch, channels, height, width)``.
        padding: Pixels of zeros on each side, >= 0; 4 as in He et al. (2016) and since.

    Returns:
        A new tensor shaped like ``x``.

    Raises:
        DataError: if ``x`` is no batch of images.

    Example:
        >>> import torch
        >>> random_crop(torch.rand(5, 3, 8, 8), padding=2).shape
        torch.Size([5, 3, 8, 8])
    """
    _checks.count("padding", padding, least=0)
    if x.ndim != 4:
        raise DataError(
            f"random_crop takes images (batch, channels, height, width), got {tuple(x.shape)}"
        )
    n, _, height, width = x.shape
    padded = functional.pad(x, (padding,) * 4)
    top, left = torch.randint(2 * padding + 1, (2, n), device=x.device)
    rows = (top[:, None] + torch.arange(height, device=x.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=x.device))[:, None, :]
    example = torch.arange(n, device=x.device)[:, None, None]
    # Indices with a slice between them put the channels last.
    return padded[example, :, rows, columns].permute(0, 3, 1, 2).contiguous()
