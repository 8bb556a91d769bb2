"""What makes a run this run: named plain values, so that another one can be told from it."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from artplus.errors import CheckpointError
from artplus.losses import Objective
from artplus.training.callbacks import Callback, LearningRate
from artplus.training.data import Arrays, Source
from artplus.training.state import State

Identity = dict[str, str]

SCHEDULED = {"lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas"} | {
    "base_momentum", "max_momentum",
}  # fmt: skip
"""Options of an optimizer that schedulers move."""

IRRELEVANT = {"verbose", "summary_writer", "batch_size"}
"""Parameters of an ART attack that change nothing here."""

SHOWN = 6
"""Differences named in a message."""

DEPTH = 6


def identity(
    state: State, data: Source, callbacks: Sequence[Callback], plan: dict[str, Any]
) -> Identity:
    """Model, optimizer, data, method, callbacks and plan as named texts.

    Args:
        state: Before the first step.
        data: What training iterates over.
        callbacks: All of them; those that only watch do not count.
        plan: Further settings by name.
    """
    module, found = state.model.module, {"device": state.generator.device.type}
    for name, value in module.state_dict().items():
        found[f"model.{name}"] = _shape(value)
    for name, child in module.named_modules():
        found[f"layer {name or '(whole)'}"] = _text(f"{type(child).__name__}({child.extra_repr()})")
    groups = state.optimizer.param_groups
    found["optimizer"] = type(state.optimizer).__name__
    moving = SCHEDULED if any(isinstance(c, LearningRate) for c in callbacks) else set()
    for i, group in enumerate(groups):
        options = {k: v for k, v in group.items() if k not in {"params", "initial_lr"} | moving}
        _describe(options, f"optimizer.group {i}", found)
        found[f"optimizer.group {i}.tensors"] = str(len(group["params"]))
    found |= _data(data) | {"data.batches per epoch": str(state.batches_per_epoch)}
    _describe(state.method, "method", found)
    _describe(plan, "plan", found)
    shaping = [callback for callback in callbacks if not callback.watches]
    found["callbacks"] = ", ".join(type(callback).__name__ for callback in shaping)
    for callback in shaping:
        if type(callback).__module__.startswith("artplus."):
            public = {k: v for k, v in vars(callback).items() if not k.startswith("_")}
            _describe(public, type(callback).__name__, found)
    return found


def refuse_other(saved: Any, own: Identity) -> None:
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


def _data(data: Source) -> Identity:
    if isinstance(data, Arrays):
        ends = [data.x[:32], data.x[-32:]]  # a digest of all would read a memory map through
        return {
            "data": "arrays",
            "data.examples": str(len(data.y)),
            "data.shape": str(tuple(data.x.shape[1:])),
            "data.labels": _digest(data.y),
            "data.inputs": _digest(*ends),
        }
    generators = len(data.order()["generators"])
    found = {"data": "loader", "data.generators": str(generators)}
    return found if data.examples is None else found | {"data.examples": str(data.examples)}


def _describe(value: Any, name: str, found: Identity, depth: int = 0) -> None:
    """Write ``value``, and what it consists of, under ``name``."""
    parts = _parts(value)
    if parts is None or depth == DEPTH:
        found[name] = _text(value) if _is_plain(value) else _named(value)
        return
    if not isinstance(value, (dict, list, tuple)):
        found[name] = _named(value)
    for part, inside in parts.items():
        _describe(inside, f"{name}.{part}", found, depth + 1)


def _parts(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Objective):  # a schedule is known by what it gives
        return _fields(value) | {"lam": [value.weight(i / 4) for i in range(5)]}
    if is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
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


def _fields(value: Any) -> dict[str, Any]:
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
        return f"{_shape(tensor)} {_digest(tensor)}"
    own = value if hasattr(value, "__qualname__") else type(value)
    return f"{own.__module__}.{own.__qualname__}"


def _shape(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"


def _digest(*tensors: Tensor) -> str:
    found = hashlib.sha256()
    for tensor in tensors:
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().tobytes())
    return found.hexdigest()[:12]


def _text(value: Any) -> str:
    """The same for 1 and 1.0, and without addresses, which differ between two runs."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return re.sub(r"0x[0-9a-fA-F]+", "0x", str(value))
