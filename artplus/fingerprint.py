"""Settings as named texts, so that another run is recognised."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artplus.errors import CheckpointError

Fingerprint = dict[str, str]

Parts = Callable[[Any], dict[Any, Any] | None]
"""The parts of a value by name; ``None`` if this function does not know its type."""

IRRELEVANT = {"verbose", "summary_writer", "batch_size"}
"""Parameters of an ART attack that do not affect results."""

SHOWN = 6
"""Largest number of differences in a message."""

DEPTH = 6
"""Levels of nesting that are described."""


def refuse_other(saved: Any, present: Fingerprint) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        CheckpointError: if the fingerprints differ; names the values in checkpoint and run.
    """
    if not isinstance(saved, dict):
        raise CheckpointError("this checkpoint does not say what run it is of; it is incomplete")
    names = [*present, *(name for name in saved if name not in present)]
    differ = [name for name in names if saved.get(name) != present.get(name)]
    if not differ:
        return
    shown = "; ".join(
        f"{name}: {saved.get(name, 'nothing')} in the checkpoint, "
        f"{present.get(name, 'nothing')} now"
        for name in differ[:SHOWN]
    )
    more = f"; and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    raise CheckpointError(
        f"the checkpoint is of another run: {shown}{more}. Resume with the arguments that the run "
        "began with, or begin a new one in another folder."
    )


def describe(
    value: Any, name: str, fingerprint: Fingerprint, depth: int = 0, *, parts: Parts | None = None
) -> None:
    """Add ``value`` and its parts to ``fingerprint`` under ``name``.

    Args:
        value: Plain values, tensors, functions (with the variables of their closure), dataclasses,
            ART's attacks, and dicts, lists and tuples of them.
        name: Name of the value.
        fingerprint: Changed in place.
        depth: Nesting of this call.
        parts: Splits values of further types; it is tried first.
    """
    inside = (parts(value) if parts is not None else None) or _parts(value)
    if inside is None or depth == DEPTH:
        fingerprint[name] = text(value) if _is_plain(value) else _named(value)
        return
    if not isinstance(value, (dict, list, tuple)):
        fingerprint[name] = _named(value)
    for key, part in inside.items():
        describe(part, f"{name}.{key}", fingerprint, depth + 1, parts=parts)


def _parts(value: Any) -> dict[Any, Any] | None:
    if is_dataclass(value) and not isinstance(value, type):
        return members(value)
    if isinstance(value, dict):
        return value
    if isinstance(value, (list, tuple)):
        return dict(enumerate(value)) if value else None
    if isinstance(value, functools.partial):
        return {"of": value.func, "args": value.args, **value.keywords}
    if hasattr(value, "attack_params"):  # an ART attack
        names = [p for p in value.attack_params if p not in IRRELEVANT]
        return {p: getattr(value, p, None) for p in names}
    cells = getattr(value, "__closure__", None)
    if cells:
        return dict(zip(value.__code__.co_freevars, (_cell(c) for c in cells), strict=True))
    return None


def members(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the variable has no value yet
        return None


def _is_plain(value: Any) -> bool:
    kinds = (bool, int, float, str, bytes, np.generic, torch.dtype, torch.device, list, tuple)
    return value is None or isinstance(value, kinds)


def _named(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value)
        return f"{shape(tensor)} {digest(tensor)}"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def shape(value: Any) -> str:
    """Shape and dtype of a tensor; the type of anything else."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def digest(*tensors: Tensor) -> str:
    """The first twelve hexadecimal digits of the SHA-256 of the tensors' bytes."""
    sha = hashlib.sha256()
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        sha.update(raw.numpy().tobytes())
    return sha.hexdigest()[:12]


def text(value: Any) -> str:
    """``value`` as text: equal for 1 and 1.0, and without addresses, which differ between runs."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return re.sub(r"0x[0-9a-fA-F]+", "0x", str(value))
