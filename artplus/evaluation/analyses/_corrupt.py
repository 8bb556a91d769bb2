"""Common corruptions of inputs in [0, 1], at five severities: noise, blur, light, resolution."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Corrupt = Callable[[Tensor, float, torch.Generator], Tensor]
"""``(x, constant, generator) -> x`` in [0, 1], ``(batch, *input)``."""

SMALL = 64
"""Largest side, in pixels, of images that get the constants of CIFAR-10-C; larger images get those
of ImageNet-C."""


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        apply: The function.
        small: Its constant at severities 1 to 5 for small inputs: of ``make_cifar_c.py``.
        large: For large images: of ``make_imagenet_c.py``, both by the authors of the paper.
        images: Whether it needs ``(batch, channels, height, width)``.
    """

    apply: Corrupt
    small: tuple[float, ...]
    large: tuple[float, ...]
    images: bool = True

    def constants(self, shape: tuple[int, ...]) -> tuple[float, ...]:
        """The constants for inputs of ``shape``."""
        large = len(shape) == 3 and min(shape[1:]) > SMALL
        return self.large if large else self.small


def gaussian_noise(x: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Additive normal noise of standard deviation ``scale``."""
    return (x + scale * _normal(x, generator)).clamp(0, 1)


def shot_noise(x: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Poisson noise of counts with mean ``photons * x``."""
    return (torch.poisson(x * photons, generator=generator) / photons).clamp(0, 1)


def impulse_noise(x: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """Salt and pepper: a share ``amount`` of values becomes 0 or 1, each as likely."""
    draw = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return torch.where(draw < amount / 2, 0.0, torch.where(draw > 1 - amount / 2, 1.0, x))


def speckle_noise(x: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Multiplicative normal noise: of standard deviation ``scale * x``."""
    return (x + scale * x * _normal(x, generator)).clamp(0, 1)


def gaussian_blur(x: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Convolution with a normal density of width ``sigma`` pixels, cut at four of them."""
    reach = max(1, int(4 * sigma + 0.5))
    places = torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device)
    kernel = torch.exp(-0.5 * (places / sigma) ** 2)
    kernel = kernel / kernel.sum()
    channels = x.shape[1]
    for pad, shape in (((0, 0, reach, reach), (-1, 1)), ((reach, reach, 0, 0), (1, -1))):
        weight = kernel.view(1, 1, *shape).expand(channels, 1, -1, -1)
        x = F.conv2d(F.pad(x, pad, mode="replicate"), weight, groups=channels)
    return x.clamp(0, 1)


def contrast(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Differences from each channel's mean, times ``factor``."""
    means = x.mean((2, 3), keepdim=True)
    return ((x - means) * factor + means).clamp(0, 1)


def brightness(x: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """The value of hue, saturation and value, which is the largest channel, plus ``shift``."""
    value = x.amax(1, keepdim=True)
    lifted = (value + shift).clamp(0, 1)
    # Hue and saturation stay if the channels keep their ratios; black has none and turns grey.
    return torch.where(value > 0, x * lifted / value.clamp_min(1e-12), lifted).clamp(0, 1)


def pixelate(x: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    """Averaged down to ``factor`` of each side, and back to size without smoothing."""
    height, width = x.shape[2:]
    small = (max(1, int(height * factor)), max(1, int(width * factor)))
    return F.interpolate(F.interpolate(x, size=small, mode="area"), size=(height, width))


def jpeg(x: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """Written as JPEG of a quality and read again, by Pillow; grey or colours."""
    from PIL import Image

    read = []
    for image in (x.clamp(0, 1) * 255).round().byte().cpu().numpy():
        file = BytesIO()
        grey = len(image) == 1
        Image.fromarray(image[0] if grey else image.transpose(1, 2, 0)).save(
            file, "JPEG", quality=int(quality)
        )
        back = np.asarray(Image.open(file), dtype=np.float32) / 255
        read.append(torch.from_numpy(back[None] if grey else back.transpose(2, 0, 1).copy()))
    return torch.stack(read).to(x)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption(
        gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38), images=False
    ),
    "shot_noise": Corruption(shot_noise, (500, 250, 100, 75, 50), (60, 25, 12, 5, 3), images=False),
    "impulse_noise": Corruption(
        impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27), images=False
    ),
    "speckle_noise": Corruption(
        speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2), (0.15, 0.2, 0.35, 0.45, 0.6), images=False
    ),
    "gaussian_blur": Corruption(gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1), (1, 2, 3, 4, 6)),
    "contrast": Corruption(contrast, (0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": Corruption(brightness, (0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),
    "pixelate": Corruption(pixelate, (0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg": Corruption(jpeg, (80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),
}


def applicable(shape: tuple[int, ...]) -> list[str]:
    """Names of the corruptions that apply to an input of ``shape``."""
    image = len(shape) == 3 and min(shape[1:]) >= 3
    names = [name for name, kind in CORRUPTIONS.items() if image or not kind.images]
    if "jpeg" in names and (shape[0] not in (1, 3) or importlib.util.find_spec("PIL") is None):
        names.remove("jpeg")
    return names


def _normal(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
