"""A report as a JSON file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from artplus.errors import DataError

if TYPE_CHECKING:
    from artplus.evaluation.report import Report


def render(report: Report) -> str:
    """The report as indented JSON."""
    return report.to_json(indent=1) + "\n"


def read(path: str | Path) -> Report:
    """The report that ``report.save("report.json")`` wrote.

    Raises:
        DataError: if the file is not there or no report.
    """
    from artplus.evaluation.report import Report

    try:
        content = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read a report from {str(path)!r}: {error}") from error
    return Report.from_json(content)
