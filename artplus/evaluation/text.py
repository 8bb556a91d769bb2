"""A report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from artplus.evaluation import wording

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


def table(report: Report) -> str:
    """Clean, each attack and the worst case in aligned columns, then the verdict and remarks.

    Sections give their title and summary; their figures are left to the other formats.
    """
    rows = wording.rows(report)
    parts = ruled([wording.columns(report), *((row.name, *row.cells) for row in rows)])
    parts.append("")
    parts += wrap(report.summary, 88)
    parts += wrap(wording.trust(report), 88)
    remarks = [
        f"! {reason.name} ({reason.verdict}): {reason.explanation} {reason.remedy}".rstrip()
        for reason in report.reasons
    ]
    remarks += [f"! {row.name} does not count: {row.broken}" for row in rows if row.broken]
    remarks += [f"· {row.name}: {flag}" for row in rows for flag in row.flags]
    remarks += [f"· {note}" for note in (*wording.legend(report), *report.notes)]
    for remark in remarks:
        parts += wrap(remark, 88, subsequent_indent="  ")
    for section in report.sections:
        parts += ["", section.title, *wrap(section.summary, 86, initial_indent="  ",
                                           subsequent_indent="  ")]  # fmt: skip
    return "\n".join(parts)


def ruled(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as aligned lines, with rules below the first row and above the last."""
    lines = aligned(cells)
    rule = "─" * max(map(len, lines))
    return [lines[0], rule, *lines[1:-1], rule, lines[-1]]


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if k == 0 else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
