"""The browser that pages are tried in."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.browsing import CHROMIUM, NAMES, Opened


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window, where there is one and something that drives it."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no browser driver: pip install playwright"
    )
    if CHROMIUM is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, path: Path) -> Iterator[Opened]:
    """The module's page by day; afterwards nothing may have gone wrong."""
    view = Opened(browser, path, color_scheme="light")
    yield view
    assert view.quiet(), (view.errors, view.requests)
    view.context.close()
