"""Where a report comes from: the data's digest, the device, the versions."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor

from artplus.mapped import Inputs, chunks


def data_hash(x: Inputs, y: Tensor) -> str:
    """SHA-256 of shapes and values, in sixteen hexadecimal digits; read in chunks."""
    digest = hashlib.sha256()
    for values, dtype in ((x, torch.float32), (y, torch.float64)):
        digest.update(str(tuple(values.shape)).encode())
        for part in chunks(values):
            digest.update(np.ascontiguousarray(part.to(dtype).cpu().numpy()).data)
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    """The device as a person would call it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide the result."""
    found = {"python": platform.python_version()}
    for package in ("artplus", "torch", "adversarial-robustness-toolbox", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
