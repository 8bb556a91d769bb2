"""``artplus compare``: two reports on the same examples, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from artplus import Report, ThreatReport, reporting
from artplus.commands import files
from artplus.reporting.json import read_either

SUFFIXES = (".html", ".md", ".txt")


def compare(
    *, before: Path, after: Path, output: Sequence[Path] = (), overwrite: bool = False
) -> str:
    """Compare two reports; write the comparison, and return it as a table.

    Args:
        before: ``.json`` that evaluate wrote. One on several threats (``--threat``) is compared by
            the worst case over all of them, and the text says so.
        after: Another one, on the same examples.
        output: Files to write, each in the format of its suffix: both reports side by side, section
            by section; as ``.txt`` the changes and the report ``after``.
        overwrite: Replace them.

    Raises:
        ConfigurationError: for reports that do not compare, another suffix, or a file that exists
            or cannot be written.
        DataError: for files that are no reports.
    """
    for path in output:
        files.output("--output", path, SUFFIXES, overwrite=overwrite)
    sides = read_either(before), read_either(after)
    old, new = (side.union if isinstance(side, ThreatReport) else side for side in sides)
    text = str(reporting.compare(old, new))
    for when, side in zip(("before", "after"), sides, strict=True):
        text += _threats(when, side)
    save = partial(reporting.save, new, before=old)
    failed = [path for path in output if not files.write(path, save)]
    if failed:
        raise files.NotWritten(text, failed)
    return text


def _threats(when: str, side: Report | ThreatReport) -> str:
    """A line that names the threats of a report on several of them."""
    if not isinstance(side, ThreatReport):
        return ""
    return f"\n· The worst case {when} is over all of {', '.join(side.by_threat)}."
