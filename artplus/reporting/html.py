"""Reports and comparisons as one page: no network, no other files, light and dark."""

from __future__ import annotations

from base64 import b64encode
from functools import cache
from hashlib import sha256
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from artplus.evaluation import wording
from artplus.reporting import bars, comparability, palette, views
from artplus.reporting.comparison import Comparison, compare
from artplus.reporting.pictures import Example, examples
from artplus.reporting.stack import SIDES, of_report, of_reports
from artplus.reporting.tables import Column, TableView, sort_key

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.result import AttackResult

Figure = tuple[str, str, str, str]
"""A key figure: what it is, its value, the class of its colour, and what to know about it."""

_TESTS = (
    "p: McNemar's exact test that gains and losses are equally likely; one of twenty such tests "
    "falls below 0.05 by chance. 95% interval of the change: from the same test, without zero "
    "exactly where p is below 0.05."
)


def render(report: Report, before: Report | None = None) -> str:
    """The page; with ``before``, the page that compares the two.

    Names of models, attacks, classes and the like are escaped, and no script runs but the page's
    own, which its policy names by hash.

    Args:
        report: The report.
        before: A report on the same examples, to compare with.

    Raises:
        ConfigurationError: if ``before`` is on other examples or of another task.
    """
    script = Markup("\n" + _environment().get_template("report.js").render())
    content = _report(report) if before is None else _comparison(before, report)
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            before=before,
            accuracy=report.clean_accuracy is not None,
            script=script,
            script_hash=b64encode(sha256(script.encode()).digest()).decode(),
            wording=wording,
            light=palette.light(),
            dark=palette.dark(),
            series=palette.SERIES,
            levels=palette.LEVELS,
            strengths=views.STRENGTHS,
            **content,
        )
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("artplus.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _report(report: Report) -> dict[str, Any]:
    """What the template shows of one report."""
    shown = examples(report)
    flags = [f"{result.name}: {flag}" for result in report.attacks for flag in result.flags]
    return {
        "sides": [("", report)],
        "headline": wording.headline(report),
        "warnings": (),
        "figures": _figures(report),
        "chart": bars.chart(report),
        "attacks": _attacks(report),
        "remarks": [*flags, *wording.legend(report), *report.notes],
        "examples": [("", [(example,) for example in shown])] if shown else [],
        "sections": views.sections([of_report(section) for section in report.sections]),
        "facts": comparability.conditions(report).items(),
        "settings": [(r.name, comparability.settings(r).items()) for r in report.attacks],
    }


def _comparison(before: Report, after: Report) -> dict[str, Any]:
    """What the template shows of two reports."""
    comparison = compare(before, after)
    old, new = ({r.name: r for r in report.attacks} for report in (before, after))
    return {
        "sides": list(zip(SIDES, (before, after), strict=True)),
        "headline": comparison.headline,
        "warnings": comparison.notes,
        "figures": _changes(comparison, after),
        "chart": bars.chart(after, comparison),
        "attacks": comparison.table(),
        "remarks": [_TESTS] if comparison.accuracy else [],
        "examples": _paired(examples(before), examples(after)),
        "sections": views.sections(of_reports(before.sections, after.sections)),
        "facts": comparability.facts(before, after),
        "settings": [
            (name, comparability.pairs(*(comparability.settings(s.get(name)) for s in (old, new))))
            for name in {**old, **new}
        ],
    }


def _figures(report: Report) -> list[Figure]:
    """The key figures of one report."""
    accuracy = report.clean_accuracy is not None
    measure, second = (*wording.columns(report)[1:3],)
    clean, *_, worst = wording.rows(report)
    figures: list[Figure] = []
    for row, name in ((clean, "Clean"), (worst, "Robust" if accuracy else "Worst-case")):
        note = f"{second} {row.cells[1]}"
        if row.value is None:
            note = "unknown: no attack worked"
        elif not accuracy and len(report.clean_metrics) == 1:
            note = "mean over the examples"
        kind = "clean" if row is clean else "worst"
        figures.append((f"{name} {measure}", row.cells[0], kind, note))
    broken = len(report.broken)
    note = f"{broken} broken, see below" if broken else "each as strong as its settings"
    counted = f"{len(report.working)} of {len(report.attacks)}"
    return [
        *figures,
        ("Attacks that count", counted, "", note),
        _perturbation(report, report.space or "in the units of the inputs"),
    ]


def _changes(comparison: Comparison, after: Report) -> list[Figure]:
    """The key figures of a comparison."""
    figures: list[Figure] = []
    clean, worst = comparison.clean, comparison.worst
    for line, name, kind in ((clean, "Clean", "clean"), (worst, "Worst-case", "worst")):
        change = "not to be compared, see below"
        if line.change is not None:
            tested = f" ({line.paired.points})" if line.paired else ""
            change = comparison.shown_change(line) + tested
        note = f"{comparison.shown(line.before)} before\n{change}"
        measure = "accuracy" if comparison.accuracy else "loss"
        figures.append((f"{name} {measure}", comparison.shown(line.after), kind, note))
    if worst.paired:
        note = f"withstand every attack only after; {worst.paired.lost} lost"
        figures.append(("Examples gained", str(worst.paired.gained), "", note))
    return [*figures, _perturbation(after, "the same in both", mixed=not worst.comparable)]


def _perturbation(report: Report, note: str, *, mixed: bool = False) -> Figure:
    ball = "mixed"
    if report.eps is not None and report.norm is not None and not mixed:
        ball = wording.ball(report.norm, report.eps)
    return "Perturbation", ball, "", f"{wording.plural(report.n, 'example')}, {note}"


def _attacks(report: Report) -> TableView:
    """The table of attacks."""
    rows = wording.rows(report)
    name, *others = wording.columns(report)
    columns = (Column(name, False), *(Column(other, True) for other in others))
    keys = [_keys(report, result) for result in report.attacks]
    unsorted = [""] * len(columns)  # clean and the worst case stay first and last
    cells = (
        tuple(zip((row.name, *row.cells), key, strict=True))
        for row, key in zip(rows, [unsorted, *keys, unsorted], strict=True)
    )
    tones = tuple("broken" if row.broken else "" for row in rows)
    return TableView(columns, tuple(cells), tones=tones)


def _keys(report: Report, result: AttackResult) -> list[str]:
    """What the row of an attack is sorted by: numbers where there are some."""
    values: list[float | None] = [result.metrics.get("loss")]
    if report.clean_accuracy is not None:
        values = [result.accuracy, None if result.interval is None else result.interval[0]]
    values += [result.metrics.get(name) for name in wording.other_metrics(report)]
    values += [result.eps, result.max_norm]
    if wording.counted(report):
        values.append(_passes(result))
    return [result.name, *map(sort_key, [*values, result.seconds])]


def _passes(result: AttackResult) -> float | None:
    """Passes for each example: a backward one takes about as long as a forward one."""
    if result.forwards is None or result.backwards is None or not result.attacked or result.broken:
        return None
    return (result.forwards + result.backwards) / result.attacked


def _paired(
    before: list[Example], after: list[Example]
) -> list[tuple[str, list[tuple[Example | None, ...]]]]:
    """Examples in pairs under a sentence: first those in both reports, then the others."""
    old = {example.number: example for example in before}
    new = {example.number: example for example in after}
    both = [(old[number], example) for number, example in new.items() if number in old]
    rest = zip_longest(
        [example for number, example in old.items() if number not in new],
        [example for number, example in new.items() if number not in old],
    )
    groups: list[tuple[str, list[tuple[Example | None, ...]]]] = [
        ("The same examples, attacked before and after.", [*both]),
        ("Examples that only one of the reports has:", [*rest]),
    ]
    return [(text, pairs) for text, pairs in groups if pairs]
