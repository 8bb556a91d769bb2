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
from artplus.training.columns import collate, split, without_targets
from artplus.training.tables import is_table, rows_of
from artplus.tree import Tree, copied, device_of, leaves, size


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
    """Converts raw inputs and targets to checked tensors on any device; a memory map stays one."""

    def __call__(self, x: Any, y: Any) -> tuple[Tree, Tree]:
        """Both, converted and checked."""
        ...


class Order:
    """Positions of each batch, shuffled by the generator; without one, in order.

    A last batch of one example is joined to the batch before it, because BatchNorm cannot train on
    one example. Several processes must have the same generator; each gets its part of every batch,
    so batches do not depend on the number of processes. The last batch is then joined if it has
    fewer than two examples for each process.
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
            share = distributed.share(stop - start)
            yield (torch.arange(start, stop) if order is None else order[start:stop])[share]


class Arrays:
    """Batches of tensors held in memory, or of a memory map's rows, in an :class:`Order`."""

    replayable = True
    """Whether an epoch can be started again with the same batches."""

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
        """Number of examples."""
        return size(self.y)

    @property
    def ends_alone(self) -> bool:
        """Whether a batch holds a single example."""
        return self.examples == 1

    def head(self, n: int) -> Batch:
        """The first ``n`` examples; the order of epochs is left alone."""
        rows = slice(0, n)
        return Batch(copied(self.x, rows, self._device), copied(self.y, rows, self._device))

    def order(self) -> dict[str, Any]:
        """What decides the order of later batches, as tensors and plain data."""
        generator = self._order.generator
        return {"generators": [] if generator is None else [generator.get_state()]}

    def set_order(self, order: dict[str, Any]) -> None:
        """Restore what :meth:`order` returned."""
        if self._order.generator is not None:
            self._order.generator.set_state(order["generators"][0])

    def tell(self, epoch: int) -> None:
        """Does nothing: the generator shuffles every epoch anew."""

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def begin(self, done: int = 0) -> Iterator[Batch]:
        """Start an epoch after its first ``done`` batches."""
        positions = self._order.tensors()
        skipped = sum(1 for _ in islice(positions, done))
        _check_skipped(skipped, done)
        return self._batches(positions)

    def _batches(self, order: Iterator[Tensor]) -> Iterator[Batch]:
        for index in order:
            yield Batch(
                copied(self.x, index, self._device, non_blocking=True),
                copied(self.y, index, self._device, non_blocking=True),
                index,
            )


_ACCELERATED = re.compile(r"accelerate\b")
"""Module of Accelerate's loaders and samplers, which share the data among the processes."""


class Loaded:
    """Batches of a user's loader, each prepared when it is loaded."""

    def __init__(
        self,
        loader: Iterable[Any],
        prepare: Prepare,
        *,
        device: torch.device,
        arguments: Sequence[str] = (),
        supervised: bool = True,
    ) -> None:
        self._loader, self._prepare, self._device = loader, prepare, device
        self._split = partial(split if supervised else without_targets, arguments=arguments)

    def __len__(self) -> int:
        if isinstance(self._loader, Sized):
            return len(self._loader)
        raise TypeError("this loader has no length")

    @property
    def replayable(self) -> bool:
        """Whether an epoch can be started again with the same batches.

        True for a ``DataLoader`` over a map-style data set and for a list of batches; unknown,
        and so false, for anything else.
        """
        if isinstance(self._loader, DataLoader):
            return not isinstance(self._loader.dataset, IterableDataset)
        return isinstance(self._loader, Sequence)

    @property
    def examples(self) -> int | None:
        """Number of examples in the data set, where known."""
        data = getattr(self._loader, "dataset", None)
        return len(data) if isinstance(data, Sized) else None

    @property
    def ends_alone(self) -> bool:
        """Whether a batch holds a single example, as far as that can be known."""
        loader = self._loader
        if isinstance(loader, DataLoader) and loader.batch_size and self.examples is not None:
            return not loader.drop_last and self.examples % loader.batch_size == 1
        return False

    @property
    def rows(self) -> Any:
        """What can be asked for an example, or a batch, by its number; ``None`` for a stream."""
        data = getattr(self._loader, "dataset", self._loader)
        by_number = hasattr(data, "__getitem__") and isinstance(data, Sized)
        return data if by_number and not isinstance(data, (IterableDataset, Mapping)) else None

    def _loader_and_samplers(self) -> list[Any]:
        batches = getattr(self._loader, "batch_sampler", None)
        inner = getattr(self._loader, "sampler", None) or getattr(batches, "sampler", None)
        return [self._loader, inner, batches]

    def _shuffled_by_epoch(self) -> list[Any]:
        """Samplers and streams whose order depends on ``set_epoch``."""
        candidates = [*self._loader_and_samplers(), getattr(self._loader, "dataset", None)]
        return [candidate for candidate in candidates if _has_epoch(candidate)]

    def _generators(self) -> list[torch.Generator]:
        generators = [getattr(holder, "generator", None) for holder in self._loader_and_samplers()]
        return [one for one in generators if isinstance(one, torch.Generator)]

    def order(self) -> dict[str, Any]:
        """What decides the order of later batches, as tensors and plain data.

        Generators of the loader and its samplers, and the epoch of those that have ``set_epoch``.
        """
        return {
            "generators": [generator.get_state() for generator in self._generators()],
            "epochs": [sampler.epoch for sampler in self._shuffled_by_epoch()],
        }

    def set_order(self, order: dict[str, Any]) -> None:
        """Restore what :meth:`order` returned."""
        for generator, state in zip(self._generators(), order["generators"], strict=True):
            generator.set_state(state)
        for sampler, epoch in zip(self._shuffled_by_epoch(), order["epochs"], strict=True):
            sampler.set_epoch(epoch)

    def tell(self, epoch: int) -> None:
        """Call ``set_epoch`` of samplers that have it, such as a ``DistributedSampler``."""
        for sampler in self._shuffled_by_epoch():
            sampler.set_epoch(epoch)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Inside, iterating leaves the random streams that decide later orders unchanged."""
        order = self.order()
        try:
            with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
                yield
        finally:
            self.set_order(order)

    def __iter__(self) -> Iterator[Batch]:
        return self.begin()

    def begin(self, done: int = 0) -> Iterator[Batch]:
        """Start an epoch; its first ``done`` batches are loaded and skipped."""
        raw_batches = iter(self._loader) if self._is_shared else _in_same_order(self._loader)
        skipped = sum(1 for _ in islice(raw_batches, done))
        _check_skipped(skipped, done)
        return self._batches(raw_batches)

    @property
    def _is_shared(self) -> bool:
        """Whether the loader already gives each process its own share of the data."""
        return distributed.world_size() == 1 or any(
            getattr(holder, "num_replicas", 1) > 1 or _ACCELERATED.match(type(holder).__module__)
            for holder in self._loader_and_samplers()
        )

    def _batches(self, raw_batches: Iterator[Any]) -> Iterator[Batch]:
        is_shared = self._is_shared
        for raw in raw_batches:
            x, y = self._prepare(*self._split(raw))
            n = size(x)
            rows = slice(0, n) if is_shared else distributed.share(n)
            if rows.start == rows.stop:
                raise DataError(
                    f"a batch of {n} examples cannot be shared by "
                    f"{distributed.world_size()} processes; make batches larger, or "
                    "drop the last one: DataLoader(..., drop_last=True)"
                )
            yield Batch(copied(x, rows, self._device), copied(y, rows, self._device))


def _in_same_order(loader: Iterable[Any]) -> Iterator[Any]:
    """The loader's batches in the same order in every process.

    A loader without a generator draws the order from torch's global stream when its first batch is
    requested. The processes' streams differ, so all are seeded alike for that request.
    """
    seed = distributed.all_gather(int(torch.randint(2**31, ())))[0]
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        raw_batches = iter(loader)
        first = list(islice(raw_batches, 1))
    return chain(first, raw_batches)


Source = Arrays | Loaded
Array = TypeVar("Array", bound=Inputs)


def batch_count(source: Source) -> int | None:
    """Number of batches in an epoch; ``None`` for a stream, whose length shows at its end."""
    try:
        return len(source)
    except TypeError:
        return None


def _has_epoch(sampler: Any) -> bool:
    return isinstance(getattr(sampler, "epoch", None), int) and hasattr(sampler, "set_epoch")


def _check_skipped(skipped: int, done: int) -> None:
    if skipped < done:
        raise CheckpointError(
            f"the checkpoint was taken after {done} batches of its epoch, but the data ended after "
            f"{skipped}. Is it the data that the run began with?"
        )


def batches(
    data: Any,
    prepare: Prepare,
    *,
    batch_size: int,
    generator: torch.Generator | None,
    device: torch.device,
    arguments: Sequence[str] = (),
    supervised: bool = True,
) -> Source:
    """Return re-iterable batches of ``data``.

    Args:
        data: ``(x, y)`` arrays or tensors, or a mapping of columns; a ``Dataset``, a
            ``DataLoader``, or any re-iterable of batches. Inputs in a memory map are read, and
            converted where needed, a batch at a time; labels are held in memory. Inputs may be a
            mapping of arrays, and rows and batches may be mappings; see
            :func:`~artplus.training.columns.split`.
        prepare: See :class:`Prepare`. Arrays are prepared once as a whole, so bad input is refused
            before training; batches of a loader are prepared one by one.
        batch_size: For arrays and data sets; a loader has its own.
        generator: Decides the order of arrays and data sets; ``None`` leaves them in order.
        device: Where batches of arrays go.
        arguments: Names of the arguments of the module's forward pass.
        supervised: Without it ``data`` is inputs alone, as one array or of batches or rows; labels
            are left out with a warning.

    Raises:
        DataError: if ``data`` is none of these, or is a one-shot iterator.
    """
    loaded = partial(
        Loaded, prepare=prepare, device=device, arguments=arguments, supervised=supervised
    )
    if not supervised and isinstance(data, (Mapping, tuple, Tensor, np.ndarray)):
        data = without_targets(data, arguments)
    elif isinstance(data, Mapping):
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
    if isinstance(data, Iterable) and not isinstance(data, (Tensor, np.ndarray, str)):
        return loaded(data)
    raise DataError(
        "data must be (x, y), a mapping of columns, a Dataset, a DataLoader or an iterable of "
        f"batches, got {type(data).__name__}; inputs alone suffice for losses without labels, such "
        "as 'fare'"
    )


class TensorPair:
    """The default :class:`Prepare`: numbers as tensors, checked for NaN and range.

    Args:
        space: What is perturbed, and its range; ``None`` checks no range.
        dtype: Dtype of the model's weights; other inputs are converted, with a warning.
    """

    def __init__(self, space: Space | None, dtype: torch.dtype = torch.float32) -> None:
        self.space, self._dtype = space, dtype

    def __call__(self, x: Any, y: Any) -> tuple[Tree, Tree]:
        """Both, converted and checked."""
        inputs = self._inputs(x)
        n = size(inputs)
        if y is None:  # inputs alone: targets of no columns
            return inputs, torch.zeros(n, 0, device=device_of(inputs))
        targets = _targets(y)
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
        """Refuse inputs that are not finite or lie outside the range."""
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


def map_leaves(change: Callable[[Any], Any], values: Any) -> Tree:
    """``values`` with every array changed, in mappings, tuples and lists of arrays.

    A list of numbers, or of lists of them, is an array. Strings and ``None`` in a mapping stay.
    """
    if isinstance(values, Mapping):
        return {
            name: value if value is None or isinstance(value, str) else map_leaves(change, value)
            for name, value in values.items()
        }
    first = values[0] if isinstance(values, (tuple, list)) and values else None
    if isinstance(values, tuple) and isinstance(first, (Tensor, np.ndarray, Rows, Mapping, list)):
        return tuple(map_leaves(change, value) for value in values)
    if isinstance(values, list) and isinstance(first, (Tensor, np.ndarray, Mapping)):
        same = not isinstance(first, Mapping) and len({np.shape(value) for value in values}) == 1
        if not same:
            return [map_leaves(change, value) for value in values]
        values = torch.stack([torch.as_tensor(value) for value in values])
    return change(values)


def _targets(y: Any) -> Tree:
    def checked(leaf: Any) -> Tensor:
        labels = _numbers(as_tensor, leaf, "y")
        if labels.is_complex() or not bool(torch.isfinite(labels).all()):
            raise DataError("y must be finite real numbers")
        is_integer = not labels.is_floating_point() and labels.dtype != torch.bool
        return labels.long() if is_integer else labels

    return map_leaves(checked, y)


def size_or_none(tree: Tree) -> int | None:
    """Number of examples; ``None`` for a single number."""
    return None if isinstance(tree, Tensor) and tree.ndim == 0 else size(tree)


def _numbers(convert: Callable[[Any], Array], values: Any, name: str) -> Array:
    try:
        return convert(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{name} must be a tensor or an array of numbers, got {type(values).__name__}: {error}"
        ) from None
