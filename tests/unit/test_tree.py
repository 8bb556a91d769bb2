"""Trees: taking examples, putting them together, and what counts as an example."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from artplus import tree
from artplus.errors import DataError
from artplus.mapped import Rows
from artplus.tree import Node, Tree, concat, leaves, map_tensors, size, take, to


@dataclass(frozen=True, eq=False)
class Pair(Node):
    """A tree of a class of its own."""

    left: Tree
    right: Tree

    def members(self) -> dict[str, Tree]:
        return {"left": self.left, "right": self.right}

    def rebuilt(self, change: Callable[[Tree], Tree]) -> Pair:
        return Pair(change(self.left), change(self.right))


def tensors(n: int) -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(1, 3), max_size=2)
    dtypes = st.sampled_from([torch.float32, torch.int64, torch.bool])
    return st.builds(lambda shape, dtype: (torch.rand(n, *shape) * 100).to(dtype), shapes, dtypes)


def trees(n: int) -> st.SearchStrategy[Tree]:
    """Trees of ``n`` examples, with things that belong to none."""
    images = st.lists(st.builds(torch.rand, st.integers(1, 4), st.integers(1, 4)),
                      min_size=n, max_size=n)  # fmt: skip
    boxes = st.just([{"boxes": torch.rand(k % 3, 4)} for k in range(n)])
    beside = st.sampled_from([None, "name", 7, torch.tensor(0.5)])

    def wider(children: st.SearchStrategy[Tree]) -> st.SearchStrategy[Tree]:
        return st.one_of(
            st.builds(lambda a, b, c: {"a": a, "b": b, "c": c}, children, children, beside),
            st.builds(lambda a, b: (a, b), children, beside),
            st.builds(Pair, children, children),
        )

    return st.recursive(st.one_of(tensors(n), images, boxes), wider, max_leaves=4)


def same(a: Tree, b: Tree) -> bool:
    """Equal in structure and in every value."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Pair):
        return isinstance(b, Pair) and same(a.members(), b.members())
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


SIZES = st.integers(1, 5)


@given(st.data(), SIZES, SIZES)
def test_taking_undoes_putting_together(data, n, m):
    """``take(concat([a, b]), a's rows)`` is ``a``; the rest is ``b``, but what belongs to none."""
    a = data.draw(trees(n))
    b = map_tensors(lambda leaf: leaf if leaf.ndim == 0 else leaf[:0].new_zeros(leaf.shape), a)
    b = take(b, torch.arange(m) % n)
    whole = concat([a, b])
    assert size(whole) == n + m
    assert same(take(whole, slice(0, n)), a)
    assert same(take(whole, torch.arange(n, n + m)), b)


@given(st.data(), SIZES)
def test_rows_by_slice_and_by_number_are_the_same(data, n):
    """And every part of the tree has their number."""
    batch = data.draw(trees(n))
    start, stop = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    part = take(batch, slice(start, stop))
    assert size(part) == stop - start
    assert same(part, take(batch, torch.arange(start, stop)))


@given(st.data(), SIZES)
def test_taking_composes(data, n):
    """Rows of rows are the rows' rows."""
    batch = data.draw(trees(n))
    numbers = st.lists(st.integers(0, n - 1), min_size=1, max_size=6)
    rows = torch.tensor(data.draw(numbers))
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    assert same(take(take(batch, rows), order), take(batch, rows[order]))


@given(st.data(), SIZES)
def test_mapping_keeps_the_structure(data, n):
    """The identity changes nothing; every tensor is reached once, in the order of leaves."""
    batch = data.draw(trees(n))
    reached: list[Tensor] = []

    def note(leaf: Tensor) -> Tensor:
        reached.append(leaf)
        return leaf

    assert same(map_tensors(note, batch), batch)
    assert [id(leaf) for leaf in reached] == [id(leaf) for leaf in leaves(batch)]
    assert same(to(batch, torch.device("cpu")), batch)


@given(st.data(), SIZES)
def test_the_first_tensor_tells_device_and_type(data, n):
    """It is a leaf, and a tree without tensors has none."""
    batch = data.draw(trees(n))
    assert tree.first_tensor(batch) is next(iter(leaves(batch)))
    assert tree.device_of(batch) == torch.device("cpu") == tree.device_of({"name": "none"})
    with pytest.raises(DataError, match="expected tensors, got dict"):
        tree.first_tensor({"name": "none"})


def test_detaching_reaches_every_tensor():
    """No member keeps its graph."""
    x = torch.rand(2, requires_grad=True)
    batch = {"x": x * 2, "more": (x + 1, [x * 3, x * 4]), "pair": Pair(x * 5, None)}
    assert all(leaf.requires_grad for leaf in leaves(batch))
    assert not any(leaf.requires_grad for leaf in leaves(tree.detach(batch)))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.tensor(1.0), "first axis of examples, got a single number"),
        ({"x": torch.rand(3), "y": torch.rand(2)}, r"same number of examples, got \{'x': 3, 'y'"),
        ((torch.rand(3), [1, 2]), r"same number of examples, got \{0: 3, 1: 2\}"),
        (Pair(torch.rand(3), torch.rand(4)), r"got \{'left': 3, 'right': 4\}"),
        ({}, "same number of examples, got nothing"),
        ({"name": "none"}, "same number of examples, got nothing"),
        ("text", "same number of examples, got nothing"),
    ],
)
def test_a_batch_without_one_size_is_refused(batch, message):
    """The message names the parts and their sizes."""
    with pytest.raises(DataError, match=message):
        size(batch)


def test_a_list_is_the_batch():
    """One entry an example, of whatever shape; in a tuple or mapping it is one part."""
    images = [torch.rand(3, 4, 5), torch.rand(3, 6, 2)]
    assert size(images) == 2 and size({"images": images, "lr": torch.tensor(0.1)}) == 2
    assert take(images, torch.tensor([1]))[0] is images[1]
    assert size([]) == 0
    assert concat([images, images[:1]])[2] is images[0]


@given(st.lists(st.tuples(SIZES, SIZES), min_size=2, max_size=4), st.sampled_from([0, -100]))
def test_shorter_sequences_are_padded_at_their_end(shapes, padding):
    """Each batch's own rows come first; what is added is the padding and nothing else."""
    parts = [torch.randint(1, 9, (n, length)) for n, length in shapes]
    whole = concat([{"ids": part} for part in parts], padding=padding)["ids"]
    longest = max(length for _, length in shapes)
    assert whole.shape == (sum(n for n, _ in shapes), longest)
    for part, rows in zip(parts, whole.split([n for n, _ in shapes]), strict=True):
        assert torch.equal(rows[:, : part.shape[1]], part)
        assert bool((rows[:, part.shape[1] :] == padding).all())


def test_padding_keeps_further_axes_and_the_number_type():
    """Frames of several features; booleans are padded with False."""
    frames = concat([torch.ones(1, 2, 3), torch.ones(1, 4, 3)])
    assert frames.shape == (2, 4, 3) and float(frames.sum()) == 18
    mask = concat([torch.ones(1, 2, dtype=torch.bool), torch.ones(1, 3, dtype=torch.bool)])
    assert mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([torch.rand(2, 3, 4), torch.rand(2, 3, 5)], r"second axis alone, got \(2, 3, 4\) and"),
        ([torch.rand(2, 3), torch.rand(2)], r"second axis alone, got \(2, 3\) and \(2,\)|\(2,\)"),
        ([{"x": torch.rand(2)}, {"z": torch.rand(2)}], r"same parts, got \{'x': \(2,\)\} and"),
        ([(torch.rand(2),), (torch.rand(2), torch.rand(2))], "same parts"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(parts, message):
    """Rather than broadcast, cut or dropped."""
    with pytest.raises(DataError, match=message):
        concat(parts)


def test_rows_of_a_memory_map_are_taken_before_anything_else(tmp_path):
    """Taking reads them; a change of what lies on disk is refused."""
    stored = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, (5, 2))
    stored[:] = np.arange(10).reshape(5, 2)
    batch = {"x": Rows(stored), "y": torch.arange(5)}
    part = take(batch, torch.tensor([4, 0]))
    assert size(batch) == 5 and part["x"].tolist() == [[8, 9], [0, 1]]
    assert concat([batch, part])["x"].tolist() == [*stored.tolist(), [8, 9], [0, 1]]
    with pytest.raises(TypeError, match="take"):
        map_tensors(lambda leaf: leaf, batch)


@pytest.mark.parametrize(
    ("batch", "text"),
    [
        (torch.zeros(2, 3), "(2, 3)"),
        ({"ids": torch.zeros(4, 7), "pair": (torch.zeros(4), None)},
         "{'ids': (4, 7), 'pair': ((4,), NoneType)}"),
        ([torch.zeros(3, 5)], "list of 1 such as (3, 5)"),
        ([], "list of 0"),
        (Pair(torch.zeros(2), torch.zeros(2, 1)), "Pair{'left': (2,), 'right': (2, 1)}"),
    ],
)  # fmt: skip
def test_descriptions_name_every_part(batch: Any, text: str) -> None:
    """For messages: shapes by name."""
    assert tree.describe(batch) == text
