"""The result of one check of an evaluation, and the verdict of all checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from artplus.errors import ConfigurationError

if TYPE_CHECKING:
    from artplus.evaluation.checks._probe import Probe

Level = Literal["ok", "suspicious", "broken"]
Verdict = Literal["trusted", "suspicious", "broken"]

_ORDER: tuple[Level, ...] = get_args(Level)


@dataclass(frozen=True)
class Check:
    """The result of one check of whether robust accuracy can be believed.

    Attributes:
        name: Of the check.
        verdict: ``"ok"``; ``"suspicious"`` if the true robust accuracy may well be lower;
            ``"broken"`` if the attacks cannot have worked as they should.
        figure: The number that the verdict rests on; the explanation says what it is.
        explanation: What was observed.
        remedy: What to do about it; empty if there is nothing to do.

    Raises:
        ConfigurationError: for another verdict.
    """

    name: str
    verdict: Level
    figure: float | None
    explanation: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.verdict not in _ORDER:
            raise ConfigurationError(
                f"a check's verdict is one of {', '.join(_ORDER)}, got {self.verdict!r}"
            )


CheckFunction = Callable[["Probe"], Check | None]
"""A check: its result for a probe, or ``None`` where it has no meaning."""


def overall(checks: Iterable[Check]) -> Verdict | None:
    """The worst of the verdicts; ``None`` if nothing was checked.

    Example:
        >>> overall([Check("a", "ok", 0.0, "fine"), Check("b", "suspicious", 1.0, "odd")])
        'suspicious'
        >>> overall([Check("a", "ok", 0.0, "fine")])
        'trusted'
    """
    levels = [check.verdict for check in checks]
    if not levels:
        return None
    worst = max(levels, key=_ORDER.index)
    return "trusted" if worst == "ok" else worst
