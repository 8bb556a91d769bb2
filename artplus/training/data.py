"""Batches from whatever holds the data: tensors, a Dataset, a DataLoader, any iterable of pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from artplus import _checks
from artplus.errors import DataError
from artplus.spaces import InputSpace


class Batch(NamedTuple):
    """One training batch on the model's device.

    Attributes:
        x: ``(batch, *input)`` floats.
        y: ``(batch,)`` or ``(batch, classes)`` labels, or targets.
        index: ``(batch,)`` positions in the data set, where known.
    """

    x: Tensor
    y: Tensor
    index: Tensor | None = None


Prepare = Callable[[Any, Any], tuple[Tensor, Tensor]]
"""Raw inputs and labels to checked tensors, wherever they are."""


class Arrays:
    """Batches of tensors held in memory, shuffled by the generator or in order without one.

    A last batch of one example is joined to the batch before: BatchNorm cannot train on one.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        batch_size: int,
        generator: torch.Generator | None,
        *,
        device: torch.device,
    ) -> None:
        self._x, self._y = x, y
        self._batch_size = _checks.count("batch_size", batch_size)
        self._generator, self._device = generator, device

    def __len__(self) -> int:
        full, rest = divmod(len(self._x), self._batch_size)
        return max(1, full + (rest > 1))

    def head(self, n: int) -> Batch:
        """The first ``n`` examples, without touching the order."""
        return Batch(self._x[:n].to(self._device), self._y[:n].to(self._device))

    def __iter__(self) -> Iterator[Batch]:
        n = len(self._x)
        shuffled = self._generator is not None
        order = torch.randperm(n, generator=self._generator) if shuffled else torch.arange(n)
        chunks = list(order.split(self._batch_size))
        if len(chunks) > 1 and len(chunks[-1]) == 1:
            chunks[-2:] = [torch.cat(chunks[-2:])]
        for index in chunks:
            yield Batch(
                self._x[index].to(self._device, non_blocking=True),
                self._y[index].to(self._device, non_blocking=True),
                index,
            )


class Loaded:
    """Batches of a user's loader, each prepared as it comes."""

    def __init__(self, loader: Iterable[Any], prepare: Prepare, *, device: torch.device) -> None:
        self._loader, self._prepare, self._device = loader, prepare, device

    def __len__(self) -> int:
        if isinstance(self._loader, Sized):
            return len(self._loader)
        raise TypeError("this loader has no length")

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Iterate inside without moving the random streams that decide later orders."""
        own = getattr(self._loader, "generator", None)
        state = own.get_state() if isinstance(own, torch.Generator) else None
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            yield
        if own is not None and state is not None:
            own.set_state(state)

    def __iter__(self) -> Iterator[Batch]:
        for raw in self._loader:
            if not isinstance(raw, (tuple, list)) or len(raw) < 2:
                raise DataError(
                    "a batch must be a pair (x, y), got "
                    f"{type(raw).__name__}. Wrap the data set so that it yields pairs."
                )
            x, y = self._prepare(raw[0], raw[1])
            yield Batch(x.to(self._device), y.to(self._device))


def batches(
    data: Any,
    prepare: Prepare,
    *,
    batch_size: int,
    generator: torch.Generator | None,
    device: torch.device,
) -> Arrays | Loaded:
    """Return re-iterable batches of ``data``.

    Args:
        data: ``(x, y)`` arrays or tensors, a ``Dataset`` of pairs, a ``DataLoader``, or any
            re-iterable of ``(x, y)`` batches.
        prepare: See :data:`Prepare`. Arrays are prepared whole and once, so bad input is refused
            before training; of a loader the first batch is, when it comes.
        batch_size: For arrays and data sets; a loader has its own.
        generator: Decides the order of arrays and data sets; ``None`` leaves them in order.
        device: Where batches of arrays go.

    Raises:
        DataError: if ``data`` is none of these, or is a one-shot iterator.
    """
    if isinstance(data, tuple) and len(data) == 2:
        x, y = prepare(*data)
        return Arrays(x, y, batch_size, generator, device=device)
    if isinstance(data, DataLoader):
        return Loaded(data, prepare, device=device)
    if isinstance(data, Dataset):
        shuffle = generator is not None and not isinstance(data, IterableDataset)
        loader: DataLoader[Any] = DataLoader(
            data,
            _checks.count("batch_size", batch_size),
            shuffle=shuffle,
            generator=generator if shuffle else None,
        )
        return Loaded(loader, prepare, device=device)
    if isinstance(data, Iterator):
        raise DataError(
            "data is a one-shot iterator, which is empty after the first epoch; pass a list, a "
            "Dataset or a DataLoader"
        )
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, str, dict)):
        return Loaded(data, prepare, device=device)
    raise DataError(
        "data must be (x, y), a Dataset, a DataLoader or an iterable of (x, y) batches, got "
        f"{type(data).__name__}"
    )


def tensor_pair(space: InputSpace) -> Prepare:
    """The plain :data:`Prepare`: floats and labels as tensors, checked for NaN and range."""

    def prepare(x: Any, y: Any) -> tuple[Tensor, Tensor]:
        inputs, labels = torch.as_tensor(x), torch.as_tensor(y)
        if not inputs.is_floating_point():
            raise DataError(
                f"x must be floats in the range of the model's inputs, got {inputs.dtype}; "
                "x.float() / 255 makes images of bytes"
            )
        _checks.inputs(inputs, low=space.low, high=space.high)
        if len(labels) != len(inputs):
            raise DataError(f"x has {len(inputs)} examples, y has {len(labels)}")
        return inputs, labels

    return prepare
