"""Reports read back from JSON files."""

from __future__ import annotations

from pathlib import Path

from artplus.errors import DataError
from artplus.evaluation import schema, threats
from artplus.evaluation.report import Report
from artplus.evaluation.threats import ThreatReport


def read(path: str | Path) -> Report:
    """The report that ``report.save("report.json")`` wrote.

    Raises:
        DataError: if the file is not there or no report.
    """
    return Report.from_json(_content(path))


def read_either(path: str | Path) -> Report | ThreatReport:
    """The report in a file, on one threat or on several.

    Raises:
        DataError: if the file is not there or neither.
    """
    data = schema.parse(_content(path))
    kind = ThreatReport if data.get("format") == threats.FORMAT else Report
    return kind.from_dict(data)


def _content(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read a report from {str(path)!r}: {error}") from error
