"""Inputs, targets and predictions as trees: tensors in mappings, tuples and lists, one batch axis.

A *tree* is one of

- a tensor, or a memory map's rows: the first axis is the batch;
- a mapping or a tuple of trees: every member has the same batch axis (a tokenizer's columns);
- a list: the list itself is the batch, one entry an example (images of different sizes, boxes).

Anything else (a number, a string, ``None``) is carried along unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from artplus.errors import DataError
from artplus.mapped import Rows

Tree = Any
"""A tensor, :class:`~artplus.mapped.Rows`, or a mapping, tuple or list of trees."""


class Node:
    """Base class of trees that are neither tensors nor containers: they name their members."""

    def members(self) -> dict[Any, Tree]:
        """Its members by name, each with the same batch axis."""
        raise NotImplementedError

    def rebuilt(self, change: Callable[[Tree], Tree]) -> Node:
        """The same with every member changed."""
        raise NotImplementedError


def leaves(tree: Tree) -> Iterator[Tensor | Rows]:
    """Every tensor of a tree, in order.

    Example:
        >>> [leaf.ndim for leaf in leaves({"a": torch.zeros(2), "b": (torch.zeros(2, 3), None)})]
        [1, 2]
    """
    if isinstance(tree, (Tensor, Rows)):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from leaves(value)
    elif isinstance(tree, (tuple, list)):
        for value in tree:
            yield from leaves(value)
    elif isinstance(tree, Node):
        yield from leaves(tree.members())


def size(tree: Tree) -> int:
    """Number of examples.

    Raises:
        DataError: if there is no tensor, or members differ in their number of examples.

    Example:
        >>> size({"ids": torch.zeros(4, 7), "mask": torch.zeros(4, 7)}), size([torch.zeros(3)] * 2)
        (4, 2)
    """
    if isinstance(tree, list):
        return len(tree)
    if isinstance(tree, (Tensor, Rows)):
        if tree.ndim == 0:
            raise DataError("a batch needs a first axis of examples, got a single number")
        return len(tree)
    members = _members(tree)
    sizes = {name: size(value) for name, value in members.items() if _has_batch(value)}
    if len(set(sizes.values())) != 1:
        raise DataError(
            f"every part of a batch must hold the same number of examples, got {sizes or 'nothing'}"
        )
    return next(iter(sizes.values()))


def take(tree: Tree, rows: slice | Tensor) -> Tree:
    """The examples ``rows``, given as a slice or as their numbers ``(m,)``.

    Example:
        >>> take({"x": torch.arange(4), "boxes": [0, 1, 2, 3]}, torch.tensor([3, 1]))
        {'x': tensor([3, 1]), 'boxes': [3, 1]}
    """
    if isinstance(tree, (Tensor, Rows)):
        return tree[rows] if tree.ndim else tree
    if isinstance(tree, list):
        return tree[rows] if isinstance(rows, slice) else [tree[k] for k in rows.tolist()]
    return _rebuilt(tree, lambda value: take(value, rows))


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """The same tree with ``function`` applied to every tensor.

    Raises:
        TypeError: for rows of a memory map, which are taken first.
    """
    if isinstance(tree, Rows):
        raise TypeError("a memory map's rows are taken before they are changed: take(tree, rows)")
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, list):
        return [map_tensors(function, value) for value in tree]
    return _rebuilt(tree, lambda value: map_tensors(function, value))


def to(tree: Tree, device: torch.device, *, non_blocking: bool = False) -> Tree:
    """Every tensor on ``device``."""
    if isinstance(tree, Tensor):  # the common case, without a function call a leaf
        return tree.to(device, non_blocking=non_blocking)
    return map_tensors(lambda leaf: leaf.to(device, non_blocking=non_blocking), tree)


def copied(
    tree: Tree, rows: slice | Tensor, device: torch.device, *, non_blocking: bool = False
) -> Tree:
    """The examples ``rows`` on ``device``, in memory of their own.

    A module or an attack that works in place then never reaches the caller's data.

    Example:
        >>> x = torch.zeros(4)
        >>> copied(x, slice(0, 2), x.device).fill_(1), x
        (tensor([1., 1.]), tensor([0., 0., 0., 0.]))
    """
    part = take(tree, rows)
    if isinstance(tree, Rows) or (isinstance(tree, Tensor) and isinstance(rows, Tensor)):
        return part.to(device, non_blocking=non_blocking)  # an index copies
    return map_tensors(lambda leaf: leaf.to(device, non_blocking=non_blocking, copy=True), part)


def clone(tree: Tree) -> Tree:
    """Every tensor in memory of its own."""
    return map_tensors(Tensor.clone, tree)


def detach(tree: Tree) -> Tree:
    """Every tensor cut off from its graph."""
    return tree.detach() if isinstance(tree, Tensor) else map_tensors(Tensor.detach, tree)


def concat(trees: Sequence[Tree], *, padding: float = 0) -> Tree:
    """The examples of several trees of one structure, one after the other.

    Tensors whose second axis differs (sequences padded to different lengths) are padded at the end
    first. What belongs to no example, such as a single number, is the first tree's.

    Args:
        trees: At least one.
        padding: What is added to shorter sequences.

    Raises:
        DataError: if the trees differ in structure, or tensors in another axis than the second.

    Example:
        >>> concat([{"x": torch.zeros(2, 3)}, {"x": torch.ones(1, 3)}])["x"].shape
        torch.Size([3, 3])
    """
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, Tensor):
        return _padded_cat(trees, padding) if first.ndim else first
    if isinstance(first, Rows):
        return concat([rows[:] for rows in trees])
    if isinstance(first, list):
        return [value for tree in trees for value in tree]
    parts = [_members(tree) for tree in trees]
    if any(part.keys() != parts[0].keys() for part in parts):
        raise DataError(
            "batches of one data set must have the same parts, got "
            + " and ".join(sorted({describe(tree) for tree in trees}))
        )
    whole = {key: concat([part[key] for part in parts], padding=padding) for key in parts[0]}
    if isinstance(first, tuple):
        return tuple(whole.values())
    if isinstance(first, Node):
        members = iter(whole.values())
        return first.rebuilt(lambda _: next(members))
    return whole if isinstance(first, Mapping) else first


def first_tensor(tree: Tree) -> Tensor | Rows:
    """Any tensor of the tree: tells device and number type.

    Raises:
        DataError: if there is none.
    """
    for leaf in leaves(tree):
        return leaf
    raise DataError(f"expected tensors, got {type(tree).__name__}")


def device_of(tree: Tree) -> torch.device:
    """Where the tensors are; the CPU if there are none."""
    return next((leaf.device for leaf in leaves(tree)), torch.device("cpu"))


def describe(tree: Tree) -> str:
    """Shapes by name, for messages.

    Example:
        >>> describe({"ids": torch.zeros(4, 7)}), describe(torch.zeros(2, 3))
        ("{'ids': (4, 7)}", '(2, 3)')
    """
    if isinstance(tree, (Tensor, Rows)):
        return str(tuple(tree.shape))
    if isinstance(tree, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(value)}" for key, value in tree.items()) + "}"
    if isinstance(tree, tuple):
        return "(" + ", ".join(map(describe, tree)) + ")"
    if isinstance(tree, list):
        return f"list of {len(tree)}" + (f" such as {describe(tree[0])}" if tree else "")
    name = type(tree).__name__
    return f"{name}{describe(tree.members())}" if isinstance(tree, Node) else name


def _padded_cat(tensors: Sequence[Tensor], padding: float) -> Tensor:
    first = tensors[0]
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return torch.cat(list(tensors))
    if len({(tensor.ndim, tensor.shape[2:]) for tensor in tensors}) > 1:
        raise DataError(
            "batches can be put together if they differ in their second axis alone, got "
            + " and ".join(sorted({describe(tensor) for tensor in tensors}))
        )
    longest = max(tensor.shape[1] for tensor in tensors)
    whole = first.new_full((sum(map(len, tensors)), longest, *first.shape[2:]), padding)
    start = 0
    for tensor in tensors:
        whole[start : start + len(tensor), : tensor.shape[1]] = tensor
        start += len(tensor)
    return whole


def _members(tree: Tree) -> dict[Any, Tree]:
    if isinstance(tree, Node):
        return tree.members()
    if isinstance(tree, Mapping):
        return dict(tree)
    return dict(enumerate(tree)) if isinstance(tree, tuple) else {}


def _has_batch(tree: Tree) -> bool:
    """Whether a member counts examples; a loss beside the predictions does not."""
    if isinstance(tree, (Tensor, Rows)):
        return tree.ndim > 0
    if isinstance(tree, list):
        return True
    return isinstance(tree, (Mapping, tuple, Node)) and any(
        map(_has_batch, _members(tree).values())
    )


def _rebuilt(tree: Tree, change: Callable[[Tree], Tree]) -> Tree:
    if isinstance(tree, Mapping):
        return {key: change(value) for key, value in tree.items()}
    if isinstance(tree, tuple):
        return tuple(change(value) for value in tree)
    return tree.rebuilt(change) if isinstance(tree, Node) else tree
