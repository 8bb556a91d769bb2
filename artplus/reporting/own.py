"""What a report says of its own model, where it was given an earlier one to measure beside it.

An analysis that knows two models names what is of each by the words ``before`` and ``after``:
lines, rows, texts, blocks. Beside another report the earlier one is a third model, so only what
is of the report's own is compared.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import TypeVar

from artplus.evaluation.section import Block, Cell, Curves, Passages, Section, Table

MODELS = frozenset({"", "model", "examples"})
"""Headings of columns whose words may name a model. Under others, as "token", they are data."""

_BEFORE = re.compile(r"\bbefore\b")
T = TypeVar("T", bound=Hashable)


def own(section: Section) -> tuple[Section, bool]:
    """The section without what is of an earlier model, and whether anything was left out."""
    captions = {block.caption for block in section.blocks}
    blocks = [
        _own(block)
        for block in section.blocks
        if (twin := _twin(block.caption)) == block.caption or twin not in captions
    ]
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
        return _named(block, "series", block.series, [line.name for line in block.series])
    if isinstance(block, Table):
        names = [_words(row) for row in block.rows]
        twins = [
            tuple(
                _twin(word) if heading in MODELS else word
                for word, heading in zip(words, block.columns, strict=False)
            )
            for words in names
        ]
        return _cut(block, "rows", block.rows, names, twins)
    if isinstance(block, Passages):
        return _named(block, "passages", block.passages, [p.title for p in block.passages])
    return block  # a row of pictures has one scale, so it stays together


def _named(block: Block, field: str, parts: Sequence[object], names: Sequence[str]) -> Block:
    return _cut(block, field, parts, names, [_twin(name) for name in names])


def _cut(
    block: Block, field: str, parts: Sequence[object], names: Sequence[T], twins: Sequence[T]
) -> Block:
    """Without the parts whose twin of the later model is there too."""
    every = set(names)
    kept = tuple(
        part
        for part, name, twin in zip(parts, names, twins, strict=True)
        if twin == name or twin not in every
    )
    if len(kept) == len(parts):
        return block
    # replace has a type for each field, and which one this is stands in a string
    return replace(block, **{field: kept})  # type: ignore[arg-type]


def _twin(name: str) -> str:
    """What the same of the later model goes by; the name itself if it is of no earlier one."""
    return _BEFORE.sub("after", name)


def _words(row: Sequence[Cell]) -> tuple[str, ...]:
    """The words at the row's beginning."""
    return tuple(str(cell) for cell in takewhile(lambda cell: isinstance(cell, str), row))
