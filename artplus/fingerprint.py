"""Settings as named texts, so that a run can be told from another one."""

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
"""What a value consists of, by name; ``None`` if this function does not know its kind."""

IRRELEVANT = {"verbose", "summary_writer", "batch_size"}
"""Parameters of an ART attack that change nothing here."""

SHOWN = 6
"""Differences named in a message."""

DEPTH = 6


def refuse_other(saved: Any, own: Fingerprint) -> None:
    """Refuse a checkpoint whose run was another one.

    Raises:
        CheckpointError: naming what differs, what the checkpoint has and what this run has.
    """
    if not isinstance(saved, dict):
        raise CheckpointError("this checkpoint does not say what run it is of; it is incomplete")
    names = [*own, *(name for name in saved if name not in own)]
    differ = [name for name in names if saved.get(name) != own.get(name)]
    if not differ:
        return
    shown = "; ".join(
        f"{name}: {saved.get(name, 'nothing')} in the checkpoint, {own.get(name, 'nothing')} now"
        for name in differ[:SHOWN]
    )
    more = f"; and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
    raise CheckpointError(
        f"the checkpoint is of another run: {shown}{more}. Resume with the arguments that the run "
        "began with, or begin a new one in another folder."
    )


def describe(
    value: Any, name: str, found: Fingerprint, depth: int = 0, *, parts: Parts | None = None
) -> None:
    """Write ``value``, and what it consists of, under ``name``.

    Args:
        value: Plain values, tensors, functions (with what they close over), dataclasses, ART's
            attacks, and dicts, lists and tuples of them.
        name: Of the value.
        found: Is written to.
        depth: How deep this is inside what was first asked for.
        parts: Asked first about what a value consists of.
    """
    inside = (parts(value) if parts is not None else None) or _parts(value)
    if inside is None or depth == DEPTH:
        found[name] = text(value) if _is_plain(value) else _named(value)
        return
    if not isinstance(value, (dict, list, tuple)):
        found[name] = _named(value)
    for part, own in inside.items():
        describe(own, f"{name}.{part}", found, depth + 1, parts=parts)


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
    except ValueError:  # not filled yet
        return None


def _is_plain(value: Any) -> bool:
    kinds = (bool, int, float, str, bytes, np.generic, torch.dtype, torch.device, list, tuple)
    return value is None or isinstance(value, kinds)


def _named(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        tensor = torch.as_tensor(value)
        return f"{shape(tensor)} {digest(tensor)}"
    own = value if hasattr(value, "__qualname__") else type(value)
    return f"{own.__module__}.{own.__qualname__}"


def shape(value: Any) -> str:
    """Shape and dtype of a tensor; of anything else its type."""
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def digest(*tensors: Tensor) -> str:
    """What their bytes come to, in twelve hexadecimal digits."""
    found = hashlib.sha256()
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().tobytes())
    return found.hexdigest()[:12]


def text(value: Any) -> str:
    """The same for 1 and 1.0, and without addresses, which differ between two runs."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return re.sub(r"0x[0-9a-fA-F]+", "0x", str(value))
