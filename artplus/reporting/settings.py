"""Settings of an attack as texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from artplus.evaluation import wording


def settings(params: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as people read them."""
    return [
        (key, wording.number(value) if isinstance(value, float) else str(value))
        for key, value in params.items()
    ]
