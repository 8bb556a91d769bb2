"""An attack's settings: its radius as one number, and all of them for the record."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from artplus.attacks._base import Attack, Relative, resolve
from artplus.errors import ConfigurationError
from artplus.evaluation.data import EvaluationData
from artplus.geometry import geometry
from artplus.mapped import Inputs, Rows, chunks
from artplus.spaces import InputSpace, Space


def largest_radius_in(attack: Attack, data: EvaluationData) -> float:
    """The radius as one number, in the space that is perturbed; a relative one in its own unit.

    Raises:
        ConfigurationError: if it does not fit the inputs.
    """
    space = data.space
    column = space.floats(data.x) if isinstance(space, InputSpace) else None
    if isinstance(column, (Tensor, Rows)):
        return largest_radius(attack, column)
    if not isinstance(attack.eps, (int, float)):
        raise ConfigurationError(
            f"in this space a radius must be one number, got {attack.eps!r}: inputs have several "
            "shapes, or the perturbation starts at zero"
        )
    space.geometry(attack.norm)
    return float(attack.eps)


def largest_radius(attack: Attack, x: Inputs) -> float:
    """The radius as one number; the largest where it differs per feature or example.

    Raises:
        ConfigurationError: if it does not fit the inputs.
    """
    if isinstance(attack.eps, Relative):
        return max(_largest(attack, part) for part in chunks(x))
    # Any other radius depends on shape and dtype alone, so inputs without memory will do.
    return _largest(attack, torch.empty((), dtype=x.dtype, device=x.device).expand(x.shape))


def _largest(attack: Attack, x: Tensor) -> float:
    radius = resolve(attack.eps, x, geometry(attack.norm))
    return float(torch.as_tensor(radius, dtype=torch.float64).max())


def space_in_words(space: Space) -> str:
    """What a radius bounds and in which unit; empty for whole inputs in their own units.

    Example:
        >>> from artplus.spaces import EmbeddingSpace
        >>> space_in_words(EmbeddingSpace(per="token", relative=True))
        'per token, embedding space, relative to the mean row norm'
    """
    if isinstance(space, InputSpace):
        return ""
    words = [f"per {space.per}", f"{type(space).__name__.removesuffix('Space').lower()} space"]
    if layers := getattr(space, "layers", None):
        words[-1] += f" of {', '.join(map(str, layers))}"
    if getattr(space, "relative", False):
        words.append("relative to the mean row norm")
    return ", ".join(words)


def parameters(attack: Attack) -> dict[str, Any]:
    """An attack's settings as plain values; of what has none, the type's name."""
    settings: dict[str, Any] = {"attack": type(attack).__name__}
    if dataclasses.is_dataclass(attack):
        for entry in dataclasses.fields(attack):
            settings[entry.name] = plain(getattr(attack, entry.name))
    return settings


def plain(value: Any) -> Any:
    """A setting that JSON can hold."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(str(plain(item)) for item in value)
    shape = getattr(value, "shape", None)
    if shape is not None:
        return float(value) if len(shape) == 0 else f"array {tuple(shape)}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {e.name: plain(getattr(value, e.name)) for e in dataclasses.fields(value)}
        return f"{type(value).__name__}({', '.join(f'{k}={v}' for k, v in members.items())})"
    return type(value).__name__
