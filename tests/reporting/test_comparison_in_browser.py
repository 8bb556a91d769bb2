"""Two reports on one page in a real browser: sorted, hovered, driven by keys, printed, silent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from artplus.evaluation import Check
from artplus.evaluation.section import Curves, Section, Series, Table
from artplus.reporting import save
from tests.reporting.browsing import Opened, colour, first_column, luminance
from tests.reporting.samples import EVIL, examples, made, matrix, sections


def curve(*y: float, start: float = 0.0) -> Section:
    """A line over positions a tenth apart."""
    x = tuple(start + k / 10 for k in range(len(y)))
    block = Curves(
        x_label="radius", y_label="accuracy", series=(Series(name="model", x=x, y=y),), caption="C."
    )
    return Section(name="line", title="Line", summary="S.", blocks=(block,))


def classes(*rows: tuple[str, int, float, str]) -> Section:
    """Accuracies by class."""
    table = Table(
        columns=("class", "n", "robust", "robust interval"),
        units=("text", "count", "percent", "text"),
        rows=rows,
        caption="By class.",
    )
    return Section(name="classes", title="Classes", summary="S.", blocks=(table,))


def crowd(shift: float) -> Section:
    """More lines than one chart holds, and a table as wide as they come."""
    names = [f"kind {k}" for k in range(8)]
    lines = tuple(Series(name=n, x=(0.0, 1.0), y=(0.9, 0.9 - shift)) for n in names)
    table = Table(
        columns=("kind", *(f"severity {k}" for k in range(6))),
        units=("text", *("percent" for _ in range(6))),
        rows=tuple((n, *[0.9 - shift * k / 10 for k in range(6)]) for n in names),
    )
    curves = Curves(x_label="severity", y_label="accuracy", series=lines)
    return Section(name="crowd", title="Crowd", summary="S.", blocks=(curves, table))


def cells(low: float) -> Section:
    """A matrix drawn in half a page."""
    block = matrix(values=((1.0, low), (0.25, None)), caption="Cells.")
    return Section(name="cells", title="Cells", summary="S.", blocks=(block,))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two reports with everything that is drawn: overlaid, joined, side by side, and lone."""
    findings = (Check("a", "ok", 0.0, "Fine."), Check(EVIL, "suspicious", 1.0, "Odd.", "Look."))
    before = made(
        stood={"pgd": [0, 0, 0, 1], EVIL: [0, 1, 0, 1], "bad": None},
        sections=(
            *sections(),
            curve(0.9, 0.4, 0.1),
            classes(("cat", 7, 0.2, "5–50%"), ("dog", 9, 0.5, "30–70%"), ("ant", 3, 0.4, "–")),
            crowd(0.5),
            cells(0.0),
        ),
        checks=findings,
        seed=3,
    )
    after = made(
        sections=(
            *(replace(s, notes=(f"otherwise {EVIL}",)) for s in sections()[:-1]),
            curve(0.8, 0.7, 0.6, 0.5),
            classes(("dog", 9, 0.6, "40–80%"), ("ant", 3, 0.9, "–"), ("cat", 7, 0.8, "60–90%")),
            crowd(0.2),
            cells(0.5),
        ),
        checks=findings[:1],
        examples=replace(examples((1, 6, 6)), index=before.examples.index + 2),
    )
    return save(after, tmp_path_factory.mktemp("page") / "compare.html", before=before)


def test_only_the_page_s_own_script_runs(browser: Any, path: Path, tmp_path: Path) -> None:
    """The policy names it by hash: what slips in beside it does not run."""
    broken = tmp_path / "broken.html"
    hole = "<script>window.evil = 1</script><img src=x onerror='window.evil = 2'></body>"
    broken.write_text(path.read_text("utf-8").replace("</body>", hole), encoding="utf-8")
    view = Opened(browser, broken)
    assert view.page.evaluate("window.evil") is None
    assert view.page.locator(".theme").is_visible()
    view.context.close()


def test_the_sentence_and_both_verdicts_are_on_top(opened: Opened) -> None:
    """Before the first table one reads what happened and whether to believe it."""
    page = opened.page
    assert page.inner_text(".verdict").startswith("Worst-case accuracy stayed at 25.0%")
    trust = page.locator("header .trust").all_inner_texts()
    assert trust[0].startswith("Before: Suspicious") and trust[1].startswith("After: Trusted")
    assert "Not the same seed: 3 before, 0 after." in page.locator(".warn").first.inner_text()


def test_tables_of_both_sort_by_any_of_their_columns(opened: Opened) -> None:
    """By the value of either report and by the change, under the heading over them."""
    table = opened.page.locator("section[aria-labelledby=section-classes] table.sorts")
    assert table.locator("tr.over th.several").inner_text() == "robust"
    assert first_column(table) == ["dog", "ant", "cat"]
    for name, wanted in (
        ("before", ["cat", "ant", "dog"]), ("after", ["dog", "cat", "ant"]),
        ("points", ["dog", "ant", "cat"]),
    ):  # fmt: skip
        head = table.get_by_role("button", name=name)
        head.click()
        assert first_column(table) == wanted, name
    assert table.locator("th[aria-sort=ascending]").count() == 1
    table.get_by_role("button", name="points").press("Enter")
    assert first_column(table) == ["cat", "ant", "dog"]
    assert opened.page.inner_text("#status") == "Sorted by points, descending."


def test_clean_and_worst_case_stay_where_they_are(opened: Opened) -> None:
    """Attacks are sorted between them."""
    table = opened.page.locator("table.sorts").first
    table.get_by_role("button", name="change").click()
    rows = table.locator("tbody tr td:first-child").all_inner_texts()
    assert rows[0] == "clean" and rows[-1] == "worst case" and len(rows) == 5
    assert rows[-2] == "bad"  # nothing is known of it


def test_overlaid_curves_tell_both_values(opened: Opened) -> None:
    """Under the pointer and by the arrow keys: both reports, one position."""
    page = opened.page
    plot = page.locator("section[aria-labelledby=section-line] svg.curves")
    plot.scroll_into_view_if_needed()
    box = plot.locator(".mark").nth(1).bounding_box()
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    tip = page.locator(".tip")
    tip.wait_for(state="visible")
    assert tip.inner_text().splitlines() == ["radius: 0.1", "before: 40.0%", "after: 70.0%"]
    page.mouse.move(1, 1)
    tip.wait_for(state="hidden")
    plot.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert tip.inner_text().splitlines() == ["radius: 0.3", "after: 50.0%"]
    page.keyboard.press("Escape")
    assert tip.is_hidden()


def test_curves_over_unlike_positions_tell_the_nearest(browser: Any, tmp_path: Path) -> None:
    """Where the other report has a value close by, it is told with its own position."""
    before, after = curve(0.9, 0.4, 0.1), curve(0.8, 0.7, 0.6, start=0.002)
    path = save(made(sections=(after,)), tmp_path / "c.html", before=made(sections=(before,)))
    view = Opened(browser, path)
    view.page.locator("svg.overlay").focus()
    view.page.keyboard.press("ArrowRight")
    told = view.page.locator(".tip").inner_text().splitlines()
    assert told == ["radius: 0", "before: 90.0%", "after: 80.0% at 0.002"]
    assert view.quiet()
    view.context.close()


def test_the_earlier_line_is_dashed_on_the_chart_and_in_its_legend(opened: Opened) -> None:
    """Colour is not all that tells the two apart."""
    figure = opened.page.locator("section[aria-labelledby=section-line] figure")
    assert figure.locator(".legend li").all_inner_texts() == ["before", "after"]
    dashes = figure.locator("path.line").evaluate_all(
        "all => all.map(e => getComputedStyle(e).strokeDasharray)"
    )
    # In the legend, then on the chart: before, after.
    assert [dash != "none" for dash in dashes] == [True, False, True, False]
    figure.locator("details.values summary").click()
    assert "40.0%" in figure.locator("details.values").inner_text()


def test_halves_stand_side_by_side(opened: Opened) -> None:
    """Cells of both at one height, each told on demand with its full value."""
    page = opened.page
    plots = page.locator("section[aria-labelledby=section-cells] svg.heat")
    one, two = plots.nth(0).bounding_box(), plots.nth(1).bounding_box()
    assert one["y"] == pytest.approx(two["y"], abs=1) and one["x"] + one["width"] <= two["x"]
    plots.nth(1).locator(".cell").nth(1).hover()
    assert page.locator(".tip").inner_text() == "cat → dog\n50.0%"


def test_many_lines_are_small_charts_with_a_keyboard_each(opened: Opened) -> None:
    """Eight things, eight charts; each is read by itself."""
    page = opened.page
    plots = page.locator("section[aria-labelledby=section-crowd] .many svg.plot")
    assert plots.count() == 8
    plots.nth(3).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".tip").inner_text() == "severity: 1\nbefore: 40.0%\nafter: 70.0%"


def test_theme_turns_by_its_button(browser: Any, path: Path) -> None:
    """As on the page of one report."""
    view = Opened(browser, path, color_scheme="dark")
    assert luminance(colour(view.page, "body", "backgroundColor")) < 0.5
    view.page.locator(".theme").click()
    assert luminance(colour(view.page, "body", "backgroundColor")) > 0.5
    assert view.quiet()
    view.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_of_a_comparison_is_readable(browser: Any, path: Path, scheme: str) -> None:
    """Computed colours against the ground behind them: at least 4.5 to 1."""
    view = Opened(browser, path, color_scheme=scheme)
    count, ratio, what = view.faintest()
    assert count > 300 and ratio >= 4.5, what
    view.context.close()


@pytest.mark.parametrize("width", [360, 700, 1000])
def test_no_width_scrolls_sideways(browser: Any, path: Path, width: int) -> None:
    """Wide tables scroll in their own place; on a phone halves stand one under the other."""
    view = Opened(browser, path)
    page = view.page
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sides = page.locator("section[aria-labelledby=section-cells] .beside > .card")
    same = sides.nth(0).bounding_box()["y"] == pytest.approx(sides.nth(1).bounding_box()["y"])
    assert same == (width > 760)
    view.context.close()


def test_comparison_prints(browser: Any, path: Path) -> None:
    """Light, halves still side by side, and nothing wider than the paper, however wide a table."""
    view = Opened(browser, path, color_scheme="dark")
    page = view.page
    page.emulate_media(media="print")
    page.set_viewport_size({"width": 688, "height": 970})  # A4 less its margins
    assert luminance(colour(page, "body", "backgroundColor")) == pytest.approx(1)
    for hidden in (".theme", ".skip", "nav"):
        assert page.locator(hidden).is_hidden()
    wide = page.evaluate(
        "[...document.querySelectorAll('main *')]"
        ".filter(e => e.getBoundingClientRect().right > 690).map(e => e.outerHTML.slice(0, 99))"
    )
    assert wide == []
    sides = page.locator("section[aria-labelledby=section-cells] .beside > .card")
    assert sides.nth(0).bounding_box()["y"] == pytest.approx(sides.nth(1).bounding_box()["y"])
    pdf = page.pdf(format="A4")
    assert pdf.startswith(b"%PDF") and len(pdf) > 10_000
    assert view.quiet()
    view.context.close()


def test_comparison_without_scripts_is_complete(browser: Any, path: Path) -> None:
    """Everything is drawn by then."""
    view = Opened(browser, path, java_script_enabled=False)
    page = view.page
    assert page.locator(".theme").is_hidden()
    assert page.locator("section[aria-labelledby=section-line] svg.curves path.line").count() == 2
    assert "Only the report before holds this section" in page.inner_text("main")
    view.context.close()
