"""Where a report comes from: the data's digest, the device, the versions."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from artplus.mapped import as_tensor, chunks
from artplus.tree import Tree, leaves


def data_hash(x: Tree, y: Tree) -> str:
    """SHA-256 of shapes and values, in sixteen hexadecimal digits; read in chunks."""
    digest = hashlib.sha256()
    for tree, dtype in ((x, torch.float32), (y, torch.float64)):
        for values in leaves(tree):
            digest.update(str(tuple(values.shape)).encode())
            for part in chunks(values) if values.ndim else [as_tensor(values)]:
                digest.update(np.ascontiguousarray(part.to(dtype).cpu().numpy()).data)
    return digest.hexdigest()[:16]


def device_name(device: torch.device) -> str:
    """The device as a person would call it."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return str(device)


def versions() -> dict[str, str]:
    """Version numbers of Python and of the packages that decide the result."""
    numbers = {"python": platform.python_version()}
    for package in ("artplus", "torch", "adversarial-robustness-toolbox", "numpy"):
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:
            numbers[package] = "not installed"
    return numbers
