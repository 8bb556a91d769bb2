"""``artplus compare``: two reports on the same examples, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from artplus import ThreatReport, reporting
from artplus.commands import files
from artplus.reporting.json import read_either

SUFFIXES = (".html", ".md", ".txt")


def compare(
    *, before: Path, after: Path, output: Sequence[Path] = (), overwrite: bool = False
) -> str:
    """Compare two reports, write the comparison to files, and return it as a table.

    Args:
        before: ``.json`` that evaluate wrote. A report on several threats (``--threat``) is
            compared by its worst case over all of them, and the text says so.
        after: Another one, on the same examples.
        output: Files to write, in the formats of their suffixes: both reports side by side,
            section by section; as ``.txt`` the comparison, and the report ``after``.
        overwrite: Replace files that exist.

    Raises:
        ConfigurationError: for reports that cannot be compared, another suffix, or a file that
            exists or cannot be written.
        DataError: for files that are no reports.
        NotWritten: if a file could not be written at the end.
    """
    for path in output:
        files.output("--output", path, SUFFIXES, overwrite=overwrite)
    sides = {"before": read_either(before), "after": read_either(after)}
    old, new = (s.union if isinstance(s, ThreatReport) else s for s in sides.values())
    lines = [str(reporting.compare(old, new))]
    for when, side in sides.items():
        if isinstance(side, ThreatReport):
            lines.append(f"· The worst case {when} is over all of {', '.join(side.by_threat)}.")
    text = "\n".join(lines)
    save = partial(reporting.save, new, before=old)
    failed = [path for path in output if not files.write(path, save)]
    if failed:
        raise files.NotWritten(text, failed)
    return text
