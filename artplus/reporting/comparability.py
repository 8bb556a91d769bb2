"""Whether two reports, or two sections, were made under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from artplus.evaluation import wording

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult
    from artplus.evaluation.section import Section

Fact = tuple[str, str, str]
"""A name, and its value before and after."""

_OF_THE_REPORT = {"seed of the report", "examples of the report"}


def ball(result: AttackResult) -> str:
    """What the attack was allowed, as text; equal texts are equal balls."""
    return wording.ball(result.norm, result.eps)


def one_ball(before: Report, after: Report) -> bool:
    """Whether both worst cases are over the same balls, so that they can be compared."""
    balls = [{ball(r) for r in report.working} for report in (before, after)]
    return balls[0] == balls[1] and before.space == after.space


def reports(before: Report, after: Report) -> tuple[str, ...]:
    """A sentence for each way in which two evaluations of the same examples differ."""
    notes = [
        f"The evaluation {when} is {report.verdict}: {', '.join(r.name for r in report.reasons)}."
        for when, report in (("before", before), ("after", after))
        if report.reasons
    ]
    notes += _attacks(before, after)
    for what, describe in (
        ("attacks saw", _attacked),
        ("seed", lambda report: str(report.seed)),
        ("batch size", lambda report: str(report.batch_size)),
        ("artplus", lambda report: report.versions.get("artplus", "")),
        ("space", lambda report: report.space),
        ("class names", lambda report: ", ".join(report.class_names or ())),
    ):
        old, new = describe(before) or "nothing", describe(after) or "nothing"
        if old != new:
            notes.append(f"Not the same {what}: {old} before, {new} after.")
    return tuple(notes)


def sections(before: Section, after: Section) -> tuple[str, ...]:
    """A sentence for each setting that differs between two sections of one name.

    Seeds and examples of the whole reports are mentioned once, by :func:`reports`. Sections without
    settings, from reports of older versions, are compared by their notes.
    """
    old, new = dict(before.settings), dict(after.settings)
    if old and new:
        return tuple(
            f"{name}: {old.get(name, 'nothing')} before, {new.get(name, 'nothing')} after."
            for name in old | new
            if old.get(name) != new.get(name) and name not in _OF_THE_REPORT
        )
    if before.notes != after.notes:
        return ("The settings are not known, and the notes of the two differ.",)
    return ()


def facts(before: Report, after: Report) -> list[Fact]:
    """What is needed to repeat the two, side by side."""
    return pairs(conditions(before), conditions(after))


def conditions(report: Report) -> dict[str, str]:
    """What is needed to repeat a report, beside its attacks."""
    return {
        "model": report.model,
        "seed": str(report.seed),
        "batch size": str(report.batch_size),
        "attacks saw": _attacked(report),
        **({"space": report.space} if report.space else {}),
        "device": report.device,
        "date": report.date,
        "data": f"{wording.plural(report.n, 'example')}, hash {report.data_hash}",
        **report.versions,
    }


def settings(result: AttackResult | None) -> dict[str, str]:
    """The ball and the parameters of an attack as text; nothing of an attack that is not there."""
    return {} if result is None else {"ball": ball(result), **parameters(result)}


def parameters(result: AttackResult) -> dict[str, str]:
    """The parameters of an attack as text."""
    return {
        name: wording.number(value) if isinstance(value, float) else str(value)
        for name, value in result.params.items()
    }


def pairs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Fact]:
    """The values of two mappings by name."""
    return [(n, old.get(n, wording.NONE), new.get(n, wording.NONE)) for n in {**old, **new}]


def _attacked(report: Report) -> str:
    """Which examples each attack was run on."""
    if report.only_survivors:
        return "only what earlier attacks had left"
    return "every example" if report.correct_clean is None else "every example that was right"


def _attacks(before: Report, after: Report) -> list[str]:
    """Other balls, other attacks, other settings."""
    notes, differ = [], []
    new = {result.name: result for result in after.attacks}
    for old in before.attacks:
        other = new.get(old.name)
        if other is not None and ball(old) != ball(other):
            notes.append(
                f"Attack {old.name} had {ball(old)} before and {ball(other)} after, so its "
                "accuracies cannot be compared: judge both with the same radius."
            )
        elif other is not None and dict(old.params) != dict(other.params):
            differ.append(old.name)
    if before.working and after.working and not one_ball(before, after):
        balls = [
            ", ".join(
                dict.fromkeys(wording.ball(r.norm, r.eps, report.space) for r in report.working)
            )
            for report in (before, after)
        ]
        notes.append(
            f"The worst cases are not within the same ball, {balls[0]} before and {balls[1]} "
            "after, so no difference of them is given."
        )
    names = {r.name for r in before.working} ^ {r.name for r in after.working}
    if names:
        notes.append(
            "The worst cases are not over the same attacks: "
            f"{', '.join(sorted(names))} counted in only one of the reports."
        )
    return [*notes, *([f"Not with the same settings in both: {', '.join(differ)}."] * bool(differ))]
