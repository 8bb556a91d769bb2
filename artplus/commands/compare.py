"""``artplus compare``: two reports on the same examples, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from artplus import reporting
from artplus.commands import files
from artplus.errors import ConfigurationError
from artplus.reporting.json import read

SUFFIXES = (".html", ".md", ".txt")


def compare(
    *, before: Path, after: Path, output: Sequence[Path] = (), overwrite: bool = False
) -> str:
    """Set two reports against each other; write the comparison, and return it as a table.

    Args:
        before: ``.json`` that evaluate wrote.
        after: Another one, on the same examples.
        output: Files to write, each in the form of its suffix: both reports side by side, section
            by section; as ``.txt`` what changed, and the report ``after``.
        overwrite: Replace them.

    Raises:
        ConfigurationError: for reports that do not compare, or another suffix.
        DataError: for files that are no reports.
    """
    for path in output:
        if path.suffix.lower() not in SUFFIXES:
            raise ConfigurationError(
                f"a comparison is written as one of {', '.join(SUFFIXES)}, got {path.name!r}"
            )
    old, new = read(before), read(after)
    text = str(reporting.compare(old, new))
    for path in output:
        files.outputs(path.parent, [path.name], overwrite=overwrite)
    for path in output:
        reporting.save(new, path, before=old)
    return text
