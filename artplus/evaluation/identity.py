"""What makes an evaluation this one: model, data, attacks and settings as named texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from artplus.attacks._base import Attack
from artplus.described import Identity, describe, digest, shape, text
from artplus.evaluation.bench import Bench
from artplus.evaluation.provenance import versions


def identity(
    bench: Bench, attacks: Mapping[str, Attack], data: str, settings: Mapping[str, Any]
) -> Identity:
    """Everything that decides what each attack does to each example.

    Args:
        bench: Model and data.
        attacks: By name, in order.
        data: Digest of inputs and labels.
        settings: Further ones by name.
    """
    found = {"artplus": versions()["artplus"], "device": bench.device.type}
    module = bench.model.module
    for name, child in module.named_modules():
        found[f"layer {name or '(whole)'}"] = text(f"{type(child).__name__}({child.extra_repr()})")
    for name, value in module.state_dict().items():
        found[f"model.{name}"] = shape(value)
        if isinstance(value, Tensor):
            found[f"model.{name}"] += f" {digest(value)}"
    describe(bench.model.criterion, "loss", found)
    describe(bench.model.forward, "forward", found, parts=_art)
    if not module.state_dict():  # a model behind predict: known by what it says
        _, x, y, _ = bench.batch(torch.arange(min(len(bench.x), bench.batch_size)))
        found["model.predictions"] = digest(bench.score(x, y).predictions)
    found["data"], found["data.examples"] = data, str(len(bench.x))
    describe(bench.space, "space", found)
    describe(bench.mistakes, "mistakes", found)
    found["attacks"] = ", ".join(attacks)
    for name, attack in attacks.items():
        describe(attack, f"attack {name}", found, parts=_own)
    describe({**settings, "batch_size": bench.batch_size}, "settings", found)
    return found


def _own(value: Any) -> dict[Any, Any] | None:
    """What an attack of somebody's own class is made of."""
    if isinstance(value, Attack) and not isinstance(value, type) and hasattr(value, "__dict__"):
        return None if dataclasses.is_dataclass(value) else vars(value)
    return None


def _art(value: Any) -> dict[Any, Any] | None:
    """What an ART estimator does to its inputs."""
    if hasattr(value, "preprocessing_operations"):
        return {"preprocessing": value.preprocessing_operations}
    names = getattr(value, "params", None)
    return {p: getattr(value, p, None) for p in names} if isinstance(names, list) else None
