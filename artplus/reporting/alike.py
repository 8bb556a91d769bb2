"""Why two reports, or two sections, are not quite like for like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from artplus.evaluation import wording

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult
    from artplus.evaluation.section import Section

NOTHING = "nothing"
_OF_THE_REPORT = {"seed of the report", "examples of the report"}


def ball(result: AttackResult) -> str:
    """What the attack was allowed, as text; two of the same text are the same ball."""
    return wording.ball(result.norm, result.eps)


def other_balls(before: Report, after: Report) -> list[str]:
    """Names of attacks that had another ball in the one report than in the other."""
    new = {result.name: ball(result) for result in after.attacks}
    return [r.name for r in before.attacks if r.name in new and new[r.name] != ball(r)]


def one_ball(before: Report, after: Report) -> bool:
    """Whether the worst cases are over the same balls, so that they compare."""
    return {ball(r) for r in before.working} == {ball(r) for r in after.working}


def reports(before: Report, after: Report) -> tuple[str, ...]:
    """A sentence for each way in which two evaluations differ.

    Args:
        before: On the same examples as ``after``.
        after: The later one.
    """
    notes = [
        f"The evaluation {when} is {report.verdict}: {', '.join(r.name for r in report.reasons)}."
        for when, report in (("before", before), ("after", after))
        if report.reasons
    ]
    notes += _attacks(before, after)
    for what, old, new in (
        ("attacks saw", seen(before), seen(after)),
        ("seed", str(before.seed), str(after.seed)),
        ("batch size", str(before.batch_size), str(after.batch_size)),
        ("artplus", before.versions.get("artplus", ""), after.versions.get("artplus", "")),
        ("class names", _classes(before), _classes(after)),
    ):
        if old != new:
            notes.append(f"Not the same {what}: {old or NOTHING} before, {new or NOTHING} after.")
    return tuple(notes)


def seen(report: Report) -> str:
    """Which examples each attack was run on."""
    return "what earlier ones left standing" if report.only_survivors else "every example"


def _attacks(before: Report, after: Report) -> list[str]:
    """Other balls, other attacks, other settings."""
    notes = []
    new = {result.name: result for result in after.attacks}
    moved = other_balls(before, after)
    for result in before.attacks:
        if result.name in moved:
            notes.append(
                f"Attack {result.name} had {ball(result)} before and {ball(new[result.name])} "
                "after, so its accuracies do not compare: judge both by one radius."
            )
    if before.working and after.working and not one_ball(before, after):
        balls = [
            ", ".join(dict.fromkeys(ball(r) for r in report.working)) for report in (before, after)
        ]
        notes.append(
            f"The worst cases are not within the same ball, {balls[0]} before and {balls[1]} "
            "after, so no difference of them is given."
        )
    old_names, new_names = ({r.name for r in report.working} for report in (before, after))
    if old_names != new_names:
        notes.append(
            "The worst cases are not over the same attacks: "
            f"{', '.join(sorted(old_names ^ new_names))} counted in only one of the reports."
        )
    differ = [
        r.name
        for r in before.attacks
        if r.name in new and r.name not in moved and dict(r.params) != dict(new[r.name].params)
    ]
    if differ:
        notes.append(f"Not with the same settings in both: {', '.join(differ)}.")
    return notes


def sections(before: Section, after: Section) -> tuple[str, ...]:
    """A sentence for each setting under which one section was asked and the other was not.

    Other seeds and other examples of the whole reports are said once, by :func:`reports`. Sections
    that do not tell their settings, as in reports of older versions, are told apart by their notes.
    """
    old, new = dict(before.settings), dict(after.settings)
    if old and new:
        return tuple(
            f"{name}: {old.get(name, NOTHING)} before, {new.get(name, NOTHING)} after."
            for name in old | new
            if old.get(name) != new.get(name) and name not in _OF_THE_REPORT
        )
    if before.notes != after.notes:
        return ("Not known to be measured alike: what the notes say of the two differs.",)
    return ()


def changed(old: Mapping[str, object], new: Mapping[str, object]) -> list[tuple[str, str, str]]:
    """Names and values of two mappings, those of both and those of either."""
    return [
        (name, str(old.get(name, wording.NONE)), str(new.get(name, wording.NONE)))
        for name in {**old, **new}
    ]


def facts(before: Report, after: Report) -> list[tuple[str, str, str]]:
    """What is needed to repeat the two, side by side."""
    return changed(_needed(before), _needed(after))


def _needed(report: Report) -> Mapping[str, object]:
    return {
        "model": report.model,
        "seed": report.seed,
        "batch size": report.batch_size,
        "attacks saw": seen(report),
        "device": report.device,
        "date": report.date,
        "data": f"{wording.plural(report.n, 'example')}, hash {report.data_hash}",
        **report.versions,
    }


def _classes(report: Report) -> str:
    return ", ".join(report.class_names or ())
