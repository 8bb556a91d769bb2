"""``artplus list``: the names that the command line and the functions take."""

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
from artplus.tasks._base import tasks
from artplus.trainers import trainers

REGISTRIES: dict[str, Registry[Any]] = {
    "losses": losses,
    "tasks": tasks,
    "trainers": trainers,
    "attacks": attacks,
    "suites": suites,
    "analyses": analyses,
}

GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "theta": "θ",
    "lambda": "λ", "mu": "μ", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ",
}  # fmt: skip


def listing(*, kind: str | None = None) -> str:
    """Every registered name with the first line of its documentation; ART's attacks after ours.

    Args:
        kind: A key of :data:`REGISTRIES`; ``None`` is all kinds.
    """
    kinds = list(REGISTRIES) if kind is None else [kind]
    blocks = []
    for each in kinds:
        registry = REGISTRIES[each]
        summaries = {name: summary(registry.get(name)) for name in registry}
        if each == "attacks":
            art = {name: entry for name, entry in ART_NAMES.items() if name not in summaries}
            summaries |= {name: f"ART: {entry.about}" for name, entry in art.items()}
        width = max(map(len, summaries), default=0)
        lines = [f"  {name:{width}}  {about}" for name, about in summaries.items()]
        blocks.append("\n".join([each, *(line.rstrip() for line in lines)]))
    return "\n\n".join(blocks)


def summary(factory: Callable[..., Any]) -> str:
    """The first paragraph of a docstring as plain text, without citation marks."""
    paragraph = (inspect.getdoc(factory) or "").split("\n\n")[0]
    return plain_text(" ".join(paragraph.split()))


def plain_text(markup: str) -> str:
    r"""A line of a docstring without Sphinx's markup.

    Example:
        >>> plain_text(r"Of :class:`~artplus.attacks.PGD`, in :math:`\epsilon_2`, ``x`` [A20]_.")
        'Of PGD, in ε_2, x.'
    """
    text = re.sub(r"(,? \[\w+\]_)+", "", markup)
    text = re.sub(r":math:`([^`]*)`", lambda match: formula(match[1]), text)
    text = re.sub(r":[\w:]+:`~(?:\w+\.)*(\w+)`", r"\1", text)
    text = re.sub(r":[\w:]+:`([^`]*)`", r"\1", text)
    return re.sub(r"``?([^`]*)``?", r"\1", text)


def formula(latex: str) -> str:
    r"""A short formula in plain characters: Greek letters as they are, commands by their names."""
    text = re.sub(r"\\(?:mathrm|text|mathbf)\b", "", latex)
    text = text.replace(r"\infty", "∞").replace(r"\arg\max", r"\argmax").replace("^*", "*")
    text = re.sub(r"\\([a-zA-Z]+) ?", lambda match: GREEK.get(match[1], match[1] + " "), text)
    return re.sub(r" (?=[_^)])|[{}\\,]+", "", text).strip()
