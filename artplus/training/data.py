"""Batches from whatever holds the data: tensors, a Dataset, a DataLoader, any iterable of pairs."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from artplus import _checks, distributed
from artplus.bounds import check_range
from artplus.errors import CheckpointError, ConversionWarning, DataError
from artplus.mapped import Inputs, Rows, as_inputs, as_tensor
from artplus.spaces import InputSpace, Space
from artplus.training.columns import collate, split
from artplus.training.tables import is_table, rows_of
from artplus.tree import Tree, leaves, size, take, to


@dataclass(frozen=True)
class Batch:
    """One training batch on the model's device.

    Attributes:
        x: Inputs, ``(batch, *input)`` floats or a tree.
        y: Targets, ``(batch,)`` or ``(batch, classes)`` labels, numbers, or a tree.
        index: ``(batch,)`` positions in the data set, where known.
    """

    x: Tree
    y: Tree
    index: Tensor | None = None

    def __len__(self) -> int:
        return size(self.x)


class Prepare(Protocol):
    """Raw inputs and targets to checked tensors, wherever they are; a memory map stays one."""

    def __call__(self, x: Any, y: Any) -> tuple[Tree, Tree]:
        """Both, converted and checked."""
        ...


class Order:
    """Positions of each batch, shuffled by the generator or in order without one.

    A last batch of one example is joined to the batch before: BatchNorm cannot train on one. Of
    several processes, which must have the same generator, each gets its part of every batch: a
    batch is the same whatever their number. There the last batch is joined if it has no two
    examples for each.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator | None) -> None:
        self._n, self._batch_size = n, _checks.count("batch_size", batch_size)
        self.generator = generator
        self.num_replicas = distributed.world_size()

    def __len__(self) -> int:
        full, rest = divmod(self._n, self._batch_size)
        alone = 0 < rest < 2 * distributed.world_size() and full > 0
        return full + (rest > 0) - alone

    def __iter__(self) -> Iterator[list[int]]:
        for positions in self.tensors():
            yield positions.tolist()

    def tensors(self) -> Iterator[Tensor]:
        """The same positions as tensors, which index other tensors at once."""
        shuffled = self.generator is not None
        order = torch.randperm(self._n, generator=self.generator) if shuffled else None
        for i in range(len(self)):
            start = i * self._batch_size
            stop = self._n if i == len(self) - 1 else start + self._batch_size
            own = distributed.share(stop - start)
            yield (torch.arange(start, stop) if order is None else order[start:stop])[own]


class Arrays:
    """Batches of tensors held in memory, or of a memory map's rows, in an :class:`Order`."""

    replayable = True
    """Whether an epoch can be begun again and gives the same batches."""

    def __init__(
        self,
        x: Tree,
        y: Tree,
        batch_size: int,
        generator: torch.Generator | None,
        *,
        device: torch.device,
    ) -> None:
        self.x, self.y = x, y
        self._order, self._device = Order(size(x), batch_size, generator), device

    def __len__(self) -> int:
        return len(self._order)

    @property
    def examples(self) -> int:
        """How many there are."""
        return size(self.y)

    def head(self, n: int) -> Batch:
        """The first ``n`` examples, without touching the order."""
        rows = slice(0, n)
        return Batch(to(take(self.x, rows), self._device), to(take(self.y, rows), self._device))

    def order(self) -> dict[str, Any]:
        """What decides the order of the batches to come, as tensors and plain data."""
        own = self._order.generator
        return {"generators": [] if own is None else [own.get_state()]}

    def set_order(self, order: dict[str, Any]) -> None:
        """Put back what :meth:`order` took."""
        if self._order.generator is not None:
            self._order.generator.set_state(order["generators"][0])

    def tell(self, epoch: int) -> None:
        """Nobody needs to know which epoch comes: the generator goes on."""

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def begin(self, done: int = 0) -> Iterator[Batch]:
        """An epoch, its first ``done`` batches passed over at once."""
        positions = self._order.tensors()
        passed = sum(1 for _ in islice(positions, done))
        _all_there(passed, done)
        return self._batches(positions)

    def _batches(self, order: Iterator[Tensor]) -> Iterator[Batch]:
        for index in order:
            yield Batch(
                to(take(self.x, index), self._device, non_blocking=True),
                to(take(self.y, index), self._device, non_blocking=True),
                index,
            )


_ACCELERATED = re.compile(r"accelerate\b")
"""Loaders and samplers of Accelerate, which deal out the data among the processes."""


class Loaded:
    """Batches of a user's loader, each prepared as it comes."""

    def __init__(
        self,
        loader: Iterable[Any],
        prepare: Prepare,
        *,
        device: torch.device,
        arguments: Sequence[str] = (),
    ) -> None:
        self._loader, self._prepare, self._device = loader, prepare, device
        self._arguments = arguments

    def __len__(self) -> int:
        if isinstance(self._loader, Sized):
            return len(self._loader)
        raise TypeError("this loader has no length")

    @property
    def replayable(self) -> bool:
        """Whether an epoch can be begun again and gives the same batches.

        True for a ``DataLoader`` over a data set with positions and for a list of batches; of
        anything else it cannot be known.
        """
        if isinstance(self._loader, DataLoader):
            return not isinstance(self._loader.dataset, IterableDataset)
        return isinstance(self._loader, Sequence)

    @property
    def examples(self) -> int | None:
        """How many the data set has, where known."""
        data = getattr(self._loader, "dataset", None)
        return len(data) if isinstance(data, Sized) else None

    def _holders(self) -> list[Any]:
        batches = getattr(self._loader, "batch_sampler", None)
        inner = getattr(self._loader, "sampler", None) or getattr(batches, "sampler", None)
        return [self._loader, inner, batches]

    def _told(self) -> list[Any]:
        """What wants to know which epoch comes: samplers, and streams that shuffle by it."""
        holders = [*self._holders(), getattr(self._loader, "dataset", None)]
        return [holder for holder in holders if _told(holder)]

    def _generators(self) -> list[torch.Generator]:
        found = [getattr(holder, "generator", None) for holder in self._holders()]
        return [own for own in found if isinstance(own, torch.Generator)]

    def order(self) -> dict[str, Any]:
        """What decides the order of the batches to come, as tensors and plain data.

        Generators of the loader and its samplers, and the epoch of samplers that are told it.
        """
        return {
            "generators": [own.get_state() for own in self._generators()],
            "epochs": [holder.epoch for holder in self._told()],
        }

    def set_order(self, order: dict[str, Any]) -> None:
        """Put back what :meth:`order` took."""
        for own, state in zip(self._generators(), order["generators"], strict=True):
            own.set_state(state)
        for holder, epoch in zip(self._told(), order["epochs"], strict=True):
            holder.set_epoch(epoch)

    def tell(self, epoch: int) -> None:
        """Tell those that want to know it which epoch comes, as a ``DistributedSampler``."""
        for holder in self._told():
            holder.set_epoch(epoch)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Iterate inside without moving the random streams that decide later orders."""
        order = self.order()
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                yield
        finally:
            self.set_order(order)

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def begin(self, done: int = 0) -> Iterator[Batch]:
        """An epoch, its first ``done`` batches loaded and passed over at once."""
        raws = iter(self._loader) if self._parted else _in_step(self._loader)
        passed = sum(1 for _ in islice(raws, done))
        _all_there(passed, done)
        return self._batches(raws)

    @property
    def _parted(self) -> bool:
        """Whether what comes is for this process alone: it has a share of the data already."""
        return distributed.world_size() == 1 or any(
            getattr(holder, "num_replicas", 1) > 1 or _ACCELERATED.match(type(holder).__module__)
            for holder in self._holders()
        )

    def _batches(self, raws: Iterator[Any]) -> Iterator[Batch]:
        parted = self._parted
        for raw in raws:
            x, y = self._prepare(*split(raw, self._arguments))
            n = size(x)
            rows = slice(0, n) if parted else distributed.share(n)
            if rows.start == rows.stop:
                raise DataError(
                    f"a batch of {n} examples cannot be shared by "
                    f"{distributed.world_size()} processes; make batches larger, or "
                    "drop the last one: DataLoader(..., drop_last=True)"
                )
            # A map's rows are copied here; of a tensor a slice is a view.
            yield Batch(to(take(x, rows), self._device), to(take(y, rows), self._device))


def _in_step(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches in the same order in every process.

    A loader without a generator of its own draws the order from the global stream when its first
    batch is asked for. The processes' streams differ, so they share one for that moment.
    """
    seed = distributed.all_gather(int(torch.randint(2**31, ())))[0]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        raws = iter(loader)
        first = list(islice(raws, 1))
    return chain(first, raws)


Source = Arrays | Loaded
Held = TypeVar("Held", bound=Inputs)


def _told(holder: Any) -> bool:
    return isinstance(getattr(holder, "epoch", None), int) and hasattr(holder, "set_epoch")


def _all_there(passed: int, done: int) -> None:
    if passed < done:
        raise CheckpointError(
            f"the checkpoint was taken after {done} batches of its epoch, but the data ended after "
            f"{passed}. Is it the data that the run began with?"
        )


def batches(
    data: Any,
    prepare: Prepare,
    *,
    batch_size: int,
    generator: torch.Generator | None,
    device: torch.device,
    arguments: Sequence[str] = (),
) -> Source:
    """Return re-iterable batches of ``data``.

    Args:
        data: ``(x, y)`` arrays or tensors, or a mapping of columns; a ``Dataset``, a
            ``DataLoader``, or any re-iterable of batches. Inputs in a memory map are read, and
            converted where that is needed, a batch at a time; labels are held in memory. Inputs may
            be a mapping of arrays, and rows and batches mappings; see
            :func:`~artplus.training.columns.split`.
        prepare: See :class:`Prepare`. Arrays are prepared whole and once, so bad input is refused
            before training; of a loader each batch is, when it comes.
        batch_size: For arrays and data sets; a loader has its own.
        generator: Decides the order of arrays and data sets; ``None`` leaves them in order.
        device: Where batches of arrays go.
        arguments: Names of the arguments of the module's forward pass.

    Raises:
        DataError: if ``data`` is none of these, or is a one-shot iterator.
    """
    loaded = partial(Loaded, prepare=prepare, device=device, arguments=arguments)
    if isinstance(data, Mapping):
        data = split(data, arguments)
    if isinstance(data, tuple) and len(data) == 2:
        x, y = prepare(*data)
        return Arrays(x, y, batch_size, generator, device=device)
    if isinstance(data, DataLoader):
        return loaded(data)
    if is_table(data):
        data = rows_of(data, arguments)
    if isinstance(data, Dataset):
        loader: DataLoader[Any]
        if isinstance(data, Sized) and not isinstance(data, IterableDataset):
            if len(data) == 0:
                raise DataError("the data set is empty")
            order = Order(len(data), batch_size, generator)
            loader = DataLoader(data, batch_sampler=order, collate_fn=collate)
        else:
            loader = DataLoader(data, _checks.count("batch_size", batch_size), collate_fn=collate)
        return loaded(loader)
    if isinstance(data, Iterator):
        raise DataError(
            "data is a one-shot iterator, which is empty after the first epoch; pass a list, a "
            "Dataset or a DataLoader"
        )
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, str)):
        return loaded(data)
    raise DataError(
        "data must be (x, y), a mapping of columns, a Dataset, a DataLoader or an iterable of "
        f"batches, got {type(data).__name__}"
    )


class TensorPair:
    """The plain :class:`Prepare`: numbers as tensors, checked for NaN and range.

    Args:
        space: What is perturbed, and its range; ``None`` checks no range yet.
        dtype: Of the model's weights; inputs of another one are converted, with a warning.
    """

    def __init__(self, space: Space | None, dtype: torch.dtype = torch.float32) -> None:
        self.space, self._dtype = space, dtype

    def __call__(self, x: Any, y: Any) -> tuple[Tree, Tree]:
        """Both, converted and checked."""
        inputs, targets = self._inputs(x), _targets(y)
        n = size(inputs)
        if size_or_none(targets) != n:
            got = size_or_none(targets)
            raise DataError(f"x has {n} examples, y has {'one value' if got is None else got}")
        return inputs, targets

    def _inputs(self, x: Any) -> Tree:
        inputs = map_leaves(lambda leaf: _numbers(as_inputs, leaf, "x"), x)
        hidden = self.space is not None and self.space.hidden
        if isinstance(inputs, (Tensor, Rows)) and not hidden and not _floating(inputs):
            raise DataError(
                f"x must be floats in the range of the model's inputs, got {inputs.dtype}; "
                "x.float() / 255 makes images of bytes. Token ids are perturbed behind the "
                "embedding: space=EmbeddingSpace()."
            )
        inputs = map_leaves(self._converted, inputs)
        self.check(inputs)
        return inputs

    def check(self, inputs: Tree) -> None:
        """Refuse what is not finite, or outside the range."""
        space = self.space
        if not isinstance(space, InputSpace):
            for leaf in leaves(inputs):
                if _floating(leaf):
                    _checks.inputs(leaf)
            return
        check_range(inputs, space)

    def _converted(self, leaf: Inputs) -> Inputs:
        if not _floating(leaf):
            return leaf
        if leaf.dtype != self._dtype:
            warnings.warn(
                f"x was converted from {leaf.dtype} to {self._dtype}, as the model's weights are",
                ConversionWarning,
                stacklevel=7,
            )
            leaf = leaf.to(self._dtype)
        return leaf.detach() if isinstance(leaf, Tensor) else leaf


def _floating(leaf: Any) -> bool:
    return isinstance(leaf, (Tensor, Rows)) and leaf.dtype.is_floating_point


def map_leaves(change: Callable[[Any], Any], x: Any) -> Tree:
    """``x`` with every array changed, in mappings, tuples and lists of arrays.

    A list of numbers, or of lists of them, is an array.
    """
    if isinstance(x, Mapping):
        return {name: value if value is None else map_leaves(change, value)
                for name, value in x.items()}  # fmt: skip
    if isinstance(x, tuple) and x and isinstance(x[0], (Tensor, np.ndarray, Rows, Mapping, list)):
        return tuple(map_leaves(change, value) for value in x)
    if isinstance(x, list) and x and isinstance(x[0], (Tensor, np.ndarray, Mapping)):
        same = not isinstance(x[0], Mapping) and len({np.shape(value) for value in x}) == 1
        if not same:
            return [map_leaves(change, value) for value in x]
        x = torch.stack([torch.as_tensor(value) for value in x])
    return change(x)


def _targets(y: Any) -> Tree:
    def checked(leaf: Any) -> Tensor:
        labels = _numbers(as_tensor, leaf, "y")
        if labels.is_complex() or not bool(torch.isfinite(labels).all()):
            raise DataError("y must be finite real numbers")
        whole = not labels.is_floating_point() and labels.dtype != torch.bool
        return labels.long() if whole else labels

    if isinstance(y, list) and y and isinstance(y[0], Mapping):
        return [
            {key: checked(value) for key, value in row.items() if not isinstance(value, str)}
            for row in y
        ]
    return map_leaves(checked, y)


def size_or_none(tree: Tree) -> int | None:
    """Number of examples; ``None`` of a single number."""
    return None if isinstance(tree, Tensor) and tree.ndim == 0 else size(tree)


def _numbers(kind: Callable[[Any], Held], values: Any, name: str) -> Held:
    try:
        return kind(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} must be a tensor or an array of numbers, got {type(values).__name__}: {error}"
        ) from None
