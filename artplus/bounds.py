"""The range of valid inputs, given or inferred from the data and said aloud, and radii in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from artplus import _checks
from artplus.errors import ConfigurationError
from artplus.mapped import Inputs, chunks
from artplus.spaces import InputSpace, Space
from artplus.tree import Tree

Bounds = tuple[Any, Any] | Literal["auto"] | None
"""Least and greatest valid input; ``"auto"`` infers them, ``None`` is unbounded."""

UNBOUNDED = "inputs are unbounded"


def make_space(
    space: Space | None,
    bounds: Bounds,
    normalization: tuple[Any, Any] | None = None,
    mask: Any = None,
) -> Space | None:
    """The space that a door's options describe; ``None`` if it is to be inferred from the data.

    Args:
        space: As it is; then the others are left at their defaults.
        bounds: Numbers, or one per channel or feature, in raw units.
        normalization: ``(mean, std)`` that the data has been normalised by; bounds, radius and
            perturbation are then in raw units.
        mask: Zero where an input must not change.

    Raises:
        ConfigurationError: for options that contradict each other or are no range.
    """
    if space is not None:
        if not isinstance(space, Space):
            raise ConfigurationError(
                f"space must be InputSpace, EmbeddingSpace, LatentSpace or one of your own, got "
                f"{space!r}"
            )
        given = {"normalization=": normalization is not None, "mask=": mask is not None}
        given["bounds="] = not (bounds is None or (isinstance(bounds, str) and bounds == "auto"))
        if any(given.values()):
            names = " and ".join(name for name, is_given in given.items() if is_given)
            raise ConfigurationError(
                f"leave out {names} where space= is given; the space says it itself: "
                "InputSpace(low, high, mask=..., normalization=...)"
            )
        return space
    if isinstance(bounds, str) and bounds == "auto":
        if normalization is None:
            return None
        bounds = (0.0, 1.0)  # what loaders normalise are images in [0, 1]
    low, high = parse_bounds(bounds)
    return InputSpace(low, high, _mask(mask), normalization=normalization)


def parse_bounds(
    bounds: Any, name: str = "bounds"
) -> tuple[float | Tensor | None, float | Tensor | None]:
    """A pair of numbers, or of tensors with one value per channel or feature.

    Raises:
        ConfigurationError: if it is no pair, or the least is not below the greatest.

    Example:
        >>> parse_bounds((0, 1)), parse_bounds(None)
        ((0.0, 1.0), (None, None))
    """
    if bounds is None:
        return None, None
    no_axis = isinstance(bounds, (np.ndarray, Tensor)) and bounds.ndim == 0
    if (
        isinstance(bounds, str)
        or not isinstance(bounds, Iterable)
        or no_axis
        or len([*bounds]) != 2
    ):
        raise ConfigurationError(
            f"{name} must be {'' if name != 'bounds' else repr('auto') + ', '}None or a pair "
            f"(low, high), got {bounds!r}"
        )
    low, high = (_bound(value) for value in bounds)
    if not bool((torch.as_tensor(low) < torch.as_tensor(high)).all()):
        raise ConfigurationError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high


def _bound(value: Any) -> float | Tensor:
    """As float32 has it, since inputs do; one number stays a number and needs no device."""
    try:
        array = np.asarray(
            value.detach().cpu() if isinstance(value, Tensor) else value, dtype=np.float32
        )
    except (TypeError, ValueError):
        raise ConfigurationError(f"a bound must be a number or numbers, got {value!r}") from None
    if not np.isfinite(array).all():
        raise ConfigurationError(f"a bound must be finite, got {value!r}; None is unbounded")
    return float(array) if array.size == 1 else torch.from_numpy(array.copy())


def infer(values: Inputs) -> tuple[tuple[float, float] | None, str]:
    """The usual range that the inputs lie in, and a sentence that says so.

    [0, 1]; for images [0, 255]; [-1, 1]; anything else is taken as unbounded.

    Args:
        values: ``(n, *input)`` floats.

    Example:
        >>> infer(torch.rand(4, 3))[0]
        (0.0, 1.0)
    """
    least, greatest = math.inf, -math.inf
    for part in chunks(values):
        least, greatest = min(least, float(part.min())), max(greatest, float(part.max()))
    seen = f"inputs lie in [{least:.4g}, {greatest:.4g}]"
    for low, high, images in ((0.0, 1.0, False), (-1.0, 1.0, False), (0.0, 255.0, True)):
        if low <= least and greatest <= high and (values.ndim > 2 or not images):
            told = f"{seen}: attacks stay in [{low:g}, {high:g}], inferred from the data; "
            return (low, high), f"{told}bounds=(low, high) changes that, bounds=None takes it away"
    return None, (
        f"{seen}, which is no usual range, so {UNBOUNDED}: attacks are limited by the radius "
        "alone. Give bounds=(low, high) if there is a range, or normalization=(mean, std) if the "
        "data has been normalised"
    )


def inferred_space(x: Tree, mask: Any = None) -> tuple[InputSpace, str]:
    """Inputs within the usual range that ``x`` lies in, and a sentence that names the range.

    Args:
        x: Inputs; of a list of images the first is looked at.
        mask: Zero where an input must not change.
    """
    column = InputSpace().floats(x)
    limits, note = infer(column[0][None] if isinstance(column, list) else column)
    low, high = limits or (None, None)
    return InputSpace(low, high, _mask(mask)), note


def _mask(mask: Any) -> Tensor | None:
    return None if mask is None else _checks.numbers("mask", mask)


def check_range(inputs: Tree, space: InputSpace, name: str = "x") -> None:
    """Refuse inputs that are empty, not finite or outside the range, in the range's own units.

    Raises:
        DataError: with the first reason found.
    """
    column = space.floats(inputs)
    for part in column if isinstance(column, list) else [column]:
        if space.normalization is None:
            at = space.on(part[:1]) if part.ndim else space
            _checks.inputs(part, low=at.low, high=at.high, name=name)
            continue
        _checks.inputs(part, name=name)
        for chunk in chunks(part):
            raw = space.lift(None, chunk)
            at = space.on(raw)
            _checks.inputs(raw, low=at.low, high=at.high, name=f"{name}, before normalisation,")


def check_radius(eps: Any, norm: float, space: Space | None, shape: tuple[int, ...]) -> None:
    """Refuse a radius that reaches across the whole range of valid inputs.

    Args:
        eps: A radius; anything but a number is left alone.
        norm: Its norm.
        space: With its range, if there is one.
        shape: Of one input.

    Raises:
        ConfigurationError: with the likely meaning.
    """
    width = None if space is None else space.width()
    if width is None or isinstance(eps, bool) or not isinstance(eps, (int, float)):
        return
    if not math.isfinite(eps):
        return
    widest = width * (1.0 if math.isinf(norm) else math.prod(shape) ** (1 / norm))
    if eps < widest:
        return
    hint = f" Did you mean {eps:g}/255?" if width <= 2 and eps >= 1 else ""
    raise ConfigurationError(
        f"eps={eps:g} is as wide as the whole range of valid inputs ({width:g} per feature), so an "
        f"attack may turn any input into any other.{hint}"
    )
