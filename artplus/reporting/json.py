"""A report as a JSON file, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from artplus.errors import DataError

if TYPE_CHECKING:
    from artplus.evaluation.report import Report
    from artplus.evaluation.threats import ThreatReport


def render(report: Report) -> str:
    """The report as indented JSON."""
    return report.to_json(indent=1) + "\n"


def read(path: str | Path) -> Report:
    """The report that ``report.save("report.json")`` wrote.

    Raises:
        DataError: if the file is not there or no report.
    """
    from artplus.evaluation.report import Report

    return Report.from_json(_content(path))


def read_either(path: str | Path) -> Report | ThreatReport:
    """The report in a file, on one threat or on several.

    Raises:
        DataError: if the file is not there or neither.
    """
    from artplus.evaluation import schema, threats
    from artplus.evaluation.report import Report

    data = schema.parse(_content(path))
    if data.get("format") == threats.FORMAT:
        return threats.ThreatReport.from_dict(data)
    return Report.from_dict(data)


def _content(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read a report from {str(path)!r}: {error}") from error
