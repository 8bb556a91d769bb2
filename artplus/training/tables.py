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
"""Names by which a column of inputs is known."""

LABELS = ("labels", "label", "y", "target", "targets")
"""Names by which a column of labels is known."""

Pair = tuple[Any, Any]


def pair(row: Mapping[str, Any], x: str | None = None, y: str | None = None) -> Pair:
    """Inputs and labels of one row, or of a batch, by the names of its columns.

    Args:
        row: Values by name.
        x: The inputs' name; ``None`` takes the one that is in :data:`INPUTS`.
        y: The labels' name; ``None`` takes the one that is in :data:`LABELS`.

    Raises:
        DataError: naming the columns there are, if one is missing or several would do.

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
    """A data set of pairs from one of named columns.

    Pictures are not turned into numbers unless you say how: ``transform=pixels``, or torchvision's
    ``ToTensor()``. It is called on every example whenever that is asked for, so random ones differ
    from epoch to epoch, and in a ``DataLoader`` it runs in the loader's workers.

    Args:
        data: With positions, as a ``datasets.Dataset``, or a stream, as a
            ``datasets.IterableDataset``, of rows ``{name: value}``.
        x: The column of inputs; ``None`` finds it if its name is a usual one.
        y: The column of labels, likewise.
        transform: One example's input to a tensor or array of floats; ``None`` leaves it.

    Returns:
        A ``Dataset``, or an ``IterableDataset`` for a stream, to be trained on as it is or through
        a ``DataLoader``.

    Raises:
        ConfigurationError: if ``data`` can neither be indexed nor iterated over.
        DataError: when a row is read, naming the columns there are, if one is missing or several
            would do, or if inputs are pictures that nothing turns into numbers.

    Example:
        >>> rows = [{"image": [0.0, 1.0], "label": 1}, {"image": [0.5, 0.5], "label": 0}]
        >>> data = columns(rows, "image", "label", transform=torch.tensor)
        >>> data[0]
        (tensor([0., 1.]), 1)
    """
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _Table(data, x, y, transform)
    if hasattr(data, "__iter__"):
        return _Stream(data, x, y, transform)
    raise ConfigurationError(
        f"data must have rows by position, or be iterable, got {type(data).__name__}"
    )


def rows_of(data: Any, arguments: Sequence[str]) -> Dataset[Any]:
    """A data set of named columns as torch takes it.

    Rows stay mappings where columns are arguments of the module; else they become pairs.

    Args:
        data: With positions or a stream, such as Hugging Face's.
        arguments: Names of the arguments of the module's forward pass.
    """
    if not any(name in arguments for name in data.column_names or ()):
        return columns(data)
    wanted = {*arguments, *LABELS, *RESERVED}
    return _Rows(data, wanted) if hasattr(data, "__len__") else _RowStream(data, wanted)


class _Rows(Dataset[Any]):
    """Rows by position, with the wanted columns."""

    def __init__(self, data: Any, wanted: set[str]) -> None:
        self._data, self._wanted = data, wanted

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: v for name, v in self._data[index].items() if name in self._wanted}


def pixels(picture: Any) -> Tensor:
    """A picture of bytes as floats in [0, 1], ``(channels, height, width)``.

    Args:
        picture: A PIL image, or an array or tensor ``(height, width)`` or
            ``(height, width, channels)`` of bytes. A picture with a palette gives its indices:
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
    """Whether ``data`` is of named columns and no torch data set: Hugging Face's, by their form."""
    return hasattr(data, "column_names") and hasattr(data, "__iter__")


class _Table(Dataset[Pair]):
    """Rows by position."""

    def __init__(self, data: Any, x: str | None, y: str | None, transform: Any) -> None:
        self._data, self._row = data, _Row(x, y, transform)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Pair:
        return self._row(self._data[index])


class _Stream(IterableDataset[Pair]):
    """Rows as they come."""

    def __init__(self, data: Any, x: str | None, y: str | None, transform: Any) -> None:
        self._data, self._row = data, _Row(x, y, transform)

    def __iter__(self) -> Iterator[Pair]:
        return map(self._row, self._data)

    @property
    def epoch(self) -> Any:
        """The stream's own, where it is shuffled anew by its number."""
        return getattr(self._data, "epoch", None)

    def set_epoch(self, epoch: int) -> None:
        """Tell the stream which epoch comes."""
        self._data.set_epoch(epoch)


class _RowStream(_Stream):
    """Rows as they come, with the wanted columns."""

    def __init__(self, data: Any, wanted: set[str]) -> None:
        self._data, self._wanted = data, wanted

    def __iter__(self) -> Iterator[Any]:
        for row in self._data:
            yield {name: value for name, value in row.items() if name in self._wanted}


class _Row:
    """One row to a pair; an object, since workers that are spawned cannot take a closure."""

    def __init__(self, x: str | None, y: str | None, transform: Any) -> None:
        self._x, self._y, self._transform = x, y, transform

    def __call__(self, row: Any) -> Pair:
        if not isinstance(row, Mapping):
            raise DataError(f"a row must be {{name: value}}, got {type(row).__name__}")
        x, y = pair(row, self._x, self._y)
        if self._transform is not None:
            x = self._transform(x)
        if hasattr(x, "getbands"):  # PIL's, which is not imported to ask
            raise DataError(
                f"the inputs are pictures, {type(x).__name__}; say how they become numbers: "
                "columns(..., transform=pixels) gives floats in [0, 1], from artplus.training"
            )
        return x, y


def _name(
    row: Mapping[str, Any], wanted: str | None, usual: tuple[str, ...], what: str, argument: str
) -> str:
    found = [name for name in usual if name in row] if wanted is None else [wanted]
    if len(found) == 1 and found[0] in row:
        return found[0]
    if wanted is not None:
        reason = f"there is no column {wanted!r}"
    elif found:
        reason = f"several columns could be the {what}: {', '.join(found)}"
    else:
        reason = f"no column has a usual name of {what}"
    raise DataError(
        f"{reason}; there are {', '.join(map(str, row))}. Say which: "
        f"artplus.training.columns(data, {argument}=...)"
    )
