"""Two reports side by side: the right values beside each other, what differs said, all escaped."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from artplus.evaluation import Check, Report
from artplus.evaluation.section import (
    Block,
    Curves,
    Gallery,
    Group,
    Matrix,
    Picture,
    Scatter,
    Section,
    Series,
    Table,
)
from artplus.reporting import compare, html, markdown, save
from artplus.reporting.change import paired, points, signed
from artplus.reporting.json import read
from artplus.reporting.stack import Beside, Merged, Overlay, of_reports, overlay, stacked
from artplus.reporting.tables import merged_table
from artplus.reporting.views import LINES
from artplus.reporting.views import sections as views_of
from tests.reporting.samples import EVIL, examples, made, sections


def section(*blocks: Block, **options: Any) -> Section:
    return Section(**{"name": "s", "title": "t", "summary": "u", "blocks": blocks, **options})


def line(name: str = "model", *y: float, start: float = 0.0) -> Series:
    return Series(name=name, x=tuple(start + k for k in range(len(y))), y=y)


def chart(*series: Series, **options: Any) -> Curves:
    return Curves(**{"x_label": "L∞ radius", "y_label": "accuracy", "series": series, **options})


def shown(before: Block, after: Block) -> Any:
    """How a section of these blocks alone is shown."""
    (pair,) = of_reports([section(before)], [section(after)])
    (found,) = pair.shown
    return found


# --- the whole ----------------------------------------------------------------------------------


def test_headline_has_both_accuracies_with_intervals_and_p_values() -> None:
    """One sentence: gains in the worst case, losses without an attack, each with its doubt."""
    n = 40
    clean = np.ones(n, dtype=bool)
    lost = np.arange(n) >= 2
    options: dict[str, Any] = {"n": n, "losses_clean": np.ones(n)}
    before = made(stood={"a": [0] * n}, correct_clean=clean, **options)
    after = made(stood={"a": [*[0] * 20, *[1] * 20]}, correct_clean=lost, **options)
    result = compare(before, after)
    assert result.headline == (
        "Worst-case accuracy rose by 50.0 points, from 0.0% to 50.0% "
        "(95% interval +29.1 to +66.2, p < 0.001); clean accuracy fell by 5.0 points, from 100.0% "
        "to 95.0% (95% interval -16.9 to +6.4, p = 0.5)."
    )
    assert "20 examples gained, 0 lost in the worst case; 0 examples gained, 2 lost without" in (
        result.verdict
    )
    assert compare(before, before).headline.startswith("Worst-case accuracy stayed at 0.0%")


def test_pairs_are_counted_per_example() -> None:
    """Gains and losses, an interval that holds the change, and nothing from nothing."""
    old, new = np.array([1, 0, 0, 1] * 10, bool), np.array([1, 1, 0, 0] * 10, bool)
    test = paired(old, new)
    assert test is not None and (test.gained, test.lost, test.p_value) == (10, 10, 1.0)
    assert test.interval[0] < 0 < test.interval[1]
    assert paired(None, new) is None and paired(old, None) is None
    assert signed(math.inf, "number") == "–" and signed(None, "percent") == "–"
    assert (signed(0.0, "count"), signed(1234.0, "count")) == ("0", "+1,234")
    assert points(-0.0004) == "0.0"


def test_a_broken_evaluation_is_said_first() -> None:
    """The sentence on top does not praise what an evaluation cannot know."""
    bad = (Check("x", "broken", 1.0, "No."),)
    result = compare(made(), made(checks=bad))
    assert result.headline.startswith("The evaluation after is broken, so this says nothing")
    both = compare(made(checks=bad), made(checks=bad))
    assert "The evaluation before and after is broken" in both.headline


def test_other_balls_are_shown_without_a_difference() -> None:
    """Two radii of one attack: a warning, both values, and neither change nor test."""
    result = compare(made(eps=0.1), made(eps=0.2))
    pgd, worst = result.lines[1], result.lines[-1]
    assert (pgd.before, pgd.after, pgd.change, pgd.paired) == (0.5, 0.5, None, None)
    assert pgd.ball == "L∞ ≤ 0.1 → L∞ ≤ 0.2"
    assert worst.change is None and worst.paired is None
    assert "is 25.0% after, not within the same ball" in result.headline
    notes = " ".join(result.notes)
    assert "Attack pgd had L∞ ≤ 0.1 before and L∞ ≤ 0.2 after" in notes
    assert "The worst cases are not within the same ball" in notes
    page = html.render(made(eps=0.2), made(eps=0.1))
    assert "not to be compared, see below" in page
    assert "The two evaluations differ." in page and "judge both with the same radius" in page
    norms = compare(made(stood={"a": [1, 1, 1, 1]}), made(stood={"b": [1, 1, 1, 1]}, eps=0.3))
    assert norms.lines[-1].change is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 3}, "Not the same seed: 0 before, 3 after."),
        ({"batch_size": 64}, "Not the same batch size: 0 before, 64 after."),
        (
            {"only_survivors": True},
            "every example that was right before, only what earlier attacks had left after",
        ),
        ({"versions": {"artplus": "9"}}, "Not the same artplus: 0.1 before, 9 after."),
        ({"class_names": None}, "Not the same class names"),
    ],
)
def test_evaluations_that_differ_are_warned_of(options: dict[str, Any], words: str) -> None:
    """Whatever makes two evaluations unlike is a note, in every format."""
    before, after = made(), made(**options)
    assert any(words in note for note in compare(before, after).notes)
    assert compare(before, before).notes == ()
    assert words in unescape(html.render(after, before))
    assert words.split(":")[0] in markdown.render(after, before)


def test_every_line_has_its_own_test_in_the_full_table() -> None:
    """Gained and lost of each attack, its ball, and no test where one side is broken."""
    before = made(stood={"pgd": [0, 0, 0, 1], "bad": None, "old": [1, 1, 1, 1]})
    after = made(stood={"pgd": [1, 1, 1, 0], "bad": [1, 1, 1, 1]})
    head, *rows = compare(before, after).table().cells()
    assert head == (
        "accuracy", "before", "after", "change", "ball", "95% interval", "gained", "lost", "p",
    )  # fmt: skip
    cells = {row[0]: row[1:] for row in rows}
    assert cells["pgd"][:4] == ("25.0%", "75.0%", "+50.0 pts", "L∞ ≤ 0.1")
    assert cells["pgd"][5:] == ("3", "1", "0.62")
    assert cells["bad"] == ("–", "100.0%", "–", "L∞ ≤ 0.1", "–", "–", "–", "–")
    assert cells["old"][:3] == ("100.0%", "–", "–")
    losses = compare(made(regression=True), made(regression=True)).table().cells()
    assert losses[0] == ("loss", "before", "after", "change", "ball")


# --- curves -------------------------------------------------------------------------------------


def test_curves_of_both_are_drawn_over_each_other() -> None:
    """Each report's line under its side's name, values untouched, the earlier one dashed."""
    found = shown(chart(line("model", 0.9, 0.2)), chart(line("model", 0.8, 0.6, 0.1)))
    assert isinstance(found, Overlay)
    assert [(s.name, s.x, s.y) for s in found.drawn()[0].series] == [
        ("before", (0.0, 1.0), (0.9, 0.2)),
        ("after", (0.0, 1.0, 2.0), (0.8, 0.6, 0.1)),
    ]
    assert found.drawn()[1] == {0}
    text = html.render(
        made(sections=(section(chart(line("model", 0.8, 0.6))),)),
        made(sections=(section(chart(line("model", 0.9, 0.2))),)),
    )
    tips = [unescape(t) for t in re.findall(r'data-tip="([^"]*)"', text)]
    assert tips == ["before: 90.0%", "before: 20.0%", "after: 80.0%", "after: 60.0%"]
    assert text.count('class="line s0 earlier" d=') == 2  # the line, and its sign in the legend
    assert text.count('class="line s1" d=') == 2


def test_several_things_keep_their_names_and_stand_next_to_each_other() -> None:
    """Lines of one thing are neighbours; what both draw alike, as a diagonal, is drawn once."""
    ideal = line("ideal", 0.0, 1.0)
    found = shown(
        chart(ideal, line("clean", 0.1), line("under attack", 0.2)),
        chart(ideal, line("clean", 0.3), line("under attack", 0.4)),
    )
    assert [(s.name, s.y) for s in found.drawn()[0].series] == [
        ("ideal", (0.0, 1.0)), ("clean, before", (0.1,)), ("clean, after", (0.3,)),
        ("under attack, before", (0.2,)), ("under attack, after", (0.4,)),
    ]  # fmt: skip
    assert found.drawn()[1] == {1, 3}


def test_the_only_thing_that_differs_keeps_its_name() -> None:
    """Beside one that is alike in both, "before" alone tells of what only if it is the model."""
    old, new = chart(line("a", 0.1), line("b", 0.2)), chart(line("a", 0.1), line("b", 0.3))
    assert [s.name for s in shown(old, new).drawn()[0].series] == ["a", "b, before", "b, after"]
    old, new = (
        chart(line("ideal", 1.0), line("model", 0.2)),
        chart(line("ideal", 1.0), line("model", 0.3)),
    )
    assert [s.name for s in shown(old, new).drawn()[0].series] == ["ideal", "before", "after"]


def test_a_report_beside_itself_has_two_lines() -> None:
    """Equal values are no reason to draw one model only."""
    found = shown(chart(line("model", 0.5)), chart(line("model", 0.5)))
    assert [s.name for s in found.drawn()[0].series] == ["before", "after"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"x_label": "L2 radius"}, "“L∞ radius” before, “L2 radius” after"),
        ({"y_label": "loss"}, "“accuracy” before, “loss” after"),
        ({"y_unit": "number"}, "they do not show the same thing"),
        ({"caption": "Example 7"}, "they do not show the same thing"),
    ],
)
def test_what_is_not_of_the_same_is_not_overlaid(options: dict[str, Any], words: str) -> None:
    """Another norm, unit or example: two charts side by side, with the reason."""
    before, after = chart(line("model", 0.5)), chart(line("model", 0.4), **options)
    found = shown(before, after)
    assert isinstance(found, Beside)
    assert (found.before, found.after) == (replace(before, model="before"), after)
    assert words in found.note
    text = unescape(
        html.render(made(sections=(section(after),)), made(sections=(section(before),)))
    )
    assert words in text and text.count('class="plot curves narrow"') == 2


def test_two_lines_of_one_name_are_not_overlaid() -> None:
    """None would be lost in silence: such charts stand side by side."""
    twice = chart(line("model", 0.1), line("model", 0.2))
    assert overlay(twice, twice) is None


def test_many_lines_become_small_charts() -> None:
    """Of each thing one chart with both reports; the table has all of them."""
    names = [f"kind {k} {EVIL}" for k in range(LINES // 2 + 1)]
    before, after = (chart(*(line(n, y, y) for n in names)) for y in (0.9, 0.7))
    (view,) = views_of(of_reports([section(before)], [section(after)]))
    (block,) = view.rows[0].blocks
    assert block.kind == "charts" and block.table is not None
    assert [name for name, _ in block.content] == names
    assert [[key[0] for key in drawing.legend] for _, drawing in block.content] == [
        ["before", "after"]
    ] * len(names)
    assert len(block.table.columns) == 1 + 2 * len(names)


def test_markdown_tables_of_curves_have_few_gaps() -> None:
    """Common positions give one table of both; else each report has its own."""
    before, after = chart(line("model", *[0.5] * 9)), chart(line("model", *[0.4] * 9, start=0.5))
    apart = markdown.render(made(sections=(section(after),)), made(sections=(section(before),)))
    for when in ("before", "after"):
        assert f"**{when}**\n\n| L∞ radius | model |" in apart
    same = chart(line("model", *[0.4] * 9))
    one = markdown.render(made(sections=(section(same),)), made(sections=(section(before),)))
    assert "| L∞ radius | before | after |" in one and "| 3 | 50.0% | 40.0% |" in one


# --- tables -------------------------------------------------------------------------------------


def by_class(*rows: tuple[Any, ...], **options: Any) -> Table:
    return Table(
        **{
            "columns": ("class", "n", "clean", "clean interval", "gap"),
            "units": ("text", "count", "percent", "text", "number"),
            "rows": rows,
            **options,
        }
    )


def test_tables_get_both_columns_and_the_difference() -> None:
    """Rows meet by name, whatever their order; counts that agree are there once."""
    before = by_class(("cat", 7, 0.9, "80–95%", 3.0), ("dog", 9, 0.5, "30–70%", math.inf))
    after = by_class(("dog", 9, 0.75, "60–90%", 1.0), ("cat", 7, 0.8, "70–90%", 2.5))
    view = merged_table(before, after)
    assert view is not None
    assert view.cells() == [
        ("class", "n", "clean, before", "clean, after", "clean, points",
         "gap, before", "gap, after", "gap, change"),
        ("dog", "9", "50.0%\n(30–70%)", "75.0%\n(60–90%)", "+25.0", "∞", "1", "–"),
        ("cat", "7", "90.0%\n(80–95%)", "80.0%\n(70–90%)", "-10.0", "3", "2.5", "-0.5"),
    ]  # fmt: skip
    assert view.heads == (("", 2), ("clean", 3), ("gap", 3))
    assert [view.columns[k].name for k in (0, 2, 4)] == ["class", "before", "points"]
    assert view.starts == {2, 5} and view.note == ""
    keys = [row[4][1] for row in view.rows]
    assert [float(key) for key in keys] == pytest.approx([0.25, -0.1])
    assert view.rows[0][7] == ("–", "")  # from infinity there is no way that has a length


def test_rows_of_one_report_only_have_gaps_that_are_explained() -> None:
    """What the other report does not list is a dash, and not a zero."""
    rows = [("cat", 7, 0.9, "–", 1.0), ("dog", 9, 0.5, "–", 1.0), ("ant", 3, 0.1, "–", 1.0)]
    view = merged_table(by_class(*rows[:2]), by_class(*rows[1:]))
    assert view is not None and "this model's table has no such row" in view.note
    cells = {row[0]: row for row in view.cells()}
    assert cells["ant"][1:3] == ("–", "3") and cells["cat"][1:3] == ("7", "–")
    assert cells["dog"][4:7] == ("50.0%", "50.0%", "0.0")


def test_tables_that_agree_are_shown_once_and_said_so() -> None:
    """Nothing would tell otherwise that both reports are meant."""
    table = by_class(("cat", 7, 0.9, "80–95%", 3.0))
    view = merged_table(table, table)
    assert view is not None and view.note == "The same in both." and view.heads == ()
    assert view.cells()[1] == ("cat", "7", "90.0%\n(80–95%)", "3")


def test_words_that_tell_what_a_row_is_stay_one_column() -> None:
    """The class of an example is the same in both reports, also where only one lists it."""
    options: dict[str, Any] = {
        "columns": ("example", "true", "loss"), "units": ("count", "text", "number"),
    }  # fmt: skip
    old = Table(rows=((1, "cat", 1.0), (2, "dog", 2.0)), **options)
    new = Table(rows=((2, "dog", 3.0), (3, "ant", 4.0)), **options)
    view = merged_table(old, new)
    assert view is not None
    assert [row[:2] for row in view.cells()[1:]] == [("2", "dog"), ("3", "ant"), ("1", "cat")]
    other = merged_table(old, Table(rows=((1, "cat", 1.0), (2, "fox", 2.0)), **options))
    assert other is not None and other.cells()[2] == ("2", "dog", "fox", "2")


def test_tables_that_do_not_fit_stand_one_under_the_other() -> None:
    """Other columns, rows that meet too seldom, or two rows of one name."""
    row = ("cat", 7, 0.9, "–", 1.0)
    table = by_class(row)
    strangers = by_class(*((name, *row[1:]) for name in "abc"))
    for other in (
        by_class(row, columns=("class", "m", "clean", "clean interval", "gap")),
        strangers,
        by_class(row, row),
        by_class(),
    ):
        assert merged_table(table, other) is None and merged_table(other, table) is None
        assert isinstance(shown(table, other), Beside)
    (view,) = views_of(of_reports([section(table)], [section(strangers)]))
    assert len(view.rows[0].blocks) == 2 and not view.rows[0].halves


# --- pictures, points, cells ----------------------------------------------------------------------


def test_tables_of_other_things_are_not_merged_table() -> None:
    """Captions say what a table shows."""
    options: dict[str, Any] = {"columns": ("true class", "examples"), "units": ("text", "count")}
    clean = Table(**options, rows=(("cat", 4),), caption="Confusions without an attack.")
    attacked = Table(**options, rows=(("cat", 9),), caption="Confusions under attack.")
    assert shown(clean, attacked) == Beside(replace(clean, model="before"), attacked)
    later = replace(attacked, rows=(("cat", 7),))
    assert isinstance(shown(attacked, later), Merged)


def test_words_of_one_report_alone_are_not_mixed_with_the_other_s() -> None:
    """Where no value stands before and after no gap would say which of the reports has a row."""
    words = Table(columns=("rule", "why"), units=("text", "text"), rows=(("a", "x"), ("b", "y")))
    assert merged_table(words, replace(words, rows=(("a", "x"), ("c", "z")))) is None
    told = Table(columns=("example", "class"), units=("count", "text"), rows=((1, "x"), (2, "y")))
    assert merged_table(told, replace(told, rows=((1, "x"), (3, "z")))) is None
    same = merged_table(words, words)
    assert same is not None and "The same in both" in same.note


def test_matrices_of_the_same_share_one_scale() -> None:
    """Equal shades mean equal values; where they are not of the same, each has its own, as told."""
    options: dict[str, Any] = {"row_label": "r", "column_label": "c", "rows": ("a",)}
    old = Matrix(columns=("x", "y"), values=((0.0, 4.0),), unit="number", caption="loss", **options)
    new = replace(old, values=((1.0, 9.0),))
    found = shown(old, new)
    assert found.before.span == found.after.span == (0.0, 9.0)
    apart = shown(old, replace(new, caption="Example 3"))
    assert apart.before.span is None and "its own scale" in apart.note


def test_groups_have_the_same_colours_in_both() -> None:
    """A group that one report lacks does not shift the colours of the others."""
    names = ("clean", "right", "wrong")
    groups = tuple(Group(name=name, x=(1.0,), y=(2.0,)) for name in names)
    full = Scatter(x_label="x", y_label="y", groups=groups)
    less = replace(full, groups=(groups[0], groups[2]))
    found = shown(less, full)
    old, new = found.before, found.after
    assert [g.name for g in old.groups] == [g.name for g in new.groups] == list(names)
    assert [len(g.x) for g in old.groups] == [1, 0, 1]
    empty = shown(replace(full, groups=()), full).before
    assert [g.name for g in empty.groups] == list(names) and not any(g.x for g in empty.groups)


def gallery(*titles: str) -> Gallery:
    image = np.zeros((2, 2), dtype=np.float32)
    return Gallery(rows=tuple((Picture(title=title, image=image),) for title in titles))


def titles_of(block: Block | None) -> list[str]:
    assert isinstance(block, Gallery)
    return [row[0].title for row in block.rows]


def test_examples_of_both_galleries_stand_beside_themselves() -> None:
    """Common rows first in one order; rows of one title keep their order."""
    found = shown(gallery("a", "b", "c"), gallery("c", "d", "a"))
    assert titles_of(found.before) == ["c", "a", "b"]
    assert titles_of(found.after) == ["c", "a", "d"]
    assert "come first" in found.note
    few = shown(gallery("a", "b", "c"), gallery("d", "e", "c"))
    assert titles_of(few.after) == ["c", "d", "e"] and "come first" in few.note
    assert shown(gallery("a"), gallery("b")).note == "Each shows its own examples."
    assert titles_of(shown(gallery("a", "a"), gallery("a", "b")).before) == ["a", "a"]


def test_examples_of_both_reports_are_paired_on_the_page() -> None:
    """The same example before and after first, under a word of its own."""
    kept = examples((1, 6, 6))
    other = replace(kept, index=np.array([2, 7, 9]))
    text = html.render(made(examples=other), made(examples=kept))
    numbers = re.findall(r"example (\d+)</span>", text)
    assert numbers == ["2", "2", "7", "7", "5", "9"]
    assert text.index("The same examples") < text.index("Examples that only one of the reports has")
    assert "A look at examples" not in html.render(made(examples=None), made(examples=None))
    lone = html.render(made(examples=kept), made(examples=None))
    assert re.findall(r"example (\d+)</span>", lone) == ["2", "5", "7"]


# --- sections -----------------------------------------------------------------------------------


def test_a_section_of_one_report_is_said_so() -> None:
    """It is shown whole, and not beside a hole."""
    one = made(sections=sections())
    for after, before, when in ((one, made(), "after"), (made(), one, "before")):
        text = html.render(after, before)
        assert text.count(f"Only the report {when} holds this section") == 6
        assert text.count('class="plot curves"') == 1 and "no such block" not in text
        told = markdown.render(after, before)
        assert told.count(f"Only the report {when} holds this section.") == 6


def test_blocks_of_one_report_leave_a_word() -> None:
    """Where one report's section has a block more, the other side says so."""
    before, after = section(gallery("a")), section(gallery("a"), chart(line("model", 0.5)))
    (pair,) = of_reports([before], [after])
    word = "There is no such block of the model before."
    assert pair.shown[1] == Beside(None, after.blocks[1], word)
    text = html.render(made(sections=(after,)), made(sections=(before,)))
    assert text.count(word) == 1
    assert word.replace("before", "after") in markdown.render(
        made(sections=(before,)), made(sections=(after,))
    )


def test_sections_asked_under_other_settings_are_warned_of() -> None:
    """Each setting that differs is named with both values; older reports go by their notes."""
    old = section(settings=(("n", "64"), ("steps", "10"), ("seed of the report", "0")))
    new = section(settings=(("n", "256"), ("steps", "10"), ("seed of the report", "1")))
    (pair,) = of_reports([old], [new])
    assert pair.warnings == ("n: 64 before, 256 after.",)
    assert of_reports([old], [old])[0].warnings == ()
    text = html.render(made(sections=(new,)), made(sections=(old,)))
    assert "Different settings." in text and "n: 64 before, 256 after." in text
    assert "n: 64 before, 256 after." in markdown.render(
        made(sections=(new,)), made(sections=(old,))
    )
    (older,) = of_reports([section(notes=("n 64",))], [section(notes=("n 256",))])
    assert older.warnings and "notes" in older.warnings[0]
    assert of_reports([section(notes=("same",))], [section(notes=("same",))])[0].warnings == ()


def test_words_that_are_data_name_no_model() -> None:
    """A text may well hold the tokens “before” and “after”."""
    tokens = Table(
        columns=("token", "times"), units=("text", "count"),
        rows=(("before", 3), ("after", 2), ("film", 9)),
    )  # fmt: skip
    (pair,) = of_reports([section(tokens)], [section(tokens)])
    assert isinstance(pair.shown[0], Merged) and pair.notes == ()
    assert pair.shown[0].view.cells()[1:] == [("before", "3"), ("after", "2"), ("film", "9")]


def of_models(*blocks: Block) -> Section:
    """The blocks as they are, after a copy of each with other values of the model before."""
    image = np.ones((2, 2), dtype=np.float32)
    old = [
        replace(block, series=tuple(replace(n, y=(0.1,) * len(n.y)) for n in block.series))
        if isinstance(block, Curves)
        else replace(block, rows=tuple((row[0], 1.0) for row in block.rows))
        if isinstance(block, Table)
        else Gallery(rows=((Picture(title="old", image=image),),), caption=block.caption)
        for block in blocks
    ]
    return section(*(replace(block, model="before") for block in old), *blocks)


def test_an_earlier_model_inside_a_report_is_left_out_with_a_word() -> None:
    """A report that measured two models gives its own."""
    table = Table(
        columns=("model", "v"), units=("text", "number"), rows=(("all", 2.0), ("class 0", 3.0))
    )
    both = of_models(chart(line("model", 0.2)), table, gallery("b"))
    single = section(
        chart(line("model", 0.5)), replace(table, rows=(("all", 4.0), ("class 0", 5.0))),
        gallery("b"),
    )  # fmt: skip
    (pair,) = of_reports([single], [both])
    curves, merged, pictures = pair.shown
    assert [(s.name, s.y) for s in curves.drawn()[0].series] == [
        ("before", (0.5,)),
        ("after", (0.2,)),
    ]
    assert isinstance(merged, Merged)
    assert merged.view.cells()[1:] == [("all", "4", "2", "-2"), ("class 0", "5", "3", "-2")]
    assert titles_of(pictures.before) == titles_of(pictures.after) == ["b"]
    assert pair.notes == (
        ("", "The report after also measured an earlier model, which is left out here."),
    )
    innocent = section(chart(line("before lunch", 0.1)), gallery("before"))
    assert of_reports([innocent], [innocent])[0].notes == ()


def test_a_report_with_two_models_shows_them_as_two_reports_are_shown() -> None:
    """One chart, one table, and halves; a block of the judged model alone says so."""
    table = Table(columns=("model", "v"), units=("text", "number"), rows=(("all", 2.0),))
    both = of_models(chart(line("model", 0.2)), table, gallery("b"))
    curves, merged, pictures, lone = stacked((*both.blocks, replace(table, caption="Alone.")))
    assert isinstance(curves, Overlay) and curves.drawn()[1] == {0}
    assert [s.name for s in curves.drawn()[0].series] == ["before", "after"]
    assert isinstance(merged, Merged) and merged.view.cells()[1] == ("all", "1", "2", "+1")
    assert isinstance(pictures, Beside) and titles_of(pictures.before) == ["old"]
    assert isinstance(lone, Beside) and lone.before is None and lone.note
    text = html.render(made(sections=(both,)))
    assert text.count(' earlier" d=') == 2 and text.count('class="beside"') == 1
    assert "| all | 1 | 2 | +1 |" in markdown.render(made(sections=(both,)))


# --- pages --------------------------------------------------------------------------------------


def pair_with_everything() -> tuple[Report, Report]:
    kinds = sections()
    others = tuple(replace(s, notes=(f"other {EVIL}",), summary=f"Otherwise {EVIL}") for s in kinds)
    return made(sections=kinds, model=f"Old {EVIL}"), made(sections=others)


def test_page_of_two_reports_escapes_and_is_well_formed() -> None:
    """Hostile names stay text; ids are unique, links lead somewhere, nothing is fetched."""
    before, after = pair_with_everything()
    text = html.render(after, before)
    assert "<script>alert" not in text and text.count("<script>") == 1
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]+)"', text)) <= set(ids)
    assert not re.findall(r'(?:src|href)="(?!data:|#)', text)
    levels = [int(level) for level in re.findall(r"<h([1-6])[ >]", text)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    images = re.findall(r"<img [^>]*>", text)
    assert images and all(re.search(r'alt="[^"]+"', image) for image in images)
    assert "Old &lt;script" in text and "→" in text


def test_markdown_of_two_reports_has_the_same_facts_and_no_markup() -> None:
    """Headline, tables, warnings and how to repeat both; names cannot break a table."""
    before, after = pair_with_everything()
    text = markdown.render(after, before)
    assert "<" not in text
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        widths = {len(re.findall(r"(?<!\\)\|", row)) for row in block.strip().splitlines()}
        assert len(widths) == 1
    result = compare(before, after)
    assert section_words(result.headline) in section_words(text)
    assert "## To repeat it" in text and "| setting | before | after |" in text
    assert "does not count" in text


def section_words(text: str) -> str:
    """Letters and digits alone, past every escape."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def test_a_comparison_read_back_is_the_same(tmp_path: Path) -> None:
    """Settings of sections survive JSON, and so does the page made of it."""
    given = section(chart(line("model", 0.5)), settings=(("n", "64"), ("note", EVIL)))
    report = made(sections=(given,))
    back = read(report.save(tmp_path / "r.json"))
    assert back.sections[0].settings == given.settings
    old = made()
    assert html.render(back, old) == html.render(report, old)
    page = save(report, tmp_path / "c.html", before=back)
    assert page.read_text("utf-8") == html.render(report, back)


def test_regressions_compare_by_their_losses() -> None:
    """No accuracies, tests or points; bars share an axis that holds both."""
    before = made(regression=True, stood={"pgd": [8, 8, 8, 8]}, sections=sections())
    after = made(regression=True, stood={"pgd": [1, 1, 1, 1]}, sections=sections())
    text = html.render(after, before)
    assert "Mean loss under each attack" in text and "McNemar" not in text
    assert "Worst-case loss fell by 7, from 9 to 2" in text
    widths = [
        float(w) for w in re.findall(r'class="bar before worst" style="width:([\d.]+)%', text)
    ]
    assert widths == [100.0]
    assert 'class="up">-7' in re.sub(r'class=" up"', 'class="up"', text)
    assert "loss | before | after" in markdown.render(after, before)


def test_a_loss_that_is_not_finite_has_no_change_and_no_colour() -> None:
    """Infinity less infinity is nothing, and from infinity to 9 is no standstill."""
    wild, tame = (
        made(regression=True, stood={"pgd": [loss] * 4}, sections=()) for loss in (math.inf, 8)
    )
    assert "Worst-case loss was inf before and is 9 after" in compare(wild, tame).headline
    assert "Worst-case loss was inf before and is inf after" in compare(wild, wild).headline
    assert not re.search(r'class="[^"]*(up|down)"', html.render(wild, wild))
    for page in (html.render(wild), html.render(wild, tame)):
        assert 'data-key="1e999"' in page and 'data-key="inf"' not in page
