"""Sections in every format: drawn where they should be, complete, escaped, and bounded in size."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup
from matplotlib.image import imread

from artplus.evaluation import Report, wording
from artplus.evaluation.section import Block, Curves, Group, Scatter, Section, Series, Table
from artplus.reporting import charts, heatmap, html, markdown, palette, views
from artplus.reporting.axes import axis
from artplus.reporting.json import read
from artplus.reporting.stack import of_report
from tests.reporting.samples import EVIL, curves, made, matrix, sections


def parsed(markup: Markup) -> ET.Element:
    """The picture as a tree: it is well formed."""
    return ET.fromstring(str(markup).replace("&#34;", "&quot;"))


def marks(markup: Markup) -> list[ET.Element]:
    return [element for element in parsed(markup).iter() if "data-tip" in element.attrib]


def report_with(*given: Section) -> Report:
    return made(sections=given or sections())


# --- the page -----------------------------------------------------------------------------------


def test_page_shows_every_kind_of_block_and_escapes_it() -> None:
    """Headings, tables, charts, pictures and words are there; no name becomes markup."""
    text = html.render(report_with())
    assert "<script>alert" not in text and text.count("<script>") == 1
    for title in ("table", "curve", "matrix", "scatter", "gallery", "passages"):
        assert f'<h2 id="section-{title}">The {title}</h2>' in text
        assert f'href="#section-{title}"' in text
    assert text.count('class="plot ') == 3
    assert text.count('<table class="sorts">') == 1
    assert 'class="token raises w5"' in text and 'class="token lowers w2"' in text
    assert "heat" in text and "Values as a table" in text


def test_page_headings_are_in_order_and_pictures_have_words() -> None:
    """No level is skipped, every picture has an alternative text, every id is unique."""
    text = html.render(report_with())
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", text)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
    assert all('aria-label="' in svg or "aria-hidden" in svg
               for svg in re.findall(r"<svg [^>]*>", text))  # fmt: skip
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]+)"', text)
    assert set(links) <= set(ids)
    for landmark in ("<header", "<nav", "<main", "<footer"):
        assert text.count(landmark) == 1


def test_sections_of_like_names_have_anchors_of_their_own() -> None:
    """Names that differ by signs alone do not share an anchor."""
    same = [Section(name=name, title="t", summary="s") for name in ("a b", "a-b", "a_b")]
    assert (
        len({view.anchor for view in views.sections([of_report(section) for section in same])}) == 3
    )


def test_long_tables_and_many_points_are_bounded() -> None:
    """Ten thousand rows or points do not reach the page; it says what is left out."""
    n = 10_000
    table = Table(columns=("a", "b"), units=("count", "number"),
                  rows=tuple((k, k / 7) for k in range(n)))  # fmt: skip
    values = tuple(float(v) for v in np.random.default_rng(0).standard_normal(n))
    cloud = Scatter(x_label="x", y_label="y", groups=(Group(name="g", x=values, y=values),))
    line = Curves(x_label="x", y_label="y", y_unit="number",
                  series=(Series(name="s", x=tuple(map(float, range(n))), y=values),))  # fmt: skip
    blocks = tuple(
        Section(name=str(k), title="t", summary="s", blocks=(block,))
        for k, block in enumerate((table, cloud, line))
    )
    text = html.render(report_with(*blocks))
    assert "The first 300 of 10,000 rows" in text and "every 4th is drawn" in text
    assert text.count("data-tip") <= charts.POINTS + charts.READABLE
    assert len(text) < 1_500_000


# --- curves, points, cells ----------------------------------------------------------------------


def test_curves_lie_where_their_values_are() -> None:
    """Height falls with the value, equal positions share a column, marks tell intervals."""
    drawn = charts.curves(curves())
    found = marks(drawn.svg)
    assert len(found) == 3 + 3 and len(drawn.legend) == 2
    tips = [mark.attrib["data-tip"] for mark in found]
    assert tips[0] == "before: 90.0%" and tips[3] == f"after {EVIL}: 80.0% (75.0–85.0%)"
    assert found[0].attrib["data-head"] == f"radius {EVIL}: 0"
    x, y = ([float(mark.attrib[key]) for mark in found] for key in ("data-x", "data-y"))
    assert x[0] == x[3] and x[1] == x[4] and x[0] < x[1] < x[2] < x[5]
    assert y[0] < y[1] < y[2]
    # 0.9, 0.4 and 0.1 on an axis from 0 to 1: heights in proportion.
    assert (y[1] - y[0]) / (y[2] - y[1]) == pytest.approx(5 / 3, rel=0.02)
    bands = [e for e in parsed(drawn.svg).iter() if e.attrib.get("class", "").startswith("band")]
    assert len(bands) == 1 and bands[0].attrib["d"].count("M") == 2  # one on each side of the gap
    lines = [e for e in parsed(drawn.svg).iter() if e.attrib.get("class", "").startswith("line")]
    assert [line.attrib["d"].count("M") for line in lines] == [1, 2]


def test_lines_differ_by_more_than_colour() -> None:
    """Each of many lines has a pair of colour and shape of its own."""
    many = tuple(Series(name=str(k), x=(0.0, 1.0), y=(0.1, 0.2)) for k in range(16))
    legend = charts.curves(curves(series=many)).legend
    shapes = {
        (
            re.findall(r"mark (s\d)", str(sign))[0],
            re.sub(r"[\d.]+", "", str(sign).split(' d="')[-1]),
        )
        for _, sign in legend
    }
    assert len(shapes) == 16


def test_scatter_tells_its_labels() -> None:
    """A point's own label, else its position; groups in the legend; nothing infinite is drawn."""
    block = sections()[3].blocks[0]
    assert isinstance(block, Scatter)
    found = marks(charts.scatter(block).svg)
    assert [m.attrib["data-tip"] for m in found] == ["one", f"two {EVIL}", "-1, 4"]
    assert [m.attrib["data-head"] for m in found] == ["clean", "clean", EVIL]
    odd = Scatter(x_label="x", y_label="y",
                  groups=(Group(name="g", x=(math.nan, 1.0), y=(0.0, math.inf)),))  # fmt: skip
    assert marks(charts.scatter(odd).svg) == []


def test_cells_are_the_fuller_the_larger() -> None:
    """Levels run over the span, missing values have none, and every cell tells its pair."""
    drawn = heatmap.matrix(matrix())
    cells = marks(drawn.svg)
    assert [cell.attrib["class"] for cell in cells] == [
        "cell h16",
        "cell h0",
        "cell h4",
        "cell hnone",
    ]
    assert [cell.attrib["data-tip"] for cell in cells] == ["100.0%", "0.0%", "25.0%", "–"]
    assert cells[2].attrib["data-head"] == f"dog {EVIL} → cat"
    wide = matrix(values=((10.0, 20.0), (30.0, 40.0)), unit="number")
    assert heatmap.span(wide) == (10, 40)
    assert heatmap.span(matrix(values=((10.0, 20.0), (30.0, 40.0)), unit="count")) == (0, 40)
    shared = matrix(values=((10.0, 20.0), (30.0, 40.0)), unit="number", span=(0.0, 80.0))
    classes = [cell.attrib["class"] for cell in marks(heatmap.matrix(shared).svg)]
    assert classes == ["cell h2", "cell h4", "cell h6", "cell h8"]
    assert [heatmap.level(v, 0, 1) for v in (-1.0, 0.0, 0.5, 2.0)] == [0, 0, 8, 16]
    assert heatmap.level(3.0, 3.0, 3.0) == 0


def test_large_matrices_carry_no_values() -> None:
    """Beyond a few thousand cells the page says so; names are thinned and shortened."""
    side = 60
    names = tuple(f"{k}" for k in range(side))
    block = matrix(rows=names, columns=names, values=((0.5,) * side,) * side)
    drawn = heatmap.matrix(block)
    assert marks(drawn.svg) == [] and "too many" in drawn.note
    texts = [e.text for e in parsed(drawn.svg).iter() if e.tag == "text"]
    assert len(texts) < side
    long = heatmap.matrix(matrix(rows=("a" * 80, "b"), columns=("c" * 80, "d")))
    assert "a" * 30 not in "".join(t.text or "" for t in parsed(long.svg).iter("text"))
    assert "rotate(" in str(long.svg)


# --- axes and colours ---------------------------------------------------------------------------


@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=6),
    st.sampled_from(["number", "count", "percent"]),
    st.booleans(),
)
def test_axis_holds_its_values_and_marks(
    values: list[float], unit: wording.Unit, tight: bool
) -> None:
    """Every value lies on the axis, marks are ascending, distinct and on it, and not too many."""
    found = axis(values, unit, tight=tight)
    slack = 1e-6 * max(1.0, abs(found.low), abs(found.high))
    assert found.low < found.high
    assert all(found.low - slack <= value <= found.high + slack for value in values)
    assert list(found.ticks) == sorted(set(found.ticks)) and len(found.ticks) <= 9
    assert all(found.low - slack <= tick <= found.high + slack for tick in found.ticks)
    assert len(set(found.labels)) == len(found.labels) == len(found.ticks)


def test_axis_has_round_marks() -> None:
    """Shares run from 0 to 1, counts by whole numbers, missing values do not matter."""
    assert axis([0.2, None, math.nan], "percent").labels == ("0%", "25%", "50%", "75%", "100%")
    assert axis([1, 5], "count", tight=True).labels == ("1", "2", "3", "4", "5")
    assert axis([0.0, 0.3], "number", tight=True).labels[:3] == ("0.0", "0.1", "0.2")
    assert axis([-1, 1], "number").labels == ("−1.0", "−0.5", "0.0", "0.5", "1.0")
    assert axis([], "number").low == 0
    assert axis([2.0, 2.0], "number").place(2.0, 0, 100) == pytest.approx(50, abs=50)
    assert axis([0, 3e7], "number").labels[-1] == "30,000,000"


@pytest.mark.parametrize("colours", [palette.light(), palette.dark()])
def test_every_text_can_be_read(colours: dict[str, str]) -> None:
    """WCAG's 4.5 for text on all that it stands on, 3 for marks of charts."""
    for text in ("ink", "soft", "clean", "worst", "good"):
        for ground in ("paper", "card", "track"):
            assert palette.contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert palette.contrast(colours["warn-ink"], colours["warn"]) >= 4.5
    assert palette.contrast(colours["warn-ink"], colours["card"]) >= 4.5
    for level in range(palette.LEVELS):
        assert palette.contrast(colours[f"h{level}"], colours[f"on-h{level}"]) >= 4.5
    for series in range(palette.SERIES):
        assert palette.contrast(colours[f"s{series}"], colours["card"]) >= 3
    for pull in ("raises", "lowers"):
        ground = palette.blend(colours["card"], colours[pull], 0.1 * views.STRENGTHS)
        assert palette.contrast(colours["ink"], ground) >= 4.5


# --- Markdown, text, picture, JSON --------------------------------------------------------------


def test_markdown_has_every_section() -> None:
    """Tables and curves as tables, pictures in words, no markup from names."""
    text = markdown.render(report_with())
    assert "<" not in text.replace("&lt;", "")
    for title in ("table", "curve", "matrix", "scatter", "gallery", "passages"):
        assert f"## The {title}" in text
    assert "| 0 | 90.0% | 80.0% (75.0–85.0%) |" in text
    assert "3 pictures in the HTML page" in text and "**good**" in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in block.strip().splitlines()}
        assert len(widths) == 1
    assert "note on the gallery" in text


def lines(block: Block) -> str:
    section = Section(name="n", title="t", summary="s", blocks=(block,))
    return "\n".join(markdown.section(of_report(section)))


def test_markdown_is_cut_to_a_size_that_is_read() -> None:
    """Long curves are thinned with both ends kept, long tables cut, wide matrices left out."""
    n = 101
    x = tuple(k / 100 for k in range(n))
    text = lines(curves(series=(Series(name="s", x=x, y=x),)))
    # The heading of the table, its rule and its rows.
    assert len(re.findall(r"^\|", text, re.MULTILINE)) == markdown.POSITIONS + 2
    assert "| 0 | 0.0% |" in text and "| 1 | 100.0% |" in text and "13 of 101 positions" in text
    table = Table(columns=("a",), units=("count",), rows=tuple((k,) for k in range(50)))
    cut = lines(table)
    assert "10 further rows" in cut and "| 39 |" in cut and "| 40 |" not in cut
    names = tuple(map(str, range(20)))
    wide = matrix(rows=names, columns=names, values=((0.5,) * 20,) * 20)
    left = lines(wide)
    assert "20 × 21 is in the HTML page" in left and "|" not in left


def test_terminal_text_is_short() -> None:
    """The title and the sentence of each section, none of its figures."""
    text = str(report_with())
    assert "The curve\n  What the curve says" in text and "75.0–85.0%" not in text
    assert len(text.splitlines()) < 60


def test_picture_has_the_curves(tmp_path: Path) -> None:
    """Curves stand under the bars; what is no curve is left to the page."""
    plain = imread(made(sections=()).save(tmp_path / "plain.png"))
    full = imread(report_with().save(tmp_path / "full.png"))
    assert full.shape[0] > plain.shape[0]
    dollars = Section(name="a", title="$x_1", summary="s", blocks=(curves(x_label="$y"),))
    assert imread(report_with(dollars).save(tmp_path / "d.png")).std() > 0.01


def test_page_of_a_report_read_back_is_the_same(tmp_path: Path) -> None:
    """Every block survives JSON, so a page can be made later."""
    report = report_with()
    path = report.save(tmp_path / "r.json")
    assert html.render(read(path)) == html.render(report)


# --- words --------------------------------------------------------------------------------------


def test_cells_are_written_by_their_unit() -> None:
    """Shares, counts, numbers, and what is not finite."""
    written = [wording.cell(v, "number") for v in (0.123456, 12.0, 12345.0, 12345.6, 1e12, -0.5)]
    assert written == ["0.123", "12", "12,345", "1.235e+04", "1e+12", "-0.5"]
    assert wording.cell(1234567, "count") == "1,234,567" and wording.cell(0.5, "percent") == "50.0%"
    assert [wording.cell(v, "number") for v in (math.inf, -math.inf, math.nan)] == [
        "∞", "−∞", "unknown",
    ]  # fmt: skip
    assert wording.cell(None, "percent") == "–" and wording.cell("a", "number") == "a"
    assert wording.measured(0.5, 0.4, None, "percent") == "50.0%"
    assert wording.measured(2.0, 1.0, 3.0, "number") == "2 (1–3)"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "with no check made of whether the attacks worked"),
        ({"verdicts": ("ok",)}, "and 1 check found no sign that the attacks failed."),
        ({"verdicts": ("ok", "suspicious")}, "but 1 of 2 checks say that the truth may be lower."),
        ({"verdicts": ("broken",)}, "This evaluation is broken"),
        ({"stood": {"bad": None}}, "No attack worked"),
        ({"regression": True}, "The mean loss is 1.75 in the worst case"),
        ({"norm": None}, "At most 25.0% of inputs stay right under attack, with"),
    ],
)
def test_headline_is_one_sentence(options: dict[str, object], words: str) -> None:
    """The result, and whether to believe it."""
    from artplus.evaluation import Check

    verdicts = options.pop("verdicts", ())
    found = tuple(Check(v, v, 0.0, "why") for v in verdicts)  # type: ignore[arg-type,attr-defined]
    text = wording.headline(made(checks=found, **options))
    assert words in text and text.endswith(".") and text.count(". ") == 0
