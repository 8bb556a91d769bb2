"""Gates as JUnit XML, which continuous integration shows beside tests."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

if TYPE_CHECKING:
    from artplus.evaluation.report import Report

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot contain, even escaped."""


@dataclass(frozen=True)
class Case:
    """One gate.

    Attributes:
        name: What is required.
        failure: Why the requirement is not met; ``None`` if it is.
        skipped: Why that is unknown; ``None`` if it is known.
    """

    name: str
    failure: str | None = None
    skipped: str | None = None


def render(report: Report, cases: Sequence[Case]) -> str:
    """One test suite, a test case for each gate, the report's table as its output."""
    seconds = f"{sum(result.seconds for result in report.attacks):.3f}"
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.failure is not None for case in cases)),
        "errors": "0",
        "skipped": str(sum(case.skipped is not None for case in cases)),
        "time": seconds,
    }
    root = Element("testsuites", counts)
    suite = SubElement(root, "testsuite", {"name": "artplus", **counts})
    if report.date:
        suite.set("timestamp", _clean(report.date))
    for case in cases:
        entry = SubElement(
            suite,
            "testcase",
            {"name": _clean(case.name), "classname": _clean(f"artplus.{report.model}"),
             "time": "0"},
        )  # fmt: skip
        for tag, text in (("failure", case.failure), ("skipped", case.skipped)):
            if text is not None:
                SubElement(entry, tag, {"message": _clean(text)})
    SubElement(suite, "system-out").text = _clean(str(report))
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
