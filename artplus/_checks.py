"""Checks of numbers and arrays that users pass: what was expected, what came, what to do."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from artplus.errors import ConfigurationError, DataError, UnsupportedEstimatorError
from artplus.mapped import Inputs, chunks

UNLABELLED = -100
"""The class number of an example without a label, as in torch's ``ignore_index``."""


def nonnegative(name: str, value: float) -> float:
    """Return ``value`` as a float if it is a finite number >= 0."""
    return _number(name, value, "a finite number >= 0", lambda v: v >= 0)


def positive(name: str, value: float) -> float:
    """Return ``value`` as a float if it is a finite number > 0."""
    return _number(name, value, "a finite number > 0", lambda v: v > 0)


def fraction(name: str, value: float) -> float:
    """Return ``value`` as a float if it lies in [0, 1)."""
    return _number(name, value, "a number in [0, 1)", lambda v: 0 <= v < 1)


def count(name: str, value: int, *, least: int = 1) -> int:
    """Return ``value`` as an int if it is a whole number >= ``least``."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least:
        raise ConfigurationError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number


def seed(name: str, value: int) -> int:
    """Return ``value`` as an int if it is a whole number in 0..2**64-1, as torch takes it."""
    number = count(name, value, least=0)
    if number >= 2**64:
        raise ConfigurationError(f"{name} must be less than 2**64, got {value!r}")
    return number


def flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is true or false."""
    if not isinstance(value, (bool, np.bool_)):
        raise ConfigurationError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def choice(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Refuse ``value`` unless it is one of ``allowed``; an array is none, and 1 is not ``True``."""
    if not any(type(value) is type(one) and value == one for one in allowed):
        *others, last = map(repr, allowed)
        raise ConfigurationError(f"{name} must be {', '.join(others)} or {last}, got {value!r}")


def text(name: str, value: str | None) -> None:
    """Refuse ``value`` unless it is a string or ``None``."""
    if value is not None and not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a string, got {value!r}")


def several(name: str, value: Any, what: str) -> tuple[Any, ...]:
    """The members of ``value``, if it is a list, a tuple or another collection of ``what``."""
    is_one = isinstance(value, (str, bytes, Mapping, torch.nn.Module, type))
    try:
        if not is_one:
            return tuple(value)
    except TypeError:  # not iterable, or an array of no axes
        pass
    raise ConfigurationError(f"{name} must be a list of {what}, got {value!r}")


def numbers(name: str, value: Any) -> torch.Tensor:
    """``value`` as a tensor of real numbers, in the precision of single floats."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigurationError(f"{name} must hold numbers, got {value!r}") from None
    if tensor.is_complex():
        raise ConfigurationError(f"{name} must hold real numbers, got {tensor.dtype}")
    return tensor.float()


def path(name: str, value: str | os.PathLike[str]) -> Path:
    """Return ``value`` as a path if it is one."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str):
        raise ConfigurationError(f"{name} must be a path, got {value!r}")
    if "\0" in os.fspath(value):
        raise ConfigurationError(f"{name} must be a path, got {value!r}, which no file can have")
    return Path(value)


def _number(name: str, value: Any, wanted: str, holds: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ConfigurationError(f"{name} must be {wanted}, got {value!r}") from None
    if isinstance(value, (bool, str, bytes)) or not math.isfinite(number) or not holds(number):
        raise ConfigurationError(f"{name} must be {wanted}, got {value!r}")
    return number


def input_shape(x: Inputs, shape: tuple[int, ...] | None, name: str = "x") -> None:
    """Refuse inputs that are empty or misshapen, without a look at their values.

    Raises:
        DataError: with both shapes, and a guess where the axes are in another order.
    """
    if x.ndim < 1 or len(x) == 0:
        raise DataError(f"{name} must hold at least one example, got shape {tuple(x.shape)}")
    if shape is not None and tuple(x.shape[1:]) != tuple(shape):
        raise DataError(
            f"{name} must have shape (batch, {', '.join(map(str, shape))}), got {tuple(x.shape)}."
            + _layout_hint(tuple(x.shape[1:]), tuple(shape))
        )


def inputs(
    x: Inputs,
    *,
    shape: tuple[int, ...] | None = None,
    low: torch.Tensor | float | None = None,
    high: torch.Tensor | float | None = None,
    name: str = "x",
) -> None:
    """Refuse inputs that are empty, misshapen, not finite or outside the clip range.

    They are looked at in chunks, so a memory map is never held whole.

    Args:
        x: ``(batch, *input)`` floats.
        shape: Expected ``*input``; ``None`` skips the check.
        low: Least allowed value, in the units of ``x``; ``None`` is unbounded.
        high: Greatest allowed value.
        name: How to call ``x`` in the message.

    Raises:
        DataError: with the first reason found.
    """
    input_shape(x, shape, name)
    bad, outside = 0, False
    for part in chunks(x):
        finite = torch.isfinite(part)
        if not bool(finite.all()):
            bad += int((~finite.reshape(len(part), -1).all(1)).sum())
        outside = outside or _outside(part, low, high)
    if bad:
        raise DataError(
            f"{name} must be finite, but {bad} of {len(x)} examples hold NaN or infinity. "
            "Clean or drop them before training."
        )
    if outside:
        least = min(float(part.min()) for part in chunks(x))
        greatest = max(float(part.max()) for part in chunks(x))
        raise DataError(
            f"{name} must lie in clip_values ({_brief(low)}, {_brief(high)}), got values in "
            f"[{least:.4g}, {greatest:.4g}]. Was it normalised or left in 0-255? "
            "Pass raw inputs in the range of clip_values; put normalisation inside the model or "
            "in the estimator's preprocessing=(mean, std)."
        )


def class_labels(
    y: torch.Tensor,
    *,
    n: int,
    classes: int | None,
    name: str = "y",
    unlabelled: bool = False,
) -> None:
    """Refuse class labels of a wrong count, shape, dtype or range.

    Args:
        y: ``(n,)`` whole numbers in ``0..classes-1``, or ``(n, classes)`` rows that sum to one.
        n: Number of inputs.
        classes: Number of classes, where known.
        name: How to call ``y`` in the message.
        unlabelled: Whether -100 may stand for an example without a label.

    Raises:
        DataError: with the first reason found.
    """
    if y.ndim == 0 or len(y) == 0:
        raise DataError(f"{name} must hold at least one label, got shape {tuple(y.shape)}")
    if len(y) != n:
        raise DataError(f"{name} must have one label per input: {n} inputs, {len(y)} labels")
    if y.ndim == 1:
        if y.is_floating_point() or y.dtype == torch.bool or y.is_complex():
            raise DataError(
                f"{name} must hold whole class numbers (int64), got {y.dtype}. For a regression "
                "wrap the model with PyTorchRegressor instead."
            )
        if not unlabelled:
            all_labelled(y, name)
        y = y[y != UNLABELLED]
        if len(y) == 0:
            return
        if int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes):
            upper = "" if classes is None else f"..{classes - 1}"
            raise DataError(
                f"{name} must lie in 0{upper}, got values in [{int(y.min())}, {int(y.max())}]. "
                "Do the labels start at 1, or does nb_classes differ from the model's outputs?"
            )
    elif y.ndim == 2:
        if classes is not None and y.shape[1] != classes:
            raise DataError(
                f"{name} as rows must have shape ({n}, {classes}), got {tuple(y.shape)}"
            )
        rows = y.sum(1, dtype=torch.float64)
        negative = any(bool((part < 0).any()) for part in chunks(y))
        if negative or not torch.allclose(rows, torch.ones_like(rows), atol=1e-4):
            raise DataError(
                f"{name} as rows must be one-hot or soft labels (>= 0, summing to 1); "
                f"row sums lie in [{float(rows.min()):.4g}, {float(rows.max()):.4g}]"
            )
    else:
        raise DataError(
            f"{name} must be ({n},) class numbers or ({n}, classes) rows, got {tuple(y.shape)}"
        )


def all_labelled(y: torch.Tensor, name: str = "y") -> None:
    """Refuse class numbers that mark examples without a label.

    Raises:
        DataError: with their number and the remedy.
    """
    missing = int((y == UNLABELLED).sum())
    if missing:
        raise DataError(
            f"{missing} of {len(y)} labels in {name} are {UNLABELLED}, which marks an example "
            "without a label. Only training with a loss that has a use for such examples takes "
            "them, as loss='vat' does; they cannot be validated or evaluated. Leave them out, or "
            "use that loss."
        )


def several_logits(outputs: torch.Tensor) -> None:
    """Refuse a single output under a loss over classes: there is no class to lose to.

    Args:
        outputs: Predictions, ``(batch, classes)``.

    Raises:
        UnsupportedEstimatorError: if there is one column.
    """
    if outputs.ndim == 2 and outputs.shape[1] == 1:
        raise UnsupportedEstimatorError(
            "a classifier under cross-entropy must return logits (batch, classes) with at least "
            f"two classes, got {tuple(outputs.shape)}: the softmax of one output is 1 whatever the "
            "input, so nothing is learned and no attack succeeds. One logit for two classes: give "
            "loss=torch.nn.BCEWithLogitsLoss(). Else give the model an output for each class; a "
            "regression wants a loss such as MSELoss."
        )


def _outside(
    x: torch.Tensor, low: torch.Tensor | float | None, high: torch.Tensor | float | None
) -> bool:
    slack = 1e-6
    if low is not None and bool((x < torch.as_tensor(low).to(x) - slack).any()):
        return True
    return high is not None and bool((x > torch.as_tensor(high).to(x) + slack).any())


def _layout_hint(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    if sorted(got) == sorted(wanted) and len(got) == 3:
        return " The axes look swapped: PyTorch wants channels first, x.transpose(0, 3, 1, 2)."
    if (1, *got) == wanted:
        return " The channel axis is missing: x[:, None]."
    return " input_shape of the estimator and the data must agree."


def channels_hint(x: Any) -> str:
    """A guess for inputs that a model cannot take: images whose channels come last."""
    if isinstance(x, torch.Tensor) and x.ndim == 4 and x.shape[3] < x.shape[1]:
        return " Images are (batch, channels, height, width) in torch: x.transpose(0, 3, 1, 2)."
    return ""


def _brief(bound: Any) -> str:
    if bound is None:
        return "unbounded"
    values = torch.as_tensor(bound)
    if values.numel() == 1:
        return f"{float(values):g}"
    return f"{float(values.min()):g}..{float(values.max()):g} per feature"
