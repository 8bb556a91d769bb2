"""Examples in a memory map, which are read, copied and converted one batch at a time."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1 << 20
"""Numbers per chunk, 4 MB of float32; larger chunks are not faster and take more memory."""


class Rows:
    """A memory-mapped array whose rows are returned as tensors.

    The tensors are copies, so in-place operations never reach the map. Pages that were read belong
    to the system's page cache, which frees them when memory is short.

    Args:
        array: ``(n, *input)`` numbers.
        dtype: Dtype of the tensors; ``None`` is the array's.
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
        index = rows.cpu().numpy() if isinstance(rows, Tensor) else rows
        return _tensor(self._array[index]).to(self.dtype)

    def to(self, dtype: torch.dtype) -> Rows:
        """The same rows, converted when they are read."""
        return Rows(self._array, dtype)


Inputs = Tensor | Rows
"""Examples in memory or in a memory map, with the same shape, slices and indices."""


def as_inputs(values: Any) -> Inputs:
    """Memory maps as :class:`Rows`, tensors and all other arrays as tensors."""
    if isinstance(values, Rows):
        return values
    return Rows(values) if is_mapped(values) else torch.as_tensor(values)


def as_tensor(values: Any) -> Tensor:
    """Any array as a tensor; a memory map is copied."""
    inputs = as_inputs(values)
    return inputs[:] if isinstance(inputs, Rows) else inputs


def is_mapped(values: Any) -> bool:
    """Whether ``values`` is an array of examples in a memory map, or a view of one."""
    if not isinstance(values, np.ndarray) or values.ndim == 0:
        return False
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    return isinstance(base, mmap.mmap)  # a copy of a np.memmap is a np.memmap in memory


def chunks(x: Inputs) -> Iterator[Tensor]:
    """``x`` in order, in chunks of examples with about :data:`CHUNK` numbers."""
    size = max(1, CHUNK // max(1, x.shape[1:].numel()))
    return (x[start : start + size] for start in range(0, len(x), size))


def _tensor(rows: NDArray[Any]) -> Tensor:
    """A copy in memory, in the machine's byte order."""
    dtype = rows.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        dtype = np.dtype(np.float64)  # torch has no larger float
    return torch.from_numpy(np.array(rows, dtype=dtype, order="C"))
