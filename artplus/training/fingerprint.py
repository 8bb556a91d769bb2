"""The settings that identify a run, as named plain texts, so that another run is recognised."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from artplus.fingerprint import Fingerprint, describe, members, shape, text
from artplus.fingerprint import refuse_other as refuse_other
from artplus.losses import Objective
from artplus.mapped import Rows, as_tensor, chunks
from artplus.seeding import seeded
from artplus.training.callbacks import Callback, LearningRate, Validation
from artplus.training.data import Arrays, Loaded, Source
from artplus.training.state import State
from artplus.tree import describe as describe_tree
from artplus.tree import leaves, take

SCHEDULED = {"lr", "initial_lr", "max_lr", "min_lr", "momentum", "betas"} | {
    "base_momentum", "max_momentum",
}  # fmt: skip
"""Options of an optimizer that schedulers change."""


def fingerprint(
    state: State, data: Source, callbacks: Sequence[Callback], plan: dict[str, Any]
) -> Fingerprint:
    """Model, optimizer, data, method, callbacks and plan as named texts.

    Args:
        state: Before the first step.
        data: Batches of the training data.
        callbacks: All of them; those that only watch are ignored.
        plan: Further settings by name.
    """
    module, settings = state.model.module, {"device": state.generator.device.type}
    for name, value in module.state_dict().items():
        settings[f"model.{name}"] = shape(value)
    for name, child in module.named_modules():
        settings[f"layer {name or '(whole)'}"] = text(
            f"{type(child).__name__}({child.extra_repr()})"
        )
    groups = state.optimizer.param_groups
    settings["optimizer"] = type(state.optimizer).__name__
    scheduled = SCHEDULED if any(isinstance(c, LearningRate) for c in callbacks) else set()
    for i, group in enumerate(groups):
        options = {k: v for k, v in group.items() if k not in {"params", "initial_lr"} | scheduled}
        describe(options, f"optimizer.group {i}", settings)
        settings[f"optimizer.group {i}.tensors"] = str(len(group["params"]))
    settings |= _data(data) | {"data.batches per epoch": str(state.batches_per_epoch)}
    describe(state.method, "method", settings, parts=_objective)
    describe(plan, "plan", settings, parts=_objective)
    shaping = [callback for callback in callbacks if not callback.watches]
    for callback in shaping:
        if isinstance(callback, Validation) and isinstance(callback.data, (Arrays, Loaded)):
            held_out = _data(callback.data)
            settings |= {f"validation {name}": value for name, value in held_out.items()}
    settings["callbacks"] = ", ".join(type(callback).__name__ for callback in shaping)
    for callback in shaping:
        if type(callback).__module__.startswith("artplus."):
            public = {k: v for k, v in vars(callback).items() if not k.startswith("_")}
            describe(public, type(callback).__name__, settings, parts=_objective)
    return settings


def _data(data: Source) -> Fingerprint:
    if isinstance(data, Arrays):
        return {
            "data": "arrays",
            "data.examples": str(data.examples),
            "data.shape": describe_tree(take(data.x, slice(0, 1))),
            "data.labels": _digest(data.y),
            "data.inputs": _digest(data.x),
        }
    generators = len(data.order()["generators"])
    settings = {"data": "loader", "data.generators": str(generators)}
    if data.examples is not None:
        settings["data.examples"] = str(data.examples)
    rows = _rows(data.rows)
    return settings if rows is None else settings | {"data.rows": rows}


def _rows(rows: Any) -> str | None:
    """A digest of what a loader reads from: tensors whole, anything else by three of its rows.

    ``None`` where rows cannot be asked for by their number, or differ from one time to the next.
    """
    if rows is None:
        return None
    if isinstance(rows, TensorDataset):
        return _digest(rows.tensors)
    n = len(rows)
    if n == 0:
        return None

    def look() -> str:
        with seeded(0):  # for random augmentation
            return _digest([rows[k] for k in (0, n // 2, n - 1)])

    try:
        seen = look()
        return seen if look() == seen else None
    except Exception:  # a data set of the user's may refuse to be asked out of order, in any way
        return None


def _digest(tree: Any) -> str:
    """Shapes and values of all arrays in a tree, read in chunks."""
    sha = hashlib.sha256()
    for leaf in _arrays(tree):
        sha.update(_shape(leaf).encode())
        for part in chunks(leaf) if leaf.ndim else [as_tensor(leaf)]:
            sha.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:12]


def _arrays(value: Any) -> Iterator[Tensor | Rows]:
    """The arrays and numbers of a row or a tree as tensors, in order."""
    if isinstance(value, (bool, int, float, np.ndarray, np.generic)):
        yield torch.as_tensor(value)
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _arrays(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _arrays(part)
    else:
        yield from leaves(value)


def _shape(leaf: Any) -> str:
    """Shape and dtype."""
    return f"{tuple(leaf.shape)} {leaf.dtype}"


def _objective(value: Any) -> dict[Any, Any] | None:
    """An objective's parts; a schedule of λ is represented by five of its values."""
    if not isinstance(value, Objective):
        return None
    return members(value) | {"lam": [value.weight(i / 4) for i in range(5)]}
