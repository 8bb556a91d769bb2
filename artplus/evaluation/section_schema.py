"""A section as plain values and back: each block says what kind it is."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from artplus.errors import DataError
from artplus.evaluation.section import (
    Block,
    Cell,
    Curves,
    Gallery,
    Group,
    Matrix,
    Passage,
    Passages,
    Picture,
    Scatter,
    Section,
    Series,
    Table,
)

VERSION = 1
"""Raised when a reader of the old version would go wrong; new fields alone do not raise it."""

Plain = dict[str, Any]


def encode_section(section: Section) -> Plain:
    """The section as dicts, lists, strings and numbers, fit for strict JSON.

    Infinity and NaN, which JSON lacks, are the strings ``"inf"``, ``"-inf"`` and ``"nan"``; in a
    table, whose cells may be strings, ``{"float": "inf"}``. Pictures are base64 of little-endian
    float32.
    """
    return {
        "version": VERSION,
        "name": section.name,
        "title": section.title,
        "summary": section.summary,
        "blocks": [_encode_block(block) for block in section.blocks],
        "figures": {name: _number(value) for name, value in section.figures},
        "notes": list(section.notes),
        "settings": dict(section.settings),
    }


def decode_section(data: Mapping[str, Any]) -> Section:
    """The section that :func:`encode_section` made into ``data``.

    Raises:
        DataError: for a version or a kind of block not known here.
        KeyError: or TypeError, ValueError, AttributeError, if ``data`` is damaged.
    """
    if data["version"] != VERSION:
        raise DataError(
            f"this artplus reads version {VERSION} of a report's sections, got "
            f"{data['version']!r}; a newer artplus may read it"
        )
    return Section(
        name=data["name"],
        title=data["title"],
        summary=data["summary"],
        blocks=tuple(_decode_block(block) for block in data["blocks"]),
        figures=tuple((name, float(value)) for name, value in data["figures"].items()),
        notes=tuple(data["notes"]),
        settings=tuple((name, str(value)) for name, value in data.get("settings", {}).items()),
    )


def encode_array(values: NDArray[Any]) -> Plain:
    """An array of floats as its shape and base64 of little-endian float32."""
    raw = values.astype("<f4").tobytes()
    return {"shape": list(values.shape), "float32": base64.b64encode(raw).decode("ascii")}


def decode_array(data: Mapping[str, Any]) -> NDArray[np.float32]:
    """The array that :func:`encode_array` wrote."""
    raw = base64.b64decode(data["float32"], validate=True)
    return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(data["shape"])


def _encode_block(block: Block) -> Plain:
    for kind, (type_, encode, _) in _KINDS.items():
        if isinstance(block, type_):
            return {"kind": kind, "caption": block.caption, **encode(block)}
    raise DataError(f"a section holds tables, curves and the like, got {type(block).__name__}")


def _decode_block(data: Mapping[str, Any]) -> Block:
    if data["kind"] not in _KINDS:
        raise DataError(
            f"unknown kind of block {data['kind']!r}; this artplus knows {', '.join(_KINDS)}. "
            "A newer one may read it."
        )
    type_, _, decode = _KINDS[data["kind"]]
    block: Block = type_(caption=data["caption"], **decode(data))
    return block


def _encode_table(block: Table) -> Plain:
    return {
        "columns": list(block.columns),
        "units": list(block.units),
        "rows": [[_cell(cell) for cell in row] for row in block.rows],
    }


def _decode_table(data: Mapping[str, Any]) -> Plain:
    return {
        "columns": tuple(data["columns"]),
        "units": tuple(data["units"]),
        "rows": tuple(tuple(_cell_from(cell) for cell in row) for row in data["rows"]),
    }


def _encode_curves(block: Curves) -> Plain:
    axes = ("x_label", "y_label", "x_unit", "y_unit")
    return {
        **{name: getattr(block, name) for name in axes},
        "series": [
            {"name": s.name, **{k: _numbers(getattr(s, k)) for k in ("x", "y", "low", "high")}}
            for s in block.series
        ],
    }


def _decode_curves(data: Mapping[str, Any]) -> Plain:
    return {
        **{name: data[name] for name in ("x_label", "y_label", "x_unit", "y_unit")},
        "series": tuple(
            Series(
                name=s["name"],
                x=_floats(s["x"]),
                y=_maybe(s["y"]),
                low=_maybe(s["low"]),
                high=_maybe(s["high"]),
            )
            for s in data["series"]
        ),
    }


def _encode_matrix(block: Matrix) -> Plain:
    return {
        "row_label": block.row_label,
        "column_label": block.column_label,
        "rows": list(block.rows),
        "columns": list(block.columns),
        "values": [_numbers(row) for row in block.values],
        "unit": block.unit,
        "span": None if block.span is None else _numbers(block.span),
    }


def _decode_matrix(data: Mapping[str, Any]) -> Plain:
    return {
        **{name: data[name] for name in ("row_label", "column_label", "unit")},
        "span": None if data.get("span") is None else _floats(data["span"]),
        "rows": tuple(data["rows"]),
        "columns": tuple(data["columns"]),
        "values": tuple(_maybe(row) for row in data["values"]),
    }


def _encode_scatter(block: Scatter) -> Plain:
    return {
        "x_label": block.x_label,
        "y_label": block.y_label,
        "groups": [
            {"name": g.name, "x": _numbers(g.x), "y": _numbers(g.y), "labels": list(g.labels)}
            for g in block.groups
        ],
    }


def _decode_scatter(data: Mapping[str, Any]) -> Plain:
    return {
        "x_label": data["x_label"],
        "y_label": data["y_label"],
        "groups": tuple(
            Group(name=g["name"], x=_floats(g["x"]), y=_floats(g["y"]), labels=tuple(g["labels"]))
            for g in data["groups"]
        ),
    }


def _encode_gallery(block: Gallery) -> Plain:
    return {
        "rows": [
            [
                {
                    "title": p.title,
                    "text": p.text,
                    "colours": p.colours,
                    "image": encode_array(p.image),
                }
                for p in row
            ]
            for row in block.rows
        ]
    }


def _decode_gallery(data: Mapping[str, Any]) -> Plain:
    return {
        "rows": tuple(
            tuple(
                Picture(
                    title=p["title"],
                    text=p["text"],
                    colours=p["colours"],
                    image=decode_array(p["image"]),
                )
                for p in row
            )
            for row in data["rows"]
        )
    }


def _encode_passages(block: Passages) -> Plain:
    return {
        "passages": [
            {
                "title": p.title,
                "tokens": list(p.tokens),
                "weights": _numbers(p.weights),
                "text": p.text,
            }
            for p in block.passages
        ]
    }


def _decode_passages(data: Mapping[str, Any]) -> Plain:
    return {
        "passages": tuple(
            Passage(
                title=p["title"],
                tokens=tuple(p["tokens"]),
                weights=_floats(p["weights"]),
                text=p["text"],
            )
            for p in data["passages"]
        )
    }


_KINDS: dict[str, tuple[Any, Callable[[Any], Plain], Callable[[Mapping[str, Any]], Plain]]] = {
    "table": (Table, _encode_table, _decode_table),
    "curves": (Curves, _encode_curves, _decode_curves),
    "matrix": (Matrix, _encode_matrix, _decode_matrix),
    "scatter": (Scatter, _encode_scatter, _decode_scatter),
    "gallery": (Gallery, _encode_gallery, _decode_gallery),
    "passages": (Passages, _encode_passages, _decode_passages),
}


def _cell(cell: Cell) -> Any:
    if isinstance(cell, float) and not math.isfinite(cell):
        return {"float": str(float(cell))}
    return float(cell) if isinstance(cell, float) else cell


def _cell_from(value: Any) -> Cell:
    cell: Cell = float(value["float"]) if isinstance(value, dict) else value
    return cell


def _number(value: float | None) -> float | str | None:
    if value is None:
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _numbers(values: tuple[float | None, ...]) -> list[float | str | None]:
    return [_number(value) for value in values]


def _floats(values: list[float | str]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _maybe(values: list[float | str | None]) -> tuple[float | None, ...]:
    return tuple(None if value is None else float(value) for value in values)
