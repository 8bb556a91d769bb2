"""The settings that identify a run, as named plain texts, so that another run is recognised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from artplus.fingerprint import Fingerprint, describe, digest, members, shape, text
from artplus.fingerprint import refuse_other as refuse_other
from artplus.losses import Objective
from artplus.training.callbacks import Callback, LearningRate
from artplus.training.data import Arrays, Source
from artplus.training.state import State
from artplus.tree import Tree, leaves, take
from artplus.tree import describe as describe_tree

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
    settings["callbacks"] = ", ".join(type(callback).__name__ for callback in shaping)
    for callback in shaping:
        if type(callback).__module__.startswith("artplus."):
            public = {k: v for k, v in vars(callback).items() if not k.startswith("_")}
            describe(public, type(callback).__name__, settings, parts=_objective)
    return settings


def _data(data: Source) -> Fingerprint:
    if isinstance(data, Arrays):
        # A digest of all inputs would read a whole memory map, so it covers both ends only.
        ends = [take(data.x, slice(0, 32)), take(data.x, slice(-32, None))]
        return {
            "data": "arrays",
            "data.examples": str(data.examples),
            "data.shape": describe_tree(take(data.x, slice(0, 1))),
            "data.labels": digest(*_tensors(data.y)),
            "data.inputs": digest(*_tensors(ends)),
        }
    generators = len(data.order()["generators"])
    settings = {"data": "loader", "data.generators": str(generators)}
    return settings if data.examples is None else settings | {"data.examples": str(data.examples)}


def _tensors(tree: Tree) -> list[Tensor]:
    return [leaf for leaf in leaves(tree) if isinstance(leaf, Tensor)]


def _objective(value: Any) -> dict[Any, Any] | None:
    """An objective's parts; a schedule of λ is represented by five of its values."""
    if not isinstance(value, Objective):
        return None
    return members(value) | {"lam": [value.weight(i / 4) for i in range(5)]}
