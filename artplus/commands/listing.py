"""``artplus list``: what has a name, on the command line as in code."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from artplus.bridge.by_name import ART_NAMES
from artplus.evaluation.analyses._base import analyses
from artplus.evaluation.named import attacks
from artplus.evaluation.suites import suites
from artplus.losses._base import losses
from artplus.registry import Registry
from artplus.trainers import trainers

REGISTRIES: dict[str, Registry[Any]] = {
    "losses": losses,
    "trainers": trainers,
    "attacks": attacks,
    "suites": suites,
    "analyses": analyses,
}


def listing(*, kind: str | None = None) -> str:
    """Every registered name with the first line of its documentation; ART's attacks after ours.

    Args:
        kind: A key of :data:`REGISTRIES`; ``None`` is all of them.
    """
    kinds = list(REGISTRIES) if kind is None else [kind]
    blocks = []
    for each in kinds:
        registry = REGISTRIES[each]
        told = {name: _first_line(registry.get(name)) for name in registry}
        if each == "attacks":
            foreign = {name: entry for name, entry in ART_NAMES.items() if name not in told}
            told |= {name: f"ART: {entry.about}" for name, entry in foreign.items()}
        width = max(map(len, told), default=0)
        lines = [f"  {name:{width}}  {about}" for name, about in told.items()]
        blocks.append("\n".join([each, *(line.rstrip() for line in lines)]))
    return "\n\n".join(blocks)


def _first_line(factory: Callable[..., Any]) -> str:
    """The summary of a docstring, without its citation marks."""
    summary = (inspect.getdoc(factory) or "").split("\n\n")[0]
    return re.sub(r"(,? \[\w+\]_)+", "", " ".join(summary.split()))
