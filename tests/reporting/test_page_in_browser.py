"""The page in a real browser: sorted, hovered, driven by keys, printed, silent on the network."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest

from artplus.evaluation import AttackResult, Check, Report
from artplus.reporting import html
from tests.reporting.browsing import Opened, colour, first_column, luminance
from tests.reporting.samples import EVIL, made, sections


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every kind of block, hostile names, and findings."""
    findings = (Check("a", "ok", 0.0, "Fine."), Check(EVIL, "suspicious", 1.0, "Odd.", "Look."))
    report = made(sections=sections(), checks=findings)
    return report.save(tmp_path_factory.mktemp("page") / "report.html")


def test_hostile_names_are_shown_and_do_not_run(opened: Opened) -> None:
    """A name that holds a script is text everywhere; the page's own script is the only one."""
    page = opened.page
    assert EVIL in page.inner_text("h1")
    assert page.locator("script").count() == 1
    assert EVIL in page.inner_text("#section-table ~ p")
    assert page.evaluate("document.querySelectorAll('main script, header script').length") == 0


def test_no_other_script_can_run(browser: Any, path: Path, tmp_path: Path) -> None:
    """Were markup to slip through all the same, the page's policy would stop it."""
    broken = tmp_path / "broken.html"
    hole = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'></body>"
    broken.write_text(path.read_text("utf-8").replace("</body>", hole), encoding="utf-8")
    view = Opened(browser, broken)
    assert view.page.evaluate("window.evil") is None
    assert any("Content Security Policy" in error for error in view.errors)
    assert view.page.locator(".theme").is_visible()  # its own script has run
    view.context.close()


def test_tables_sort_by_click(opened: Opened) -> None:
    """Numbers as numbers, texts as texts, what is missing last; the heading says which way."""
    table = opened.page.locator("table.sorts").nth(1)
    cat, dog, ant = first_column(table)
    heads = table.locator("th")
    n = table.get_by_role("button", name="n", exact=True)
    n.click()
    assert first_column(table) == [ant, dog, cat]
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    n.click()
    assert first_column(table) == [cat, dog, ant]
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    robust = table.get_by_role("button", name="robust")
    for wanted in ([cat, ant, dog], [ant, cat, dog]):  # dog has no value, so it stays last
        robust.click()
        assert first_column(table) == wanted
    assert heads.nth(1).get_attribute("aria-sort") == "none"
    table.get_by_role("button", name="Name").click()  # the last column, whose heading is empty
    assert first_column(table) == [ant, cat, dog]
    assert opened.page.inner_text("#status").endswith("ascending.")


def test_tables_sort_by_keyboard(opened: Opened) -> None:
    """Tab leads to the headings, Enter and space sort; clean and worst case stay where they are."""
    page = opened.page
    table = page.locator("#attacks")
    table.get_by_role("button", name="attack").focus()
    before = first_column(table)
    page.keyboard.press("Enter")
    assert first_column(table) == sorted(before, key=str.lower)
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    assert first_column(table)[-1] == "bad"  # broken: no accuracy
    rows = table.locator("tbody tr td:first-child").all_inner_texts()
    assert rows[0] == "clean" and rows[-1] == "worst case"


def test_skip_link_is_the_first_stop(opened: Opened) -> None:
    """The first Tab shows it, Enter leads past the header."""
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"


def test_theme_follows_the_system_until_the_button_is_used(browser: Any, path: Path) -> None:
    """Dark where the system is dark; the button turns it, and says where it leads."""
    for scheme, other in (("light", "Dark theme"), ("dark", "Light theme")):
        view = Opened(browser, path, color_scheme=scheme)
        page = view.page
        button = page.locator(".theme")
        before = luminance(colour(page, "body", "backgroundColor"))
        assert (before > 0.5) == (scheme == "light")
        assert button.inner_text() == other
        button.click()
        after = luminance(colour(page, "body", "backgroundColor"))
        assert (after > 0.5) != (scheme == "light")
        assert button.inner_text() != other
        assert view.quiet()
        view.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_is_readable_as_it_is_drawn(browser: Any, path: Path, scheme: str) -> None:
    """Computed colours of every text against the ground behind it: at least 4.5 to 1."""
    view = Opened(browser, path, color_scheme=scheme)
    worst = view.faintest()
    assert worst[0] > 100 and worst[1] >= 4.5, worst
    view.context.close()


def test_curves_tell_their_values_under_the_pointer(opened: Opened) -> None:
    """All lines at the nearest position, with intervals; gone when the pointer leaves."""
    page = opened.page
    plot = page.locator("svg.curves")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".mark").nth(1).bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    tip = page.locator(".tip")
    tip.wait_for(state="visible")
    told = tip.inner_text().splitlines()
    assert told == [f"radius {EVIL}: 0.1", "before: 40.0%", f"after {EVIL}: 70.0% (60.0–80.0%)"]
    assert plot.locator(".mark.on").count() == 2
    inside = tip.bounding_box()
    assert inside["x"] >= 0 and inside["x"] + inside["width"] <= 1000
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")


def test_charts_are_read_by_arrow_keys(opened: Opened) -> None:
    """Right goes on, left back, escape ends; a screen reader is told too."""
    page = opened.page
    tip = page.locator(".tip")
    page.locator("svg.curves").focus()
    for key, words in (
        ("ArrowRight", ": 0\n"), ("ArrowRight", ": 0.1\n"), ("ArrowRight", ": 0.2\n"),
        ("ArrowLeft", ": 0.1\n"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert words in tip.inner_text()
    assert "before: 40.0%" in page.inner_text("#status")
    page.keyboard.press("Escape")
    assert tip.is_hidden()
    page.locator("svg.heat").focus()
    for key, words in (
        ("ArrowRight", "cat → cat\n100.0%"), ("ArrowDown", "→ cat\n25.0%"),
        ("ArrowRight", "→ dog\n–"), ("ArrowRight", "→ dog\n–"), ("ArrowUp", "cat → dog\n0.0%"),
    ):  # fmt: skip
        page.keyboard.press(key)
        assert words in tip.inner_text()
    page.locator("svg.scatter").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert tip.inner_text() == f"clean\ntwo {EVIL}"


def test_cells_and_points_tell_theirs_under_the_pointer(opened: Opened) -> None:
    """The cell under the pointer, the point beside it, nothing far from any."""
    page = opened.page
    tip = page.locator(".tip")
    page.locator("svg.heat .cell").nth(2).hover()
    assert tip.inner_text() == f"dog {EVIL} → cat\n25.0%"
    page.locator("svg.scatter .mark").nth(0).hover()
    assert tip.inner_text() == "clean\none"
    box = page.locator("svg.scatter").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 60)
    assert tip.is_hidden()


def test_what_is_told_stays_at_its_mark(opened: Opened) -> None:
    """It moves with the page as it scrolls, and only one chart tells something at a time."""
    page = opened.page
    tip = page.locator(".tip")
    page.locator("svg.curves").focus()
    page.keyboard.press("ArrowRight")
    before = page.locator("svg.curves .mark.on").first.bounding_box()["y"] - tip.bounding_box()["y"]
    page.evaluate("scrollBy({top: 60, behavior: 'instant'})")
    page.wait_for_timeout(100)
    after = page.locator("svg.curves .mark.on").first.bounding_box()["y"] - tip.bounding_box()["y"]
    assert after == pytest.approx(before, abs=2)
    page.locator("svg.heat .cell").nth(0).hover()
    assert page.locator("svg.curves .mark.on").count() == 0
    assert tip.inner_text().startswith("cat → cat")


def test_values_can_be_unfolded_as_a_table(opened: Opened) -> None:
    """What a chart draws is there in words too."""
    details = opened.page.locator("details.values").first
    details.locator("summary").click()
    assert "80.0% (75.0–85.0%)" in details.inner_text()


def test_page_prints_by_day_and_without_controls(browser: Any, path: Path) -> None:
    """On paper light, whatever the screen was; buttons are gone, nothing is wider than the page."""
    view = Opened(browser, path, color_scheme="dark")
    page = view.page
    page.locator(".theme").click()
    page.locator(".theme").click()  # dark by the button, not only by the system
    page.emulate_media(media="print")
    assert luminance(colour(page, "body", "backgroundColor")) == pytest.approx(1)
    assert luminance(colour(page, "body", "color")) < 0.1
    for hidden in (".theme", ".skip", "nav"):
        assert page.locator(hidden).is_hidden()
    assert colour(page, "figure.card", "breakInside") == "avoid"
    page.set_viewport_size({"width": 688, "height": 970})  # A4 less its margins
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
    assert view.quiet()
    view.context.close()


def test_page_fits_a_phone(browser: Any, path: Path) -> None:
    """At 360 pixels wide the page itself does not scroll sideways."""
    view = Opened(browser, path, has_touch=True)
    view.page.set_viewport_size({"width": 360, "height": 740})
    assert view.page.evaluate("document.documentElement.scrollWidth") <= 360
    view.context.close()


def test_page_without_scripts_is_complete(browser: Any, path: Path) -> None:
    """Everything is drawn by then; only the theme's button, which would do nothing, is hidden."""
    view = Opened(browser, path, java_script_enabled=False)
    page = view.page
    assert page.locator(".theme").is_hidden()
    assert page.locator("svg.curves .line").count() == 2
    assert "95% interval" in page.inner_text("main")
    view.context.close()


def big(n: int = 10_000) -> Report:
    rng = np.random.default_rng(0)
    stood = [rng.random(n) < share for share in (0.5, 0.6, 0.7)]
    attacks = tuple(
        AttackResult(
            name=f"attack {k}", norm=np.inf, eps=0.1, correct=rows, attacked=n,
            losses=rng.random(n), metrics={"loss": 0.5}, max_norm=0.1, seconds=1.0,
        )
        for k, rows in enumerate(stood)
    )  # fmt: skip
    return made(
        n=n, attacks=attacks, losses_clean=rng.random(n), correct_clean=np.ones(n, dtype=bool),
        worst_attack=("",) * n, predictions_clean=rng.integers(0, 10, n), sections=sections(),
    )  # fmt: skip


def test_ten_thousand_samples_load_in_under_a_second(browser: Any, tmp_path: Path) -> None:
    """The page holds what it draws and not the samples, so it loads as fast as a small one."""
    path = big().save(tmp_path / "big.html")
    assert path.stat().st_size < 1.1 * len(html.render(made(sections=sections())).encode())
    times = []
    for _ in range(3):  # the least of three: the machine may be busy
        start = perf_counter()
        view = Opened(browser, path)
        view.page.wait_for_load_state("load")
        times.append(perf_counter() - start)
        spent = view.page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        assert view.quiet()
        view.context.close()
        assert spent > 0
    assert min(times) < 1, times
