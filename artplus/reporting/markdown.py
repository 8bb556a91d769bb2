"""A report as Markdown, for a README or a pull request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from artplus.evaluation import wording
from artplus.reporting import comparison_markdown, section_markdown
from artplus.reporting.section_markdown import escaped as escaped
from artplus.reporting.section_markdown import table as table

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


def render(report: Report, before: Report | None = None) -> str:
    """Verdict, tables and how to repeat it, as GitHub-flavoured Markdown; or a comparison.

    Args:
        report: The report.
        before: A report on the same examples, to be compared with.

    Raises:
        ConfigurationError: if ``before`` is on other examples.
    """
    if before is not None:
        return comparison_markdown.render(before, report)
    rows = wording.rows(report)
    cells = [wording.columns(report), *((row.name, *row.cells) for row in rows)]
    parts = [
        f"# Robustness of {escaped(report.model)}",
        f"**{escaped(wording.headline(report))}**",
        escaped(report.summary),
    ]
    if report.verdict is not None:
        parts.append(escaped(wording.trust(report)))
        parts += [section_markdown.alarm(finding) for finding in report.reasons]
    parts += ["## Attacks", table(cells)]
    remarks = [
        f"- **{escaped(r.name)}** does not count: {escaped(r.broken)}" for r in rows if r.broken
    ]
    remarks += [f"- {escaped(row.name)}: {escaped(flag)}" for row in rows for flag in row.flags]
    remarks += [f"- {escaped(note)}" for note in (*wording.legend(report), *report.notes)]
    if remarks:
        parts.append("\n".join(remarks))
    for section in report.sections:
        parts += section_markdown.lines(section)
    parts.append("## To repeat it")
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    parts.append(
        f"Seed {report.seed}, batches of {report.batch_size}, on {escaped(report.device)}, "
        f"{report.date}; {escaped(versions)}; data {report.data_hash}."
    )
    return "\n\n".join(parts) + "\n"
