"""Batches in any form as inputs and targets: pairs, and mappings of named columns."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from artplus.errors import ArtplusWarning, DataError
from artplus.spaces.hidden import RESERVED
from artplus.training.tables import LABELS, pair
from artplus.tree import Tree

PADDING = -100
"""Padding of label sequences, as in Transformers; everything else is padded with zero."""


def split(batch: Any, arguments: Sequence[str] = ()) -> tuple[Tree, Tree]:
    """Inputs and targets of a batch.

    Args:
        batch: A pair, or a mapping whose label column is ``labels``, ``label`` or ``y`` and whose
            other columns are the module's keyword arguments; columns that the module does not take
            are left out.
        arguments: Names of the arguments of the module's forward pass. Without them, or if no
            column has such a name, inputs are the column with a usual name
            (:data:`~artplus.training.tables.INPUTS`).

    Raises:
        DataError: if a column is missing or several fit; names the columns.

    Example:
        >>> split({"input_ids": [[1]], "idx": 7, "labels": [0]}, ("input_ids", "attention_mask"))
        ([[1]], [0])
    """
    if isinstance(batch, Mapping):
        return _of_columns(batch, arguments)
    if not isinstance(batch, (tuple, list)) or len(batch) < 2:
        raise DataError(
            "a batch must be a pair (x, y), or a mapping with a column of each, got "
            f"{type(batch).__name__}. Wrap the data set so that it yields pairs."
        )
    return batch[0], batch[1]


def _of_columns(batch: Mapping[str, Any], arguments: Sequence[str]) -> tuple[Tree, Tree]:
    label = next((name for name in LABELS if name in batch), None)
    inputs = {k: v for k, v in batch.items() if k != label and (k in arguments or k in RESERVED)}
    named = [name for name in inputs if name in arguments]
    if not named:
        return pair(batch)
    if label is None:
        raise DataError(
            f"no column has a usual name of labels ({', '.join(LABELS)}); there are "
            f"{', '.join(map(str, batch))}"
        )
    if len(inputs) == 1 and named[0] == arguments[0]:
        return inputs[named[0]], batch[label]
    return inputs, batch[label]


def without_targets(batch: Any, arguments: Sequence[str] = ()) -> tuple[Tree, None]:
    """The inputs of a batch, for objectives without targets; labels are left out with a warning.

    Args:
        batch: Inputs alone, or what :func:`split` takes.
        arguments: As for :func:`split`.

    Example:
        >>> without_targets({"pixel_values": [0.5], "idx": 7}, ("pixel_values",))
        ([0.5], None)
    """
    if isinstance(batch, Mapping):
        label = next((name for name in LABELS if name in batch), None)
        inputs, _ = split({**batch, label or LABELS[0]: None}, arguments)
        ignored = label is not None
    elif isinstance(batch, (tuple, list)) and batch:
        inputs, ignored = batch[0], len(batch) > 1 and batch[1] is not None
    else:
        inputs, ignored = batch, False
    if ignored:
        warnings.warn(
            "the loss uses no labels, so those in the data are ignored; give the inputs alone",
            ArtplusWarning,
            stacklevel=2,
        )
    return inputs, None


def with_targets(x: Tree, y: Tree, arguments: Sequence[str]) -> Tree:
    """Inputs of a model that takes the targets too and returns its losses.

    Raises:
        DataError: if the forward pass has no argument for the targets.
    """
    if isinstance(x, Mapping):
        name = next((name for name in ("labels", "targets", "label", "y") if name in arguments), "")
        if not name:
            raise DataError(
                "this task's model computes its own loss and must be given the targets, but its "
                f"forward pass has no argument labels or targets; it has {', '.join(arguments)}"
            )
        return {**x, name: y}
    if len(arguments) < 2:
        raise DataError(
            "this task's model computes its own loss and must be given the targets as its second "
            f"argument, but its forward pass takes {', '.join(arguments) or 'nothing'}"
        )
    if arguments[1] in ("labels", "targets", "target", "y"):
        return (x, y)
    named = next((name for name in ("labels", "targets") if name in arguments), None)
    return (x, y) if named is None else {arguments[0]: x, named: y}


def collate(rows: Sequence[Any]) -> Any:
    """Rows of a data set as a batch; sequences of different lengths are padded at their end.

    Label sequences are padded with -100, everything else with zero. An ``attention_mask`` is added
    for token ids or waveforms that have none. Rows of images with boxes become lists.

    Example:
        >>> collate([{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}])
        {'input_ids': tensor([[5, 6],
                [7, 0]]), 'labels': tensor([1, 0]), 'attention_mask': tensor([[1, 1],
                [1, 0]])}
    """
    first = rows[0]
    if isinstance(first, Mapping):
        batch = {name: _column([row[name] for row in rows], name) for name in first}
        for name in ("input_ids", "input_values"):
            if name in batch and "attention_mask" not in batch:
                batch["attention_mask"] = _lengths_mask([len(row[name]) for row in rows])
        return batch
    if isinstance(first, (tuple, list)):
        return [_column([row[k] for row in rows], "y" if k else "x") for k in range(len(first))]
    return default_collate(list(rows))


def _column(values: list[Any], name: str) -> Any:
    if isinstance(values[0], Mapping) and not set(values[0]).isdisjoint(("boxes", "class_labels")):
        return values
    if isinstance(values[0], tuple) and any(isinstance(part, Tensor) for part in values[0]):
        return tuple(_column(list(parts), name) for parts in zip(*values, strict=True))
    try:
        tensors = [torch.as_tensor(value) for value in values]
    except (TypeError, ValueError, RuntimeError):  # strings, mappings, whatever torch can collate
        return default_collate(values)
    shapes = {tensor.shape for tensor in tensors}
    if len(shapes) == 1:
        return default_collate(tensors)
    if any(len(shape) == 3 for shape in shapes):  # images of different sizes
        return tensors
    padding = float(PADDING if name in LABELS else 0)
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=padding)


def _lengths_mask(lengths: list[int]) -> Tensor:
    steps = torch.arange(max(lengths))
    return (steps[None] < torch.tensor(lengths)[:, None]).long()
