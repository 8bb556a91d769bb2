"""How results save themselves although the layers that make them know no file format.

A report or a training history has a method that writes it, for the convenience of users. Pages and
pictures belong to :mod:`artplus.reporting`, which stands above evaluation and training, so
``artplus/__init__.py``, which knows every layer, names the function that writes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Writer = Callable[[Any, "str | Path"], Path]

_writers: list[Writer] = []


def register_writer(writer: Writer) -> None:
    """Write results with ``writer(result, path)`` from now on; it returns the path."""
    _writers[:] = [writer]


def save(result: Any, path: str | Path) -> Path:
    """Write a report or a history in the format that the suffix of ``path`` names."""
    (writer,) = _writers  # the package registers one when it is imported
    return writer(result, path)
