"""Reports and comparisons as Markdown, for a README or a pull request."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from artplus.evaluation import wording
from artplus.evaluation.section import Block, Curves, Gallery, Passage, Passages, Scatter
from artplus.reporting import comparability, views
from artplus.reporting.comparison import compare
from artplus.reporting.stack import (
    SIDES,
    Beside,
    Merged,
    Overlay,
    Shown,
    Stack,
    of_report,
    of_reports,
)

if TYPE_CHECKING:
    from artplus.evaluation import Check
    from artplus.evaluation.report import Report

Cells = Sequence[tuple[str, ...]]
"""A table as text, its heading first."""

ROWS = 40
"""Rows of a table that are written."""

POSITIONS = 13
"""Positions of a curve that are written."""

COLUMNS = 14
"""A table with more columns is left to the page."""


def render(report: Report, before: Report | None = None) -> str:
    """Verdict, tables and how to repeat it, as GitHub-flavoured Markdown; or a comparison.

    Args:
        report: The report.
        before: A report on the same examples, to compare with.

    Raises:
        ConfigurationError: if ``before`` is on other examples or of another task.
    """
    if before is None:
        sides = [("", report)]
        rows = wording.rows(report)
        parts = [
            f"# Robustness of {escaped(report.model)}",
            f"**{escaped(wording.headline(report))}**",
            escaped(report.summary),
        ]
        cells = [wording.columns(report), *((row.name, *row.cells) for row in rows)]
        remarks = [f"{row.name}: {flag}" for row in rows for flag in row.flags]
        remarks += [*wording.legend(report), *report.notes]
        stacks = [of_report(section) for section in report.sections]
        facts = "; ".join(f"{n} {value}" for n, value in comparability.conditions(report).items())
        facts = escaped(facts)
    else:
        sides = list(zip(SIDES, (before, report), strict=True))
        comparison = compare(before, report)
        names = " → ".join(dict.fromkeys(side.model for _, side in sides))
        parts = [f"# Before and after: {escaped(names)}", f"**{escaped(comparison.verdict)}**"]
        if comparison.notes:
            parts += ["**The two evaluations differ.**", listed(comparison.notes)]
        cells, remarks = comparison.table().cells(), []
        stacks = of_reports(before.sections, report.sections)
        facts = table([("setting", *SIDES), *comparability.facts(before, report)])
    for when, side in sides:
        parts += _trust(when, side)
    broken = [
        f"{result.name}{when and ', ' + when} does not count: {result.broken}"
        for when, side in sides
        for result in side.broken
    ]
    parts += ["## Attacks", table(cells), listed([*broken, *remarks])]
    for stack in stacks:
        parts += section(stack)
    return "\n\n".join(filter(None, [*parts, "## To repeat it", facts])) + "\n"


def section(stack: Stack) -> list[str]:
    """A section as paragraphs, the heading first."""
    parts = [f"## {escaped(stack.title)}"]
    if stack.only:
        parts.append(f"Only the report {stack.only} holds this section.")
    parts += [f"{_when(when)}{escaped(summary)}" for when, summary in stack.summaries]
    if stack.warnings:
        parts += ["**Different settings.**", listed(stack.warnings)]
    for shown in stack.shown:
        parts += _shown(shown)
    if stack.notes:
        parts.append(listed(f"{when}: {note}" if when else note for when, note in stack.notes))
    return parts


def table(cells: Cells) -> str:
    """Rows of cells, the first the heading, as a Markdown table."""
    rows = ["| " + " | ".join(escaped(cell) for cell in row) + " |" for row in cells]
    rule = "|:--" + "|--:" * (len(cells[0]) - 1) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])


def escaped(text: str) -> str:
    """Text that Markdown and HTML leave alone, on one line."""
    text = " ".join(text.split())
    for character in "\\`*_[]|<>":
        replacement = {"<": "&lt;", ">": "&gt;"}.get(character, "\\" + character)
        text = text.replace(character, replacement)
    return text


def listed(texts: Iterable[str]) -> str:
    """Texts as a list."""
    return "\n".join(f"- {escaped(text)}" for text in texts)


def failed_check(check: Check) -> str:
    """What a check of the evaluation says against it."""
    text = f"- **{escaped(check.name)}** ({check.verdict}): {escaped(check.explanation)}"
    return f"{text} {escaped(check.remedy)}".rstrip()


def _trust(when: str, report: Report) -> list[str]:
    """Whether the attacks worked; for two reports also that nobody knows."""
    text = wording.trust(report)
    if when:
        unknown = "no check was made of whether the attacks worked."
        text = f"{when.capitalize()}: {text or unknown}"
    return [escaped(text), *map(failed_check, report.reasons)]


def _shown(shown: Shown) -> list[str]:
    if isinstance(shown, Merged):
        return [
            *_caption(shown.caption), *_cut(shown.view.cells()), *_caption(shown.view.note)
        ]  # fmt: skip
    if isinstance(shown, Overlay):
        block, _ = shown.drawn()
        places = [set(line.x) for line in block.series]
        if not places or 2 * len(set.intersection(*places)) >= min(map(len, places)):
            return _block(block)
        # One table would have a gap at most positions.
        shown = Beside(shown.before, shown.after)
    if not isinstance(shown, Beside):
        return _block(shown)
    parts = [
        line
        for when, block in zip(SIDES, (shown.before, shown.after), strict=True)
        if block is not None
        for line in (f"**{when}**", *_block(block))
    ]
    return [*parts, escaped(shown.note)] if shown.note else parts


def _block(block: Block) -> list[str]:
    """A block as paragraphs: values as a table, pictures in words."""
    caption = _caption(block.caption)
    if isinstance(block, Scatter):
        sizes = ", ".join(f"{wording.plural(len(g.x), 'point')} {g.name}" for g in block.groups)
        return [*caption, f"{escaped(sizes)}; drawn in the HTML page."]
    if isinstance(block, Gallery):
        count = sum(len(row) for row in block.rows)
        return [*caption, f"{wording.plural(count, 'picture')} in the HTML page."]
    if isinstance(block, Passages):
        return [*caption, *map(_passage, block.passages)]
    values = views.values(block)
    if values is None or not values.rows:
        return caption
    cells = [values.columns, *(
        tuple(wording.cell(c, u) for c, u in zip(row, values.units, strict=True))
        for row in values.rows
    )]  # fmt: skip
    return [*caption, *(_thinned(cells) if isinstance(block, Curves) else _cut(cells))]


def _cut(cells: Cells) -> list[str]:
    """A table with no more rows than are read."""
    columns, *rows = cells
    if len(columns) > COLUMNS:
        return [f"A table of {len(rows)} × {len(columns)} is in the HTML page and the JSON."]
    further = len(rows) - ROWS
    more = [f"{further} further rows are in the JSON."] if further > 0 else []
    return [table([columns, *rows[:ROWS]]), *more]


def _thinned(cells: Cells) -> list[str]:
    """A table of up to :data:`POSITIONS` rows, evenly spaced, with the first and the last."""
    columns, *rows = cells
    last = len(rows) - 1
    if last < POSITIONS:
        return _cut(cells)
    kept = [rows[round(k * last / (POSITIONS - 1))] for k in range(POSITIONS)]
    note = f"{POSITIONS} of {len(rows)} positions; the JSON has them all."
    return [table([columns, *kept]), note]


def _passage(passage: Passage) -> str:
    """The words: those of at least half the largest influence bold, replaced ones crossed out."""
    words = [
        _changed(was, token)
        if was != token
        else f"**{escaped(token)}**"
        if abs(weight) >= 0.5
        else escaped(token)
        for token, weight, was in zip(
            passage.tokens, passage.weights, passage.before or passage.tokens, strict=True
        )
    ]
    return f"> {' '.join(words)}\n>\n> — {escaped(passage.title)}. {escaped(passage.text)}".rstrip()


def _changed(was: str, token: str) -> str:
    """What stood there crossed out, then what stands there in bold."""
    old, new = f"~~{escaped(was)}~~" if was else "", f"**{escaped(token)}**" if token else ""
    return f"{old} {new}".strip()


def _caption(text: str) -> list[str]:
    return [escaped(text)] if text else []


def _when(when: str) -> str:
    return f"**{when}** " if when else ""
