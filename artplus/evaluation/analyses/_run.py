"""Analyses chosen, checked before the attacks, and run after them without harm to the report."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from artplus import _checks, seeding
from artplus.errors import ArtplusWarning, ConfigurationError
from artplus.evaluation.analyses._base import (
    Analysis,
    Setting,
    Subject,
    list_analyses,
    make_analysis,
)
from artplus.evaluation.analyses._settings import settings
from artplus.evaluation.section import Section
from artplus.evaluation.untouched import untouched

_log = logging.getLogger(__name__)


def chosen(analyses: str | Analysis | Iterable[str | Analysis]) -> tuple[Analysis, ...]:
    """Names and objects as analyses, in their order.

    Raises:
        UnknownNameError: for a name that is not registered.
        ConfigurationError: for what is no analysis.
    """
    single = isinstance(analyses, str) or callable(analyses)
    several = [analyses] if single else _checks.several("analyses", analyses, "analyses")
    return tuple(_one(analysis) for analysis in several)


def check(analyses: Sequence[Analysis], setting: Setting) -> None:
    """Refuse what has no meaning for this model, before anything costs time.

    Raises:
        ConfigurationError: with the reason of the first that does not apply.
    """
    for analysis in analyses:
        if setting.data.structured and not getattr(analysis, "structured", False):
            raise ConfigurationError(
                f"analysis {type(analysis).__name__} looks at inputs that are one tensor of floats "
                "each; it does not support inputs of several columns or hidden perturbations"
            )
        ask = getattr(analysis, "check", None)
        if ask is not None:
            ask(setting)


def run(analyses: Sequence[Analysis], subject: Subject) -> tuple[Section, ...]:
    """A section each, in order.

    The draws of each follow from the seed and its own name, whatever runs beside it. One that
    fails gives a section that says so: attacks that took hours are not lost with it.
    """
    sections: list[Section] = []
    bar = tqdm(analyses, desc="analyses", leave=False, disable=not subject.progress)
    for analysis in bar:
        name = type(analysis).__name__
        bar.set_postfix_str(name)
        with ExitStack() as stack:
            stack.enter_context(untouched(subject.data.model.module))
            if subject.before is not None:
                stack.enter_context(untouched(subject.before.module))
            stack.enter_context(seeding.seeded(seeding.derived(subject.seed, name)))
            section = _answer(analysis, subject)
        sections.append(_renamed(section, {other.name for other in sections}))
    return tuple(sections)


def _one(analysis: Any) -> Analysis:
    if isinstance(analysis, str):
        return make_analysis(analysis)
    if isinstance(analysis, type) or not isinstance(analysis, Analysis):
        shown = f"the class {analysis.__name__}" if isinstance(analysis, type) else repr(analysis)
        raise ConfigurationError(
            f"analyses holds names ({', '.join(list_analyses())}) or objects such as "
            f"Corruptions(severities=(1, 3)), got {shown}"
        )
    return analysis


def _answer(analysis: Analysis, subject: Subject) -> Section:
    name = type(analysis).__name__
    try:
        section = analysis(subject)
        if not isinstance(section, Section):
            raise TypeError(f"it returned {type(section).__name__} instead of a Section")
        return replace(section, settings=settings(analysis, subject))
    except Exception as error:
        # Whatever goes wrong in here, the verdict of the attacks stands and must reach the user.
        # The traceback goes to the log.
        _log.info("analysis %s raised", name, exc_info=True)
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        warnings.warn(
            f"analysis {name} failed and was left out: {reason}", ArtplusWarning, stacklevel=5
        )
        return Section(name=name, title=name, summary=f"It could not be answered: {reason}")


def _renamed(section: Section, taken: set[str]) -> Section:
    """A second section of a name is numbered."""
    name, count = section.name, 1
    while name in taken:
        count += 1
        name = f"{section.name}_{count}"
    return section if name == section.name else replace(section, name=name)
