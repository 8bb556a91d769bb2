"""The settings of an analysis as short texts, so that two sections can be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from artplus import fingerprint
from artplus.evaluation import wording
from artplus.evaluation.analyses._base import Subject
from artplus.mapped import as_tensor

LONGEST = 80
"""Characters of a setting. A longer one is shown as its beginning and a digest."""


def settings(analysis: Any, subject: Subject) -> tuple[tuple[str, str], ...]:
    """The fields of an analysis by name, and ball, seed and size of the report.

    Models and tokenizers are named by their class, whatever their weights.
    """
    texts: dict[str, str] = {}
    if dataclasses.is_dataclass(analysis):
        texts = {name: _short(value) for name, value in fingerprint.members(analysis).items()}
    report = subject.report
    if report.eps is not None and report.norm is not None:
        texts["ball of the report"] = wording.ball(report.norm, report.eps, report.space)
    texts["seed of the report"] = str(subject.seed)
    texts["examples of the report"] = str(report.n)
    return tuple(texts.items())


def _short(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        text = _array(value)
    elif isinstance(value, dict):
        text = ", ".join(f"{name}: {_short(entry)}" for name, entry in value.items())
    elif isinstance(value, (list, tuple)):
        text = ", ".join(map(_short, value))
    elif (
        value is None
        or isinstance(value, (bool, int, float, str, np.generic))
        or dataclasses.is_dataclass(value)
    ):
        text = fingerprint.text(value)
    else:
        text = getattr(value, "__qualname__", type(value).__qualname__)
    if len(text) <= LONGEST:
        return text
    return f"{text[:40]}… ({hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _array(value: Tensor | NDArray[Any]) -> str:
    """The entries of a short array; shape and digest of a long one."""
    if isinstance(value, Tensor):
        value = value.detach().to_dense()
    numbers = isinstance(value, Tensor) or value.dtype.kind in "biuf"
    if math.prod(value.shape) <= LONGEST or not numbers:
        return str(value.tolist())
    tensor = value if isinstance(value, Tensor) else as_tensor(value)
    return f"{fingerprint.shape(tensor)} {fingerprint.digest(tensor)}"
