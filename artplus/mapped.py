"""Examples in a memory map: read, copied and converted a batch at a time, never whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1 << 20
"""Numbers looked at in one go, 4 MB of float32: more is no faster, and its copies are felt."""


class Rows:
    """A memory-mapped array that gives tensors of its rows.

    What is taken is a copy, so a read-only map is safe from whatever works in place. Pages that
    were read belong to the system's page cache, which gives them up when memory is short.

    Args:
        array: ``(n, *input)`` numbers.
        dtype: Of the tensors; ``None`` is the array's own.
    """

    device = torch.device("cpu")

    def __init__(self, array: NDArray[Any], dtype: torch.dtype | None = None) -> None:
        self._array = array
        self.shape = torch.Size(array.shape)
        self.ndim = array.ndim
        self.dtype = _tensor(array[:0]).dtype if dtype is None else dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, rows: slice | Tensor) -> Tensor:
        chosen = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return _tensor(self._array[chosen]).to(self.dtype)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same rows, converted as they are taken."""
        return Rows(self._array, dtype)


Inputs = Tensor | Rows
"""Examples that are shaped, sliced and indexed alike, in memory or in a map."""


def as_inputs(values: Any) -> Inputs:
    """Memory maps as :class:`Rows`, tensors and all other arrays as tensors."""
    if isinstance(values, Rows):
        return values
    return Rows(values) if is_mapped(values) else torch.as_tensor(values)


def as_tensor(values: Any) -> Tensor:
    """Everything as a tensor; of a memory map a copy."""
    found = as_inputs(values)
    return found[:] if isinstance(found, Rows) else found


def is_mapped(values: Any) -> bool:
    """Whether ``values`` is an array of examples in a memory map, or a view of one."""
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        return False
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)  # a copy of a np.memmap is a np.memmap, without a map


def chunks(x: Inputs) -> Iterator[Tensor]:
    """``x`` in order, as many examples at a time as hold about :data:`CHUNK` numbers."""
    size = max(1, CHUNK // max(1, x.shape[1:].numel()))
    return (x[start : start + size] for start in range(0, len(x), size))


def _tensor(rows: NDArray[Any]) -> Tensor:
    """A copy in memory, in the machine's byte order."""
    kind = rows.dtype.newbyteorder("=")
    if kind.kind == "f" and kind.itemsize > 8:
        kind = np.dtype(np.float64)  # torch has no longer floats
    return torch.from_numpy(np.array(rows, dtype=kind, order="C"))
