"""The identity of an evaluation: model, data, attacks and settings as named texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from artplus.attacks._base import Attack
from artplus.evaluation.data import EvaluationData
from artplus.evaluation.provenance import versions
from artplus.fingerprint import Fingerprint, describe, digest, shape, text


def fingerprint(
    data: EvaluationData,
    attacks: Mapping[str, Attack],
    digest_of_data: str,
    settings: Mapping[str, Any],
) -> Fingerprint:
    """Everything that decides the result of each attack on each example.

    Args:
        data: Model and data.
        attacks: By name, in order.
        digest_of_data: Digest of inputs and labels.
        settings: Further ones by name.
    """
    key = {"artplus": versions()["artplus"], "device": data.device.type}
    module = data.model.module
    for name, child in module.named_modules():
        key[f"layer {name or '(whole)'}"] = text(f"{type(child).__name__}({child.extra_repr()})")
    for name, value in module.state_dict().items():
        key[f"model.{name}"] = shape(value)
        if isinstance(value, Tensor):
            key[f"model.{name}"] += f" {digest(value)}"
    describe(data.model.task, "task", key)
    describe(data.model.forward, "forward", key, parts=_art)
    if not module.state_dict():  # a model that only predicts: known by its predictions
        _, x, y, _ = data.batch(torch.arange(min(data.n, data.batch_size)))
        key["model.predictions"] = digest(data.score(x, y).predictions)
    key["data"], key["data.examples"] = digest_of_data, str(data.n)
    describe(data.space, "space", key)
    key["attacks"] = ", ".join(attacks)
    for name, attack in attacks.items():
        describe(attack, f"attack {name}", key, parts=_attributes)
    describe({**settings, "batch_size": data.batch_size}, "settings", key)
    return key


def _attributes(value: Any) -> dict[Any, Any] | None:
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
