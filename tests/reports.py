"""Two reports compared to the last bit."""

from __future__ import annotations

import math
from typing import Any

from artplus.evaluation import Report


def told(report: Report) -> dict[str, Any]:
    """Everything that a report says, but for date and times."""
    data = {**report.to_dict(), "date": ""}
    for result in data["attacks"]:
        result["seconds"] = 0.0
    return data


def assert_same(one: Report, two: Report) -> None:
    """The same to the last bit, date and times aside."""
    a, b = told(one), told(two)
    for key in a:
        assert a[key] == b[key], key
    assert a.keys() == b.keys()


def assert_near(one: Report, two: Report) -> None:
    """The same but for rounding of the losses."""
    _near(told(one), told(two), "report")


def _near(a: Any, b: Any, where: str) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            _near(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (one, two) in enumerate(zip(a, b, strict=True)):
            _near(one, two, f"{where}[{i}]")
    elif isinstance(a, float):
        assert isinstance(b, (int, float)) and math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6), where
    else:
        assert a == b, where
