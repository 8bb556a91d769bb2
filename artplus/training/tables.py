"""Data sets of named columns, such as Hugging Face's, as pairs of inputs and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from artplus.errors import ConfigurationError, DataError
from artplus.spaces.hidden import RESERVED

INPUTS = (
    *("x", "image", "images", "img", "pixel_values", "input", "inputs", "input_values"),
    *("audio", "features"),
)
"""Usual names of a column of inputs."""

LABELS = ("labels", "label", "y", "target", "targets")
"""Usual names of a column of labels."""

Pair = tuple[Any, Any]


def pair(row: Mapping[str, Any], x: str | None = None, y: str | None = None) -> Pair:
    """Inputs and labels of one row, or of a batch, by the names of its columns.

    Args:
        row: Values by name.
        x: The inputs' name; ``None`` takes the one in :data:`INPUTS`.
        y: The labels' name; ``None`` takes the one in :data:`LABELS`.

    Raises:
        DataError: if a column is missing or several fit; names the columns.

    Example:
        >>> pair({"idx": 7, "img": [0.5], "label": 3})
        ([0.5], 3)
    """
    return row[_name(row, x, INPUTS, "inputs", "x")], row[_name(row, y, LABELS, "labels", "y")]


def columns(
    data: Any,
    x: str | None = None,
    y: str | None = None,
    *,
    transform: Callable[[Any], Any] | None = None,
) -> Dataset[Pair]:
    """A data set of pairs, made from one of named columns.

    Images become numbers only through ``transform``: ``pixels``, or torchvision's ``ToTensor()``.
    It is called each time an example is read, so random transforms differ from epoch to epoch; in a
    ``DataLoader`` it runs in the loader's workers.

    Args:
        data: Rows ``{name: value}``: a map-style data set, as ``datasets.Dataset``, or a stream, as
            ``datasets.IterableDataset``.
        x: The column of inputs; ``None`` takes the one with a usual name.
        y: The column of labels; ``None`` takes the one with a usual name.
        transform: Converts one example's input to a tensor or array of floats; ``None`` leaves it.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` for a stream; train on it directly or through a
        ``DataLoader``.

    Raises:
        ConfigurationError: if ``data`` can neither be indexed nor iterated over.
        DataError: when a row is read, if a column is missing or several fit (names the columns),
            or if inputs are images and there is no ``transform``.

    Example:
        >>> rows = [{"image": [0.0, 1.0], "label": 1}, {"image": [0.5, 0.5], "label": 0}]
        >>> data = columns(rows, "image", "label", transform=torch.tensor)
        >>> data[0]
        (tensor([0., 1.]), 1)
    """
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _Table(data, _ToPair(x, y, transform))
    if hasattr(data, "__iter__"):
        return _Stream(data, _ToPair(x, y, transform))
    raise ConfigurationError(
        f"data must have rows by position, or be iterable, got {type(data).__name__}"
    )


def rows_of(data: Any, arguments: Sequence[str]) -> Dataset[Any]:
    """A data set of named columns as a torch data set.

    Rows stay mappings if columns are arguments of the module; else they become pairs.

    Args:
        data: A map-style data set or a stream, such as Hugging Face's.
        arguments: Names of the arguments of the module's forward pass.
    """
    if not any(name in arguments for name in data.column_names or ()):
        return columns(data)
    select = _SelectColumns({*arguments, *LABELS, *RESERVED})
    return _Table(data, select) if hasattr(data, "__len__") else _Stream(data, select)


def pixels(picture: Any) -> Tensor:
    """An image of bytes as floats in [0, 1], ``(channels, height, width)``.

    Args:
        picture: A PIL image, or an array or tensor ``(height, width)`` or
            ``(height, width, channels)`` of bytes. An image with a palette gives its indices:
            convert it first, ``picture.convert("RGB")``.

    Raises:
        DataError: if it is none of these.

    Example:
        >>> pixels(np.full((2, 2, 3), 255, dtype=np.uint8)).shape
        torch.Size([3, 2, 2])
    """
    values = np.asarray(picture)
    if values.dtype != np.uint8 or values.ndim not in (2, 3):
        raise DataError(
            "pixels takes pictures (height, width) or (height, width, channels) of bytes, got "
            f"{type(picture).__name__} of {values.dtype} {values.shape}"
        )
    if values.ndim == 2:
        values = values[:, :, None]
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32)) / 255


def is_table(data: Any) -> bool:
    """Whether ``data`` has named columns and is no torch data set, as Hugging Face's."""
    return hasattr(data, "column_names") and hasattr(data, "__iter__")


class _Table(Dataset[Any]):
    """Rows by position, each converted."""

    def __init__(self, data: Any, convert: Callable[[Any], Any]) -> None:
        self._data, self._convert = data, convert

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Any:
        return self._convert(self._data[index])


class _Stream(IterableDataset[Any]):
    """Rows of a stream, each converted."""

    def __init__(self, data: Any, convert: Callable[[Any], Any]) -> None:
        self._data, self._convert = data, convert

    def __iter__(self) -> Iterator[Any]:
        return map(self._convert, self._data)

    @property
    def epoch(self) -> Any:
        """The stream's epoch, if its shuffling depends on it."""
        return getattr(self._data, "epoch", None)

    def set_epoch(self, epoch: int) -> None:
        """Pass the number of the next epoch to the stream."""
        self._data.set_epoch(epoch)


class _SelectColumns:
    """Drops all other columns of a row; an object for the same reason as :class:`_ToPair`."""

    def __init__(self, names: set[str]) -> None:
        self._names = names

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in row.items() if name in self._names}


class _ToPair:
    """Converts a row to a pair; an object, because a closure cannot be pickled for workers."""

    def __init__(self, x: str | None, y: str | None, transform: Any) -> None:
        self._x, self._y, self._transform = x, y, transform

    def __call__(self, row: Any) -> Pair:
        if not isinstance(row, Mapping):
            raise DataError(f"a row must be {{name: value}}, got {type(row).__name__}")
        x, y = pair(row, self._x, self._y)
        if self._transform is not None:
            x = self._transform(x)
        if hasattr(x, "getbands"):  # a PIL image; avoids importing PIL
            raise DataError(
                f"the inputs are pictures, {type(x).__name__}; say how they become numbers: "
                "columns(..., transform=pixels) gives floats in [0, 1], from artplus.training"
            )
        return x, y


def _name(
    row: Mapping[str, Any], wanted: str | None, usual: tuple[str, ...], what: str, argument: str
) -> str:
    candidates = [name for name in usual if name in row] if wanted is None else [wanted]
    if len(candidates) == 1 and candidates[0] in row:
        return candidates[0]
    if wanted is not None:
        reason = f"there is no column {wanted!r}"
    elif candidates:
        reason = f"several columns could be the {what}: {', '.join(candidates)}"
    else:
        reason = f"no column has a usual name of {what}"
    raise DataError(
        f"{reason}; there are {', '.join(map(str, row))}. Say which: "
        f"artplus.training.columns(data, {argument}=...)"
    )
