"""Under which settings a question was asked, as short texts that tell two askings apart."""

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
"""Characters of a setting that are kept; of a longer one its beginning and a digest."""


def settings(analysis: Any, subject: Subject) -> tuple[tuple[str, str], ...]:
    """The analysis's fields by name, and what it takes from the report: ball, seed, n.

    Models and tokenizers are named by their class: which weights they have is not said.
    """
    found: dict[str, str] = {}
    if dataclasses.is_dataclass(analysis):
        found = {name: _short(value) for name, value in fingerprint.members(analysis).items()}
    report = subject.report
    if report.eps is not None and report.norm is not None:
        found["ball of the report"] = wording.ball(report.norm, report.eps)
    found["seed of the report"] = str(subject.seed)
    found["examples of the report"] = str(report.n)
    return tuple(found.items())


def _short(value: Any) -> str:
    if isinstance(value, (Tensor, np.ndarray)):
        text = _array(value)
    elif isinstance(value, dict):
        text = ", ".join(f"{name}: {_short(own)}" for name, own in value.items())
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
    """All entries of a short one; shape and digest of one that is long."""
    if isinstance(value, Tensor):
        value = value.detach().to_dense()
    long = math.prod(value.shape) > LONGEST
    if isinstance(value, np.ndarray):
        if not long or value.dtype.kind not in "biuf":
            return str(value.tolist())
        value = as_tensor(value)
    return (
        f"{fingerprint.shape(value)} {fingerprint.digest(value)}" if long else str(value.tolist())
    )
