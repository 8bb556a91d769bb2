"""What an analysis is given, what it returns, and how it is found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from artplus.attacks._base import Attack
from artplus.evaluation.bench import Bench
from artplus.evaluation.section import Section
from artplus.model import LossModel
from artplus.registry import Registry

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is looked into.

    Attributes:
        bench: The model and the examples that were judged.
        report: What the attacks found.
        attacks: The attacks of the report, by name.
        seed: Of every random draw.
        before: The model before it was hardened, on the same device, if given.
        estimator: What the user passed: an ART estimator or a module.
        progress: Whether to show a bar.
    """

    bench: Bench
    report: Report
    attacks: Mapping[str, Attack]
    seed: int = 0
    before: LossModel | None = None
    estimator: Any = None
    progress: bool = False


@runtime_checkable
class Analysis(Protocol):
    """A question about a judged model: a frozen dataclass whose fields are its settings."""

    def __call__(self, subject: Subject) -> Section:
        """Answer it; the model is left as it was."""
        ...


analyses: Registry[Callable[..., Analysis]] = Registry("analysis", "artplus.evaluation.analyses")


def register_analysis(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a class or factory of analyses under ``name``, for ``evaluate(analyses=[name])``.

    Raises:
        ConfigurationError: if the name is taken.
    """
    return analyses.register(name)


def list_analyses() -> list[str]:
    """Names of every registered analysis, entry points of other packages included."""
    return analyses.names()


def make_analysis(name: str, **settings: Any) -> Analysis:
    """The analysis called ``name``.

    Raises:
        UnknownNameError: if no analysis has this name.
    """
    return analyses.get(name)(**settings)
