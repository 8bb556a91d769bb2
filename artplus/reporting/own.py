"""What a report says of its own model, where it was given an earlier one to measure beside it.

An analysis that knows two models names what is of each by the words ``before`` and ``after``:
lines, rows, texts, blocks. Beside another report the earlier one is a third model, so only what
is of the report's own is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from artplus.evaluation.section import Block, Cell, Curves, Passages, Section, Table

_BEFORE = re.compile(r"\bbefore\b")
T = TypeVar("T")


def own(section: Section) -> tuple[Section, bool]:
    """The section without what is of an earlier model, and whether anything was left out."""
    captions = {block.caption for block in section.blocks}
    blocks = [_own(b) for b in section.blocks if not _is_other(b.caption, captions)]
    cut = len(blocks) < len(section.blocks) or any(
        new is not old for new, old in zip(blocks, section.blocks, strict=False)
    )
    return (replace(section, blocks=tuple(blocks)), True) if cut else (section, False)


def thing(name: str) -> str:
    """What a line or row is of, without the word for its model.

    Example:
        >>> thing("after, clean"), thing("after"), thing("all, after"), thing("class 3")
        ('clean', 'model', 'all', 'class 3')
    """
    return ", ".join(part for part in name.split(", ") if part != "after") or "model"


def plain(caption: str) -> str:
    """A caption without the words that tell two models apart."""
    return re.sub(r"[ ,]*\b(after|hardening)\b", "", caption)


def _own(block: Block) -> Block:
    """The block itself where nothing in it is of an earlier model."""
    if isinstance(block, Curves):
        return _cut(block, "series", block.series, [line.name for line in block.series])
    if isinstance(block, Table):
        return _cut(block, "rows", block.rows, [_key(row) for row in block.rows])
    if isinstance(block, Passages):
        return _cut(block, "passages", block.passages, [p.title for p in block.passages])
    return block  # a row of pictures has one scale, so it stays together


def _cut(block: Block, field: str, parts: Sequence[T], names: Sequence[str]) -> Block:
    kept = _kept(parts, names)
    return block if len(kept) == len(parts) else replace(block, **{field: kept})  # type: ignore[arg-type]


def _kept(parts: Sequence[T], names: Sequence[str]) -> tuple[T, ...]:
    every = set(names)
    return tuple(p for p, name in zip(parts, names, strict=True) if not _is_other(name, every))


def _is_other(name: str, every: Iterable[str]) -> bool:
    """Whether the name is of an earlier model: its twin of the later one is there too."""
    twin = _BEFORE.sub("after", name)
    return twin != name and twin in every


def _key(row: Sequence[Cell]) -> str:
    """The words at the row's beginning."""
    words = []
    for cell in row:
        if not isinstance(cell, str):
            break
        words.append(cell)
    return "\n".join(words)
